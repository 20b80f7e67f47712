"""Mergeable statistics of many channels: what an aggregate carries instead of its readings.

Counts, minimum, maximum and histogram merge exactly and in any order. Mean and m2 (sum of squared deviations) merge
by the pairwise update of Chan, Golub & LeVeque (1979), exact up to float64 rounding. Quantiles come from a histogram
with bins of constant relative width, as in DDSketch (Masson, Rim & Lee, VLDB 2019): a quantile is off by at most
RELATIVE_ERROR of its own value, and merging loses nothing, unlike a sampled sketch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.records import EdgeAggregate, Floats

RELATIVE_ERROR = 0.01
_GAMMA_LOG = math.log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))
#: Bin numbers keep the order of the values: 0 is zero, positive values have bins from 1, negative ones mirror them.
_OFFSET = 5000
_SMALLEST = 1e-38
_MAX_BIN = 2 * _OFFSET
_SPAN = 2 * _MAX_BIN + 1

Doubles = npt.NDArray[np.float64]
Bins = npt.NDArray[np.int64]  # [k, 3]: channel, bin, count; sorted by channel, then bin


def bin_of(values: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Bin number of each finite value."""
    magnitude = np.abs(values.astype(np.float64))
    nonzero = magnitude >= _SMALLEST
    index = np.ceil(np.log(np.where(nonzero, magnitude, 1.0)) / _GAMMA_LOG) + _OFFSET
    signed = np.sign(values).astype(np.int64) * np.clip(index, 1, _MAX_BIN).astype(np.int64)
    return np.where(nonzero, signed, 0)


def value_of(bins: npt.NDArray[np.int64]) -> Doubles:
    """Middle of each bin: the value that is at most RELATIVE_ERROR away from everything in it."""
    magnitude = 2.0 * np.exp((np.abs(bins) - _OFFSET) * _GAMMA_LOG) / (math.exp(_GAMMA_LOG) + 1.0)
    return np.where(bins == 0, 0.0, np.sign(bins) * magnitude)


@dataclass(frozen=True, slots=True)
class Sketch:
    """Statistics of `readings` finite rows of c channels; `invalid` rows were left out. Empty: readings = 0."""

    readings: int
    invalid: int
    mean: Doubles
    m2: Doubles
    min: Floats
    max: Floats
    bins: Bins

    @classmethod
    def empty(cls, channels: int) -> Sketch:
        """Identity of `merge`."""
        zero = np.zeros(channels)
        top = np.full(channels, np.inf, np.float32)
        return cls(0, 0, zero, zero, top, -top, np.empty((0, 3), np.int64))

    @classmethod
    def of(cls, rows: Floats) -> Sketch:
        """Sketch of float32[n, c]. Rows with a value that is not finite are counted in `invalid` and left out."""
        finite = np.isfinite(rows).all(axis=1)
        invalid = int(len(rows) - np.count_nonzero(finite))
        good = rows[finite] if invalid else rows
        channels = rows.shape[1]
        if not len(good):
            blank = cls.empty(channels)
            return cls(0, invalid, blank.mean, blank.m2, blank.min, blank.max, blank.bins)
        wide = good.astype(np.float64)
        mean = wide.mean(axis=0)
        m2 = np.square(wide - mean).sum(axis=0)
        keys = (np.arange(channels) * _SPAN + (bin_of(good) + _MAX_BIN)).ravel()
        return cls(len(good), invalid, mean, m2, good.min(axis=0), good.max(axis=0), _count(keys))

    def merge(self, other: Sketch) -> Sketch:
        """Sketch of both sets of rows together."""
        if not other.readings or not self.readings:
            full, blank = (self, other) if self.readings else (other, self)
            return Sketch(
                full.readings, full.invalid + blank.invalid, full.mean, full.m2, full.min, full.max, full.bins
            )
        n = self.readings + other.readings
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.readings / n)
        m2 = self.m2 + other.m2 + np.square(delta) * (self.readings * other.readings / n)
        keys = np.concatenate([_keys(self.bins), _keys(other.bins)])
        counts = np.concatenate([self.bins[:, 2], other.bins[:, 2]])
        return Sketch(
            n,
            self.invalid + other.invalid,
            mean,
            m2,
            np.minimum(self.min, other.min),
            np.maximum(self.max, other.max),
            _count(keys, counts),
        )

    @property
    def stddev(self) -> Doubles:
        """Population standard deviation per channel; 0 where empty."""
        return np.sqrt(self.m2 / max(self.readings, 1))

    def quantile(self, q: float) -> Doubles:
        """The q-quantile (0..1, nearest rank) per channel, within RELATIVE_ERROR of the true one. NaN where empty."""
        out = np.full(len(self.mean), np.nan)
        if not self.readings:
            return out
        rank = max(1, math.ceil(q * self.readings))
        for channel in range(len(out)):
            rows = self.bins[self.bins[:, 0] == channel]
            at = int(np.searchsorted(np.cumsum(rows[:, 2]), rank))
            middle = value_of(rows[at : at + 1, 1])[0]
            out[channel] = min(max(middle, float(self.min[channel])), float(self.max[channel]))
        return out

    def fields(self) -> dict[str, object]:
        """The statistics as an EdgeAggregate carries them."""
        return {
            "readings": self.readings,
            "invalid": self.invalid,
            "mean": self.mean.astype("<f8").tobytes(),
            "m2": self.m2.astype("<f8").tobytes(),
            "min": self.min.astype("<f4").tobytes(),
            "max": self.max.astype("<f4").tobytes(),
            "bins": self.bins.astype("<i4").tobytes(),
        }

    @classmethod
    def from_aggregate(cls, record: EdgeAggregate) -> Sketch:
        """Statistics of a record.

        Raises ValueError: the histogram names a channel or a bin that does not exist, does not add up to the
        readings, or is not sorted; or a mean or m2 is not finite.
        """
        channels = len(record.channels)
        bins = np.frombuffer(record.bins, "<i4").reshape(-1, 3).astype(np.int64)
        mean, m2 = np.frombuffer(record.mean, "<f8"), np.frombuffer(record.m2, "<f8")
        keys = _keys(bins)
        if len(bins) and (
            bins[:, 0].min() < 0
            or bins[:, 0].max() >= channels
            or np.abs(bins[:, 1]).max() > _MAX_BIN
            or bins[:, 2].min() < 1
            or (np.diff(keys) <= 0).any()
        ):
            raise ValueError("the histogram has a bin that cannot be")
        if (np.bincount(bins[:, 0], bins[:, 2], channels) != record.readings).any():
            raise ValueError(f"the histogram does not add up to {record.readings} readings per channel")
        if not (np.isfinite(mean).all() and np.isfinite(m2).all() and (m2 >= 0).all()):
            raise ValueError("mean and m2 must be finite, and m2 not negative")
        low, high = np.frombuffer(record.min, "<f4"), np.frombuffer(record.max, "<f4")
        return cls(record.readings, record.invalid, mean, m2, low, high, bins)


def _keys(bins: Bins) -> npt.NDArray[np.int64]:
    return np.asarray(bins[:, 0] * _SPAN + (bins[:, 1] + _MAX_BIN), np.int64)


def _count(keys: npt.NDArray[np.int64], counts: npt.NDArray[np.int64] | None = None) -> Bins:
    """Distinct keys with their summed counts, as sorted bins."""
    distinct, inverse, times = np.unique(keys, return_inverse=True, return_counts=True)
    if counts is not None:
        times = np.bincount(inverse, counts, len(distinct)).astype(np.int64)
    channel, at = np.divmod(distinct, _SPAN)
    return np.stack([channel, at - _MAX_BIN, times], axis=1).astype(np.int64)
