"""Recordings for tests, written as the product writes them, and read back whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_filters.io.sensors import recorded_blocks
from schemas.container import ContainerWriter
from schemas.records import Floats, SensorBlock, Times

T0 = 1_700_000_000_000_000


def write(
    path: Path,
    values: Sequence[float],
    *,
    device_id: str = "pump-7",
    times: Sequence[int] | None = None,
    step_us: int = 1_000_000,
    channels: Sequence[str] = ("a", "b"),
    per_block: int = 10,
    append: Sequence[SensorBlock] = (),
) -> Path:
    """A recording in which every channel has these values; a row a second unless times (microseconds) are given."""
    at = np.array(times, "<i8") if times is not None else np.arange(len(values), dtype="<i8") * step_us + T0
    rows = np.repeat(np.array(values, "<f4")[:, None], len(channels), axis=1)
    with path.open("wb") as file:
        writer = ContainerWriter(file, SensorBlock, codec="null")
        for start in range(0, len(values), per_block):
            writer.write(
                SensorBlock(
                    device_id=device_id,
                    boot_epoch=1,
                    seq=start // per_block,
                    cohort="pumps",
                    channels=list(channels),
                    event_times=at[start : start + per_block].tobytes(),
                    values=rows[start : start + per_block].tobytes(),
                )
            )
        for block in append:
            writer.write(block)
        writer.close()
    return path


@dataclass(frozen=True)
class Series:
    """The readings of the one device of a recording, in file order; `labels` None: it has none.

    `times` int64[n], microseconds; `values` float32[n, c]; `labels` uint8[n].
    """

    device_id: str
    cohort: str
    channels: tuple[str, ...]
    times: Times
    values: Floats
    labels: npt.NDArray[np.uint8] | None


def read_series(path: Path) -> Series:
    blocks = list(recorded_blocks(path))
    labels = [block.labels for block in blocks if block.labels is not None]
    return Series(
        device_id=blocks[0].device_id,
        cohort=blocks[0].cohort,
        channels=tuple(blocks[0].channels),
        times=np.concatenate([block.times for block in blocks]),
        values=np.concatenate([block.matrix for block in blocks]),
        labels=np.frombuffer(b"".join(labels), np.uint8) if len(labels) == len(blocks) else None,
    )
