"""What a recording holds, as far as a new site needs it: devices, channels, where they lie and how they spread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from schemas.container import read
from schemas.errors import DecodeError
from schemas.records import SensorBlock


@dataclass(frozen=True, slots=True)
class Survey:
    """`centre`, `scale`: mean and standard deviation per channel over everything; 1 where a channel is constant."""

    devices: list[str]
    cohort: str
    channels: list[str]
    readings: int
    centre: list[float]
    scale: list[float]


def survey(path: Path) -> Survey:
    """Read a recording once, block by block. Raises DecodeError: it is none, is damaged, or its channels change."""
    devices: dict[str, None] = {}
    channels: list[str] = []
    cohort = ""
    readings = 0
    zero: npt.NDArray[np.float64] = np.zeros(0)
    count = total = squares = zero
    try:
        with path.open("rb") as file:
            for block in read(file, SensorBlock):
                assert isinstance(block, SensorBlock)
                devices.setdefault(block.device_id)
                values = block.matrix.astype(np.float64)
                if not channels:
                    channels, cohort = list(block.channels), block.cohort
                    first = np.where(np.isfinite(values[:1]), values[:1], 0.0).sum(axis=0)
                    count, total, squares = (np.zeros(len(channels)) for _ in range(3))
                if list(block.channels) != channels:
                    raise DecodeError("the channels change within the recording", first=channels, then=block.channels)
                readings += len(values)
                finite = np.isfinite(values)
                moved = np.where(finite, values - first, 0.0)  # sums about a value of their own size keep their digits
                count, total = count + finite.sum(axis=0), total + moved.sum(axis=0)
                squares = squares + (moved**2).sum(axis=0)
    except DecodeError as wrong:
        raise DecodeError(wrong.problem, fix=wrong.fix, **({"recording": str(path)} | wrong.where)) from wrong
    except OSError as cause:
        raise DecodeError("the recording cannot be read", recording=str(path), cause=cause.strerror) from cause
    if not readings:
        raise DecodeError("the recording is empty", recording=str(path))
    many = np.maximum(count, 1)
    mean = total / many
    spread = np.sqrt(np.maximum(squares / many - mean**2, 0.0))
    centre = first + mean
    spread = np.where(spread > np.abs(centre) * 1e-6, spread, 1.0)
    return Survey(list(devices), cohort, channels, readings, centre.tolist(), spread.tolist())
