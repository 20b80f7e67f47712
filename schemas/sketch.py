"""Mergeable statistics of many channels: what an aggregate carries instead of its readings.

Counts, minimum, maximum and histogram merge exactly and in any order. Mean and m2 (sum of squared deviations) merge
by the pairwise update of Chan, Golub & LeVeque (1979), exact up to float64 rounding. Quantiles come from a histogram
with bins of constant relative width, as in DDSketch (Masson, Rim & Lee, VLDB 2019): a quantile is off by at most
RELATIVE_ERROR of its own value, and merging loses nothing, unlike a sampled sketch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from schemas.records import EdgeAggregate, Floats

RELATIVE_ERROR = 0.02
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


@lru_cache(maxsize=1)
def _tables() -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int16]]:
    """`bin_of` of every float32 as two look-ups, because a logarithm per value costs more than all else here.

    The upper half of a float32's bits gives a range that is narrower than a bin, so at most one edge between bins
    lies in it: the first table has the lower half from which on the next bin counts, the second both bins.
    """
    upper = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    finite = np.isfinite(upper.view(np.float32))

    def bins(lower: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
        return bin_of(np.where(finite, (upper | lower).view(np.float32), np.float32(0)))

    first, last = bins(np.zeros_like(upper)), bins(np.full_like(upper, 0xFFFF))
    low, high = np.zeros_like(upper), np.full_like(upper, 0xFFFF)  # where they differ, the edge lies in (low, high]
    while (high - low).max() > 1:
        middle = (low + high) // np.uint32(2)
        same = bins(middle) == first
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return high.astype(np.uint16), np.stack([first, last], axis=1).astype(np.int16).ravel()


def _bins(values: Floats) -> npt.NDArray[np.int16]:
    """The same as `bin_of`, for finite float32."""
    edge, either = _tables()
    bits = values.view(np.uint32)
    upper = bits >> np.uint32(16)
    past_edge = (bits & np.uint32(0xFFFF)) >= edge[upper]
    return np.asarray(either[(upper << np.uint32(1)) + past_edge])


def _histogram(values: Floats) -> Bins:
    """Bins of float32[channels, n], n >= 1."""
    bins = np.sort(_bins(values), axis=1, kind="stable")  # of 16-bit numbers: a radix sort
    starts = np.ones(bins.shape, np.bool_)
    np.not_equal(bins[:, 1:], bins[:, :-1], out=starts[:, 1:])
    at = np.flatnonzero(starts)
    counts = np.diff(at, append=bins.size)
    return np.stack([at // bins.shape[1], bins.ravel()[at], counts], axis=1).astype(np.int64)


def value_of(bins: npt.NDArray[np.int64]) -> Doubles:
    """Middle of each bin: the value that is at most RELATIVE_ERROR away from everything in it."""
    magnitude = 2.0 * np.exp((np.abs(bins) - _OFFSET) * _GAMMA_LOG) / (math.exp(_GAMMA_LOG) + 1.0)
    return np.where(bins == 0, 0.0, np.sign(bins) * magnitude)


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """Statistics of `readings` finite rows of c channels; `invalid` rows were left out. Empty: readings = 0."""

    readings: int
    invalid: int
    mean: Doubles
    m2: Doubles
    min: Floats
    max: Floats
    bins: Bins

    def __eq__(self, other: object) -> bool:
        """Whether both say the same, to the last bit."""
        return isinstance(other, Sketch) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in Sketch.__slots__
        )

    __hash__ = None  # type: ignore[assignment]  # arrays have none either

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
        by_channel = np.ascontiguousarray(good.T, np.float32)  # numpy is much faster along contiguous memory
        wide = by_channel.astype(np.float64)
        mean = wide.mean(axis=1)
        wide -= mean[:, None]
        m2 = np.einsum("ij,ij->i", wide, wide)
        low, high = by_channel.min(axis=1), by_channel.max(axis=1)
        return cls(len(good), invalid, mean, m2, low, high, _histogram(by_channel))

    def merge(self, other: Sketch) -> Sketch:
        """Sketch of both sets of rows together."""
        return Sketch.total([self, other])

    @classmethod
    def total(cls, parts: Sequence[Sketch]) -> Sketch:
        """Sketch of all their rows together; one sketch or more, of the same channels."""
        invalid = sum(part.invalid for part in parts)
        filled = [part for part in parts if part.readings]
        if len(filled) < 2:
            only = filled[0] if filled else parts[0]
            return cls(only.readings, invalid, only.mean, only.m2, only.min, only.max, only.bins)
        n = sum(part.readings for part in filled)
        share = np.array([part.readings / n for part in filled])[:, None]
        means = np.stack([part.mean for part in filled])
        mean = means[0] + (share * (means - means[0])).sum(axis=0)
        m2 = np.stack([part.m2 for part in filled]).sum(axis=0) + (share * np.square(means - mean)).sum(axis=0) * n
        return cls(
            n,
            invalid,
            mean,
            m2,
            np.stack([part.min for part in filled]).min(axis=0),
            np.stack([part.max for part in filled]).max(axis=0),
            _added(np.concatenate([part.bins for part in filled])),
        )

    @property
    def stddev(self) -> Doubles:
        """Population standard deviation per channel; 0 where empty."""
        return np.sqrt(self.m2 / max(self.readings, 1))

    def quantile(self, q: float) -> Doubles:
        """The q-quantile (0..1, nearest rank) per channel, within RELATIVE_ERROR of the true one. NaN where empty."""
        channels = len(self.mean)
        if not self.readings:
            return np.full(channels, np.nan)
        # every channel has all the readings, so one running count finds the place in each
        ranks = np.arange(channels) * self.readings + max(1, math.ceil(q * self.readings))
        at = np.searchsorted(np.cumsum(self.bins[:, 2]), ranks)
        return np.clip(value_of(self.bins[at, 1]), self.min, self.max)

    def fields(self) -> dict[str, object]:
        """The statistics as an EdgeAggregate carries them."""
        return {
            "readings": self.readings,
            "invalid": self.invalid,
            "mean": self.mean.astype("<f8").tobytes(),
            "m2": self.m2.astype("<f8").tobytes(),
            "min": self.min.astype("<f4").tobytes(),
            "max": self.max.astype("<f4").tobytes(),
            "bins": pack_bins(self.bins, len(self.mean)),
        }

    @classmethod
    def from_aggregate(cls, record: EdgeAggregate) -> Sketch:
        """Statistics of a record.

        Raises ValueError: the histogram is not one, or does not add up to the readings; or a mean or m2 is not finite.
        """
        channels = len(record.channels)
        bins = unpack_bins(record.bins, channels)
        mean, m2 = np.frombuffer(record.mean, "<f8"), np.frombuffer(record.m2, "<f8")
        if (np.bincount(bins[:, 0], bins[:, 2], channels) != record.readings).any():
            raise ValueError(f"the histogram does not add up to {record.readings} readings per channel")
        if not (np.isfinite(mean).all() and np.isfinite(m2).all() and (m2 >= 0).all()):
            raise ValueError("mean and m2 must be finite, and m2 not negative")
        low, high = np.frombuffer(record.min, "<f4"), np.frombuffer(record.max, "<f4")
        return cls(record.readings, record.invalid, mean, m2, low, high, bins)


def pack_bins(bins: Bins, channels: int) -> bytes:
    """A histogram in about two bytes a bin.

    Unsigned LEB128 integers: per channel the number of its bins, then for each bin, in order, its distance from the
    bin before (the first one's from the lowest there is) and its count.
    """
    sizes = np.bincount(bins[:, 0], minlength=channels)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    gaps = np.diff(bins[:, 1], prepend=0)
    starts = first[sizes > 0]
    gaps[starts] = bins[starts, 1] + _MAX_BIN
    numbers = np.empty(channels + 2 * len(bins), np.int64)
    head = first * 2 + np.arange(channels)
    body = np.ones(len(numbers), bool)
    body[head] = False
    numbers[head] = sizes
    numbers[body] = np.stack([gaps, bins[:, 2]], axis=1).ravel()
    return _pack(numbers)


def unpack_bins(data: bytes, channels: int) -> Bins:
    """Inverse of pack_bins. Raises ValueError: the bytes are no histogram of so many channels."""
    numbers = _unpack(data)
    heads, sizes, at = [], [], 0
    for _ in range(channels):
        size = int(numbers[at]) if at < len(numbers) else len(numbers)
        heads.append(at)
        sizes.append(size)
        at += 1 + 2 * size
        if at > len(numbers):
            raise ValueError("the histogram ends early")
    if at != len(numbers):
        raise ValueError("numbers left over behind the histogram")
    body = np.ones(len(numbers), bool)
    body[heads] = False
    gaps, counts = numbers[body].reshape(-1, 2).T
    ends = np.cumsum(sizes)
    starts = (ends - sizes)[np.array(sizes) > 0]
    places = np.cumsum(gaps)
    before = places[starts] - gaps[starts]  # what the channels in front add up to
    out = np.empty((len(gaps), 3), np.int64)
    out[:, 0] = np.repeat(np.arange(channels), sizes)
    out[:, 1] = places - np.repeat(before, [size for size in sizes if size]) - _MAX_BIN
    out[:, 2] = counts
    gaps[starts] = 1  # the first bin of a channel may be any
    if len(gaps) and (gaps.min() < 1 or counts.min() < 1 or out[:, 1].max() > _MAX_BIN):
        raise ValueError("the histogram has a bin that cannot be")
    return out


def _pack(numbers: npt.NDArray[np.int64]) -> bytes:
    """Unsigned LEB128 of each number (0 <= n < 2**63), one after the other."""
    lengths = np.ones(len(numbers), np.int64)
    longer, bits = np.flatnonzero(numbers > 0x7F), 7
    while len(longer):  # few numbers have two bytes, and hardly any has more
        lengths[longer] += 1
        bits += 7
        longer = longer[numbers[longer] >> bits > 0] if bits < 63 else longer[:0]
    ends = np.cumsum(lengths)
    out = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    starts, longer, rest = ends - lengths, np.flatnonzero(lengths > 1), numbers
    out[starts] = numbers & 0x7F
    while len(longer):
        at = starts[longer]
        out[at] |= 0x80
        rest = rest[longer] >> 7
        out[at + 1] = rest & 0x7F
        starts = at + 1
        longer = np.flatnonzero(rest > 0x7F)
    return out.tobytes()


def _unpack(data: bytes) -> npt.NDArray[np.int64]:
    """Inverse of _pack. Raises ValueError: it ends within a number, or a number takes more than five bytes."""
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    if len(raw) and (not len(ends) or ends[-1] != len(raw) - 1):
        raise ValueError("the histogram ends within a number")
    numbers = raw[ends].astype(np.int64)
    lengths = np.diff(ends, prepend=-1)
    longer = np.flatnonzero(lengths > 1)
    if lengths.max(initial=0) > 5:
        raise ValueError("the histogram has a number that is too large")
    back = 1
    while len(longer):  # few numbers have two bytes, and hardly any has more: from the last byte to the first
        numbers[longer] = numbers[longer] << 7 | raw[ends[longer] - back] & 0x7F
        back += 1
        longer = longer[lengths[longer] > back]
    return numbers


def _added(bins: Bins) -> Bins:
    """Bins with each (channel, bin) once, counts added up, in order."""
    keys = bins[:, 0] * _SPAN + (bins[:, 1] + _MAX_BIN)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    out = bins[order[starts]]
    out[:, 2] = np.add.reduceat(bins[order, 2], starts) if len(starts) else 0
    return out
