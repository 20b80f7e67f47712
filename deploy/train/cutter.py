"""Readings that come in batches to windows, with the same result however they are batched. Pure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deploy.train.reading import Batch, Flags
from schemas.records import Floats, Times


class Cut(NamedTuple):
    """Windows: number of the first row int64[k], values float32[k, readings, channels], any row labelled bool[k]."""

    starts: npt.NDArray[np.int64]
    windows: Floats
    labelled: Flags


class Cutter:
    """Windows of one device within rows [first, last), one every `stride` rows of a stretch.

    A stretch ends where event time steps back or by more than `max_gap_us`; no window reaches across.
    """

    def __init__(self, readings: int, stride: int, max_gap_us: float, first: int, last: int) -> None:
        self.readings, self.stride, self.max_gap_us = readings, stride, max_gap_us
        self.first, self.last = first, last
        self._times: Times | None = None  # rows that a later window may still need, at least the last one
        self._values: Floats = np.empty((0, 0), np.float32)
        self._labels: Flags = np.empty(0, np.bool_)
        self._next = 0  # where the next window starts, counted from the first row held
        self._row = first  # number of the first row held

    def take(self, batch: Batch) -> Cut:
        """Windows that are complete with these rows."""
        low, high = max(self.first - batch.first, 0), self.last - batch.first
        times, values, labels = batch.times[low:high], batch.values[low:high], batch.labels[low:high]
        if high <= 0 or not len(times):
            return self._cut(np.zeros(0, np.int64), values, labels)
        if self._times is not None:
            times = np.concatenate([self._times, times])
            values = np.concatenate([self._values, values])
            labels = np.concatenate([self._labels, labels])
        steps = np.diff(times)
        edges = np.flatnonzero((steps < 0) | (steps > self.max_gap_us)) + 1
        starts = self._starts(edges.tolist() if len(edges) < 2 else edges, len(times))
        cut = self._cut(starts, values, labels)
        keep = min(self._next, len(times) - 1)
        self._times, self._values, self._labels = times[keep:].copy(), values[keep:].copy(), labels[keep:].copy()
        self._next -= keep
        self._row += keep
        return cut

    def _starts(self, edges: npt.ArrayLike, rows: int) -> npt.NDArray[np.int64]:
        """Starts of windows among the rows held; moves `_next` on."""
        bounds = np.concatenate([np.asarray(edges, np.int64), [rows]])
        begin = np.concatenate([[self._next], bounds[:-1]])
        count = np.maximum((bounds - begin - self.readings) // self.stride + 1, 0)
        self._next = int(begin[-1] + count[-1] * self.stride)
        long = count > 0
        return np.concatenate(
            [
                np.zeros(0, np.int64),
                *(at + self.stride * np.arange(n) for at, n in zip(begin[long], count[long], strict=True)),
            ]
        ).astype(np.int64)

    def _cut(self, starts: npt.NDArray[np.int64], values: Floats, labels: Flags) -> Cut:
        if not len(starts):
            empty = np.empty((0, self.readings, values.shape[1]), np.float32)
            return Cut(starts, empty, np.empty(0, np.bool_))
        rows = starts[:, None] + np.arange(self.readings)
        return Cut(self._row + starts, values[rows], labels[rows].any(axis=1))
