"""Readings of one device to windows in event time. Pure; costs per block, not per reading.

A window is `window_readings` consecutive readings. A gap longer than `max_gap`, or a jump back in event time, closes
the open window short: readings from both sides of it are no signal that a model was trained on. Equal times close
nothing. Every row that goes in comes out in exactly one
window or is still open (law: tests/laws/test_windower.py).
"""

from __future__ import annotations

import numpy as np

from edge_filters.blocks import Span, Window, span
from schemas.records import Floats, Times


class Windower:
    """Windows of one device. `jumps_back` and `closed_short` count what their names say."""

    def __init__(self, window_readings: int, max_gap_us: int) -> None:
        """`max_gap_us`: longest step in event time, microseconds, that does not close a window."""
        self.window_readings = window_readings  # may be changed between two blocks, when another model moves in
        self._max_gap_us = max_gap_us
        self._held: list[Window] = []
        self._last: int | None = None
        self.open_readings = 0
        self.opened_us = 0
        self.jumps_back = 0
        self.closed_short = 0

    def take(self, times: Times, values: Floats, now_us: int = 0, known: Span | None = None) -> list[Window]:
        """Windows that are complete with these readings.

        Args:
            times: int64[n], n >= 1, microseconds.
            values: float32[n, channels].
            now_us: when they came; only remembered, as `opened_us` of the open window.
            known: the span of the times, where the caller has it already.
        """
        block = known or span(times)
        last, self._last = self._last, block.last
        joined = True
        if last is not None:
            step = block.first - last
            joined = 0 <= step <= self._max_gap_us
            self.jumps_back += step < 0
        if block.longest <= self._max_gap_us and not self.open_readings and len(times) == self.window_readings:
            return [Window(times, values)]
        done: list[Window] = []
        if self.open_readings and not joined:
            done += self._close()
        if block.longest > self._max_gap_us:
            steps = times[1:] - times[:-1]
            cuts = np.flatnonzero(steps.view(np.uint64) > np.uint64(self._max_gap_us)) + 1
            self.jumps_back += int(np.count_nonzero(steps < 0))
            start = 0
            for end in cuts.tolist():
                done += self._fill(times[start:end], values[start:end], now_us)
                done += self._close()
                start = end
            return done + self._fill(times[start:], values[start:], now_us)
        return done + self._fill(times, values, now_us)

    def flush(self) -> list[Window]:
        """The open window, short, where there is one: at the end of the stream, or when it was open for too long."""
        return self._close()

    def _fill(self, times: Times, values: Floats, now_us: int) -> list[Window]:
        if not self.open_readings:
            self.opened_us = now_us
        self._held.append(Window(times, values))
        self.open_readings += len(times)
        if self.open_readings < self.window_readings:
            return []
        joined = self._joined()
        whole = self.open_readings - self.open_readings % self.window_readings
        rest = Window(joined.times[whole:], joined.values[whole:])
        self._held = [rest] if len(rest.times) else []
        self.open_readings -= whole
        self.opened_us = now_us
        return [
            Window(joined.times[at : at + self.window_readings], joined.values[at : at + self.window_readings])
            for at in range(0, whole, self.window_readings)
        ]

    def _close(self) -> list[Window]:
        if not self.open_readings:
            return []
        joined = self._joined()
        self._held, self.open_readings = [], 0
        self.closed_short += 1
        return [joined]

    def _joined(self) -> Window:
        if len(self._held) == 1:
            return self._held[0]
        return Window(np.concatenate([w.times for w in self._held]), np.concatenate([w.values for w in self._held]))
