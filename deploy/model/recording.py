"""Recordings as streams of windows, cut exactly as an edge cuts them, and as a bounded sample of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_filters.blocks import Window
from edge_filters.windower import Windower
from schemas.container import read
from schemas.errors import ConfigError, DecodeError
from schemas.manifest import Scaling
from schemas.records import Floats, SensorBlock, Times

#: Rows that scaling is read off; of a longer recording every second, fourth, … row is taken.
SAMPLE_ROWS = 200_000
#: Distance between the 5 % and the 95 % quantile of a normal distribution, in standard deviations.
_Q90 = 3.29


@dataclass(frozen=True, slots=True)
class Shape:
    """What the first block of a recording tells. `rate_hz`: readings per second; None where one time tells nothing."""

    channels: tuple[str, ...]
    cohort: str
    rate_hz: float | None


def blocks(path: Path) -> Iterator[SensorBlock]:
    """Blocks of a recording. Raises ConfigError: no such file. DecodeError: it is damaged, with the file's name."""
    try:
        with path.open("rb") as file:
            for record in read(file, SensorBlock):
                assert isinstance(record, SensorBlock)
                yield record
    except OSError as cause:
        raise ConfigError("the recording cannot be read", file=str(path), cause=cause.strerror) from None
    except DecodeError as wrong:
        raise DecodeError(wrong.problem, fix=wrong.fix, **({"file": str(path)} | wrong.where)) from wrong


def shape_of(paths: Sequence[Path]) -> Shape:
    """Shape of recordings that belong together. Raises ConfigError: one is empty, or their channels differ."""
    found: Shape | None = None
    for path in paths:
        first = next(blocks(path), None)
        if first is None:
            raise ConfigError("the recording holds no block", file=str(path))
        if found is None:
            found = Shape(tuple(first.channels), first.cohort, rate_hz(first.times))
        elif found.channels != tuple(first.channels):
            raise ConfigError("recordings have different channels", file=str(path), want=found.channels)
    assert found is not None
    return found


def rate_hz(times: Times) -> float | None:
    """Readings per second: one by the median step; where nothing is missing by the mean one, which no rounding shifts.

    >>> rate_hz(np.array([0, 62, 125, 187, 250]))
    16000.0
    """
    steps = np.diff(times)
    forward = steps[steps > 0]
    if not len(forward):
        return None
    usual, mean = float(np.median(forward)), float(steps.mean())
    return 1e6 / (mean if 0.98 * usual <= mean <= 1.02 * usual else usual)


def windows(path: Path, window_readings: int, channels: Sequence[str]) -> Iterator[tuple[str, Window]]:
    """Device and window, as the edge would score them: whole ones, of finite readings.

    Raises ConfigError: a block has other channels.
    """
    windowers: dict[str, Windower] = {}
    for block in blocks(path):
        if list(block.channels) != list(channels):
            raise ConfigError(
                "the recording does not fit the model",
                file=str(path),
                channels=block.channels,
                want=list(channels),
                fix="a model takes exactly the channels of its devices, in their order",
            )
        windower = windowers.setdefault(block.device_id, Windower(window_readings, 2**62))
        finite = np.asarray(np.isfinite(block.matrix).all(axis=1))
        if not finite.any():
            continue
        for window in windower.take(block.times[finite], block.matrix[finite]):
            if len(window.times) == window_readings:
                yield block.device_id, window


def scaling_from(paths: Sequence[Path]) -> Scaling:
    """Median and spread of each channel: that of the middle 90 %, but at least half the standard deviation.

    A channel that never moves keeps its unit. Raises ConfigError: no row is finite.
    """
    rows = _sample(paths)
    if not len(rows):
        raise ConfigError("no reading of the recordings is finite in all channels", files=[str(p) for p in paths])
    wide = rows.astype(np.float64)
    low, high = np.quantile(wide, [0.05, 0.95], axis=0)
    scale = np.maximum((high - low) / _Q90, wide.std(axis=0) / 2)
    scale = np.where(scale > 1e-30, scale, 1.0)
    return Scaling(centre=rounded(np.median(wide, axis=0)), scale=rounded(scale))


def _sample(paths: Sequence[Path]) -> Floats:
    kept: list[Floats] = []
    count = offset = 0
    stride = 1
    for path in paths:
        for block in blocks(path):
            finite = block.matrix[np.isfinite(block.matrix).all(axis=1)]
            taken = finite[(-offset) % stride :: stride]
            offset += len(finite)
            kept.append(taken)
            count += len(taken)
            if count > 2 * SAMPLE_ROWS:
                kept = [np.concatenate(kept)[::2]]
                count = len(kept[0])
                stride *= 2
    return np.concatenate(kept) if kept else np.empty((0, 0), np.float32)


def rounded(values: Sequence[float] | np.ndarray, digits: int = 6) -> list[float]:
    """Six significant digits: enough for a scale, and the same on machines that differ in the last bit."""
    return [float(f"{value:.{digits}g}") for value in np.asarray(values, np.float64).ravel()]


def sha256_of(path: Path) -> str:
    """Hash of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
