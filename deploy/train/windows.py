"""Recordings to windows, and the scaling of their channels."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from schemas.container import read
from schemas.errors import ConfigError, DecodeError
from schemas.manifest import Scaling
from schemas.records import Floats, SensorBlock, Times

#: A step in event time above this many usual steps, or below zero, ends a stretch: a window never reaches across it.
MAX_GAP_STEPS = 5
#: A channel's scale is at least this share of what is usual for it in the cohort, so that a channel which happens to
#: stand still on one device does not turn its first small move into the largest deviation of all.
LEAST_SHARE = 0.01
#: Distance between the 5 % and the 95 % quantile of a normal distribution, in standard deviations.
_Q90 = 3.29

Flags = npt.NDArray[np.bool_]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Series:
    """The readings of one device from one recording, in file order.

    `values` float32[n, c]; `labels` uint8[n], or None where the recording has none; `sha256` of the file.
    """

    device_id: str
    cohort: str
    channels: tuple[str, ...]
    times: Times
    values: Floats
    labels: npt.NDArray[np.uint8] | None
    sha256: str


def read_series(path: Path) -> Series:
    """A whole recording.

    Raises:
        ConfigError: there is no such file.
        DecodeError: it is damaged, empty, or holds more than one device or set of channels.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with path.open("rb") as file:
            blocks = [block for block in read(file, SensorBlock) if isinstance(block, SensorBlock)]
    except OSError as cause:
        raise ConfigError("the recording cannot be read", file=str(path), cause=cause.strerror) from None
    except DecodeError as wrong:
        raise DecodeError(
            f"the recording is damaged: {wrong.problem}", fix=wrong.fix, **({"file": str(path)} | wrong.where)
        ) from wrong
    if not blocks:
        raise DecodeError("the recording holds no readings", file=str(path))
    first = blocks[0]
    for number, block in enumerate(blocks):
        if (block.device_id, block.cohort, block.channels) != (first.device_id, first.cohort, first.channels):
            raise DecodeError(
                "the recording holds more than one device or set of channels", file=str(path), record=number
            )
    labelled = all(block.labels is not None for block in blocks)
    return Series(
        device_id=first.device_id,
        cohort=first.cohort,
        channels=tuple(first.channels),
        times=np.concatenate([block.times for block in blocks]),
        values=np.concatenate([block.matrix for block in blocks]),
        labels=np.frombuffer(b"".join(block.labels or b"" for block in blocks), np.uint8) if labelled else None,
        sha256=digest,
    )


def stretches(series: Series) -> list[slice]:
    """Rows without a jump back or a gap between them, as slices in order."""
    steps = np.diff(series.times)
    forward = steps[steps > 0]
    usual = np.median(forward) if len(forward) else 0
    cuts = np.flatnonzero((steps < 0) | (steps > MAX_GAP_STEPS * usual)) + 1
    edges = [0, *cuts.tolist(), len(series.times)]
    return [slice(low, high) for low, high in itertools.pairwise(edges)]


def window_starts(series: Series, readings: int, stride: int) -> npt.NDArray[np.int64]:
    """First row of each window of `readings` rows, all finite and within one stretch."""
    finite = np.asarray(np.isfinite(series.values).all(axis=1))
    found: list[int] = []
    for part in stretches(series):
        starts = range(part.start, part.stop - readings + 1, stride)
        found += [at for at in starts if finite[at : at + readings].all()]
    return np.array(found, np.int64)


def cut_windows(values: npt.NDArray[T], starts: npt.NDArray[np.int64], readings: int) -> npt.NDArray[T]:
    """Rows [start, start + readings) for each start: [n, ...] to [len(starts), readings, ...]."""
    return np.asarray(values[starts[:, None] + np.arange(readings)])


def held_out(starts: npt.NDArray[np.int64], readings: int, rows: int) -> tuple[Flags, Flags]:
    """Which windows are for fitting and which for thresholds.

    The recording is cut into 16 parts; every fourth is held out. Windows that reach from one kind into the other are
    for neither, so no reading is in both.
    """
    held = np.arange(rows) * 16 // max(rows, 1) % 4 == 3
    before = np.concatenate([[0], np.cumsum(held)])
    inside = before[starts + readings] - before[starts]
    return np.asarray(inside == 0), np.asarray(inside == readings)


def scaling_of(groups: Sequence[Floats]) -> tuple[Scaling, list[Scaling]]:
    """Robust scaling of the whole cohort and of each of its devices; rows float32[n, c], finite, n >= 1.

    Centre is the median; scale is the spread of the middle 90 %, but at least half the standard deviation (a channel
    that stands still most of the time still moves) and LEAST_SHARE of what is usual in the cohort. A channel that
    never moves anywhere is left in its own unit.
    """
    raw = [_raw_scale(rows) for rows in groups]
    usual = np.median(np.stack(raw), axis=0)
    together = np.concatenate(list(groups))
    floor = LEAST_SHARE * np.where(usual > 0, usual, np.max(np.stack(raw), axis=0))
    return _scaling(together, _raw_scale(together), floor), [
        _scaling(rows, scale, floor) for rows, scale in zip(groups, raw, strict=True)
    ]


def _raw_scale(rows: Floats) -> npt.NDArray[np.float64]:
    wide = rows.astype(np.float64)
    low, high = np.quantile(wide, [0.05, 0.95], axis=0)
    return np.asarray(np.maximum((high - low) / _Q90, wide.std(axis=0) / 2), np.float64)


def _scaling(rows: Floats, raw: npt.NDArray[np.float64], floor: npt.NDArray[np.float64]) -> Scaling:
    scale = np.maximum(raw, floor)
    scale = np.where(scale > 1e-30, scale, 1.0)
    centre = np.median(rows.astype(np.float64), axis=0)
    return Scaling(centre=rounded(centre), scale=rounded(scale))


def rounded(values: npt.NDArray[np.floating]) -> list[float]:
    """Six significant digits: enough for a scale, and the same on machines that differ in the last bit."""
    return [float(f"{value:.6g}") for value in np.asarray(values, np.float64).ravel()]
