"""Which windows of a recording are for what, and the scaling of its channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from schemas.manifest import Scaling
from schemas.records import Floats

#: A channel's scale is at least this share of what is usual for it in the cohort, so that a channel which happens to
#: stand still on one device does not turn its first small move into the largest deviation of all.
LEAST_SHARE = 0.01
#: Distance between the 5 % and the 95 % quantile of a normal distribution, in standard deviations.
_Q90 = 3.29

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def held_out(starts: npt.NDArray[np.int64], readings: int, rows: int) -> tuple[Flags, Flags]:
    """Which windows are for fitting and which for thresholds.

    The recording is cut into 16 parts; every fourth is held out. Windows that reach from one kind into the other are
    for neither, so no reading is in both.
    """
    low, high = part_of(starts, rows), part_of(starts + readings - 1, rows)
    return np.asarray((high + 1) // 4 == low // 4), np.asarray((low == high) & (low % 4 == 3))


def part_of(numbers: npt.NDArray[np.int64], rows: int) -> npt.NDArray[np.int64]:
    """Which of the 16 parts of a recording each row number is in; parts 3, 7, 11 and 15 are held out."""
    return numbers * 16 // max(rows, 1)


@dataclass(slots=True)
class Sample:
    """Rows of a device to read a scaling off: one in `every`, and the spread of all of them.

    So a channel that stands still but for a few rows which the sample misses is still known to move.
    """

    every: int = 1
    count: int = 0
    mean: Doubles = field(default_factory=lambda: np.zeros(1))
    m2: Doubles = field(default_factory=lambda: np.zeros(1))
    _kept: list[Floats] = field(default_factory=list)

    def add(self, rows: Floats) -> None:
        """Take in float32[n, c], finite; merged as in Chan, Golub & LeVeque (1979)."""
        if not len(rows):
            return
        self._kept.append(rows[-self.count % self.every :: self.every].copy())
        wide = rows.astype(np.float64)
        mean = wide.mean(axis=0)
        total, delta = self.count + len(rows), mean - self.mean
        self.m2 = self.m2 + np.square(wide - mean).sum(axis=0) + np.square(delta) * (self.count * len(rows) / total)
        self.mean = self.mean + delta * (len(rows) / total)
        self.count = total

    @property
    def rows(self) -> Floats:
        """What was kept, float32[n, c]."""
        self._kept = [np.concatenate(self._kept)]
        return self._kept[0]

    @property
    def std(self) -> Doubles:
        """Of every row taken in, float64[c]."""
        return np.sqrt(self.m2 / max(self.count, 1))


def scaling_of(groups: Sequence[Sample]) -> tuple[Scaling, list[Scaling]]:
    """Robust scaling of the whole cohort and of each of its devices; each sample has rows.

    Centre is the median; scale is the spread of the middle 90 %, but at least half the standard deviation (a channel
    that stands still most of the time still moves) and LEAST_SHARE of what is usual in the cohort. A channel that
    never moves anywhere is left in its own unit.
    """
    raw = [_raw_scale(group.rows, group.std) for group in groups]
    usual = np.median(np.stack(raw), axis=0)
    everything = Sample()
    for group in groups:
        everything.add(group.rows)
    floor = LEAST_SHARE * np.where(usual > 0, usual, np.max(np.stack(raw), axis=0))
    return _scaling(everything.rows, _raw_scale(everything.rows, everything.std), floor), [
        _scaling(group.rows, scale, floor) for group, scale in zip(groups, raw, strict=True)
    ]


def _raw_scale(rows: Floats, std: Doubles) -> Doubles:
    low, high = np.quantile(rows.astype(np.float64), [0.05, 0.95], axis=0)
    return np.asarray(np.maximum((high - low) / _Q90, std / 2), np.float64)


def _scaling(rows: Floats, raw: Doubles, floor: Doubles) -> Scaling:
    scale = np.maximum(raw, floor)
    scale = np.where(scale > 1e-30, scale, 1.0)
    centre = np.median(rows.astype(np.float64), axis=0)
    # six digits of a level that is large against its own spread would move it by scales: there it keeps all it has
    coarse = np.abs(np.array(rounded(centre)) - centre) > 1e-3 * scale
    return Scaling(
        centre=[float(c) if exact else r for c, r, exact in zip(centre, rounded(centre), coarse, strict=True)],
        scale=rounded(scale),
    )


def rounded(values: npt.NDArray[np.floating]) -> list[float]:
    """Six significant digits: enough for a scale, and the same on machines that differ in the last bit."""
    return [float(f"{value:.6g}") for value in np.asarray(values, np.float64).ravel()]
