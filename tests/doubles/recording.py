"""Recordings for tests, written as the product writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from schemas.container import ContainerWriter
from schemas.records import SensorBlock

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
