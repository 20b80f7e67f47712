"""Readings of one device to mergeable sketches in tumbling windows of event time, aligned to the epoch. Pure.

Rows are only collected while a window is open; the sketch is made once, when event time has passed the window. Rows
that come later still open the window once more: that gives a further aggregate, and in the cloud they add up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_filters.blocks import Span
from schemas.records import Floats, Times
from schemas.sketch import Sketch

#: Values that wait at most for the end of their window before they are sketched: bounds the memory of a long window.
SKETCH_AT_VALUES = 12_000
#: Bins (2 to 8 bytes each) from which on an aggregate goes out before its window is over, so that it fits a record
#: even when another SKETCH_AT_VALUES are added, each with a bin of its own.
MAX_BINS = 16_000


#: Windows that event time may go back before it counts as a clock that was set, not as readings that came late.
BACK_WINDOWS = 60


class Aggregate(NamedTuple):
    """Statistics of the rows of one device in [start_us, end_us)."""

    start_us: int
    end_us: int
    sketch: Sketch
    windows_scored: int
    windows_escalated: int
    score_max: float | None


class _Bucket:
    __slots__ = ("escalated", "invalid", "opened_us", "parts", "rows", "score_max", "scored", "sketch")

    def __init__(self, opened_us: int) -> None:
        self.opened_us = opened_us
        self.parts: list[Floats] = []
        self.rows = 0
        self.invalid = 0
        self.sketch: Sketch | None = None
        self.scored = 0
        self.escalated = 0
        self.score_max: float | None = None

    def settle(self, channels: int) -> Sketch:
        """Sketch of all rows so far."""
        sketch = self.sketch or Sketch.empty(channels)
        if self.parts:
            rows = self.parts[0] if len(self.parts) == 1 else np.concatenate(self.parts)
            sketch = sketch.merge(Sketch.of(rows))
            self.parts, self.rows = [], 0
        return sketch


class Aggregator:
    """Open aggregate windows of one device."""

    def __init__(self, channels: int, window_us: int) -> None:
        self._channels = channels
        self._window_us = window_us
        self._open: dict[int, _Bucket] = {}
        self._full: list[Aggregate] = []
        self._sketch_at_rows = max(1, SKETCH_AT_VALUES // channels)
        self._newest: int | None = None
        self.open_readings = 0

    def add(self, times: Times, values: Floats, now_us: int = 0, known: Span | None = None) -> None:
        """Take finite rows.

        Args:
            times: int64[n], n >= 1, microseconds.
            values: float32[n, channels].
            now_us: when they came.
            known: the span of the times, where the caller has it already.
        """
        if known is not None and known.ordered:
            first, last = known.first // self._window_us, known.last // self._window_us
        else:
            first, last = int(times.min()) // self._window_us, int(times.max()) // self._window_us
        if self._newest is None or last > self._newest:
            self._newest = last
        elif last < self._newest - BACK_WINDOWS:
            self._step_back(last)
        self.open_readings += len(times)
        if first == last:
            self._put(first, values, now_us)
            return
        index = times // self._window_us
        for number in np.unique(index).tolist():
            self._put(number, values[index == number], now_us)

    def add_invalid(self, times: Times, now_us: int = 0) -> None:
        """Count rows that were left out, in the windows they belong to."""
        for number in (times // self._window_us).tolist():
            self._bucket(number, now_us).invalid += 1
            if self._newest is None or number > self._newest:
                self._newest = number

    def scored(self, sensed_to_us: int, score: float, escalated: bool, now_us: int = 0) -> None:
        """Count a model window in the aggregate window that it ends in."""
        bucket = self._open.get(sensed_to_us // self._window_us)
        if bucket is None:
            bucket = self._bucket(sensed_to_us // self._window_us, now_us)
        bucket.scored += 1
        bucket.escalated += escalated
        if bucket.score_max is None or score > bucket.score_max:
            bucket.score_max = score

    @property
    def is_open(self) -> bool:
        """Whether any window is open."""
        return bool(self._open or self._full)

    @property
    def has_passed(self) -> bool:
        """Whether a window is open that event time has passed."""
        return bool(self._full) or len(self._open) > 1 or (len(self._open) == 1 and self._newest not in self._open)

    def pop(self) -> Aggregate | None:
        """The oldest window that event time has passed, closed; None where there is none."""
        if self._full:
            return self._full.pop(0)
        if not self.has_passed:
            return None
        oldest = min(self._open)
        return self._close(oldest) if self._newest is None or oldest < self._newest else None

    def flush(self, opened_before_us: float = float("inf"), now_us: float = float("inf")) -> list[Aggregate]:
        """Close every window that was opened before that time: at the end, or where a device has fallen silent.

        One that was opened after `now_us` too: the clock was set back, and would take as long to get there again.
        """
        full, self._full = self._full, []
        due = [n for n in sorted(self._open) if not opened_before_us <= self._open[n].opened_us <= now_us]
        return full + [self._close(n) for n in due]

    def _step_back(self, last: int) -> None:
        """The clock was set back: go on from there. Measured by the old time, every block would close its window."""
        self._full += [self._close(number) for number in sorted(self._open) if number > last]
        self._newest = last

    def _bucket(self, number: int, now_us: int) -> _Bucket:
        bucket = self._open.get(number)
        if bucket is None:
            bucket = self._open[number] = _Bucket(now_us)
        return bucket

    def _put(self, number: int, values: Floats, now_us: int) -> None:
        bucket = self._bucket(number, now_us)
        bucket.parts.append(values)
        bucket.rows += len(values)
        if bucket.rows >= self._sketch_at_rows:
            bucket.sketch = bucket.settle(self._channels)
            if len(bucket.sketch.bins) >= MAX_BINS:
                self._full.append(self._close(number))

    def _close(self, number: int) -> Aggregate:
        bucket = self._open.pop(number)
        sketch = bucket.settle(self._channels)
        self.open_readings -= sketch.readings
        if bucket.invalid:
            sketch = Sketch(
                sketch.readings,
                sketch.invalid + bucket.invalid,
                sketch.mean,
                sketch.m2,
                sketch.min,
                sketch.max,
                sketch.bins,
            )
        start = number * self._window_us
        return Aggregate(start, start + self._window_us, sketch, bucket.scored, bucket.escalated, bucket.score_max)
