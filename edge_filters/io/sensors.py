"""Sensors that come with the product: a recording at any speed, a synthetic signal; and how one's own is made."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from edge_filters.blocks import Block
from edge_filters.plugins import load, make
from edge_filters.ports import Sensor, SensorFactory
from schemas.container import read
from schemas.errors import DecodeError
from schemas.records import Floats, SensorBlock, Times


def recorded_blocks(path: Path, device: str | None = None) -> Iterator[SensorBlock]:
    """Blocks of a recording, of one device.

    Args:
        path: an Avro container file of SensorBlocks.
        device: which device's blocks; None: the file must hold one device only.

    Raises:
        DecodeError: no recording, damage, or several devices where none was named. Blocks before it come first.
    """
    found: str | None = None
    try:
        with path.open("rb") as file:
            for record in read(file, SensorBlock):
                block = cast(SensorBlock, record)
                if device is not None and block.device_id != device:
                    continue
                found = found or block.device_id
                if block.device_id != found:
                    raise DecodeError(
                        "the recording holds several devices",
                        devices=[found, block.device_id],
                        fix="say which one with `device` in the sensor's table",
                    )
                yield block
    except DecodeError as wrong:
        raise DecodeError(wrong.problem, fix=wrong.fix, **({"recording": str(path)} | wrong.where)) from wrong
    except OSError as cause:
        raise DecodeError("the recording cannot be read", recording=str(path), cause=cause.strerror) from cause
    if found is None:
        raise DecodeError("the recording holds nothing of that device", recording=str(path), device=device)


def recorded_channels(path: Path, device: str | None = None) -> list[str]:
    """Channels of a recording, from its first block. Raises DecodeError."""
    return list(next(recorded_blocks(path, device)).channels)


class RecordedSensor:
    """A recording as a live device: event times are moved to now, and rows come when they are due.

    Steps in event time are divided by the speed and cut to `max_pause` either way; equal times and jumps back are
    kept. With `keep_times` the recorded times are given out instead. Without a speed everything is due at once.
    """

    def __init__(
        self,
        device_id: str,
        path: Path,
        *,
        speed: float | None = 1.0,
        keep_times: bool = False,
        max_readings: int = 64,
        max_wait_us: int | None = None,
        max_pause_us: int = 5_000_000,
        repeat: bool = False,
        device: str | None = None,
    ) -> None:
        """`speed`: 60.0 is 60 times faster than it was recorded; None is as fast as it is read."""
        self.can_wait = speed is None
        self._device_id, self._path, self._device = device_id, path, device
        self._speed, self._keep_times = speed, keep_times
        self._max_readings, self._max_wait_us, self._max_pause_us = max_readings, max_wait_us, max_pause_us
        self._repeat = repeat
        self._source = recorded_blocks(path, device)
        first = next(self._source)
        self.channels: Sequence[str] = list(first.channels)
        self._parts: deque[tuple[Times, Times, Floats]] = deque()  # offsets when due, times to give out, values
        self._held = 0
        self._last: int | None = None  # recorded time of the row before
        self._offset = self._due_offset = 0.0  # microseconds since the start, of the row before
        self._ended = False
        self._failure: DecodeError | None = None
        self._start_s, self._wall_us = 0.0, 0
        self._add(first)

    def start(self, monotonic_s: float, wall_us: int) -> None:
        """The first row is due now."""
        self._start_s, self._wall_us = monotonic_s, wall_us

    def due_s(self) -> float | None:
        """When the next block is complete: full, or its first row has waited for `max_wait`."""
        self._fill()
        if not self._held:
            return self._start_s if self._failure is not None else None
        if self._speed is None:
            return self._start_s
        first, full = self._due_of(0), self._due_of(min(self._held, self._max_readings) - 1)
        due = full if self._max_wait_us is None else min(full, first + self._max_wait_us)
        return self._start_s + due / 1e6

    def read(self) -> Block | None:
        """The rows that are due, at most `max_readings`. Raises DecodeError: the recording is damaged from here on."""
        self._fill()
        if not self._held:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            return None
        count = min(self._held, self._max_readings)
        if self._speed is not None:
            now = (time.monotonic() - self._start_s) * 1e6
            if now < self._due_of(count - 1):
                count = sum(int(np.searchsorted(due, now, side="right")) for due, _, _ in self._parts)
                count = min(count, self._max_readings)
                if not count:
                    return None
        return self._take(count)

    def close(self) -> None:
        """Close the file."""
        self._source.close()  # type: ignore[attr-defined]  # a generator has it

    def _fill(self) -> None:
        while self._held < self._max_readings and not self._ended:
            try:
                self._add(next(self._source))
            except StopIteration:
                self._ended = not self._repeat
                self._last = None
                if self._repeat:
                    self._source = recorded_blocks(self._path, self._device)
            except DecodeError as failure:
                self._ended, self._failure = True, failure

    def _add(self, block: SensorBlock) -> None:
        if list(block.channels) != self.channels:
            raise DecodeError(
                "the channels change within the recording",
                recording=str(self._path),
                first=list(self.channels),
                then=list(block.channels),
            )
        recorded = block.times
        if not len(recorded):
            return
        before = recorded[0] - 1_000_000 if self._last is None and self._offset else recorded[0]
        steps = np.diff(recorded, prepend=before if self._last is None else self._last)
        moved = np.clip(steps / (self._speed or 1.0), -self._max_pause_us, self._max_pause_us)
        offsets = self._offset + np.cumsum(moved)
        # rows behind a jump back are due at once, until event time is where it was: nothing waits for the past
        due = np.maximum(np.maximum.accumulate(offsets), self._due_offset)
        self._last, self._offset, self._due_offset = int(recorded[-1]), float(offsets[-1]), float(due[-1])
        times = recorded if self._keep_times else offsets.astype(np.int64)
        self._parts.append((due.astype(np.int64), times, block.matrix))
        self._held += len(recorded)

    def _due_of(self, row: int) -> int:
        for due, _, _ in self._parts:
            if row < len(due):
                return int(due[row])
            row -= len(due)
        raise IndexError(row)

    def _take(self, count: int) -> Block:
        times: list[Times] = []
        values: list[Floats] = []
        self._held -= count
        while count:
            due, moved, rows = self._parts.popleft()
            if len(due) > count:
                self._parts.appendleft((due[count:], moved[count:], rows[count:]))
                due, moved, rows = due[:count], moved[:count], rows[:count]
            times.append(moved)
            values.append(rows)
            count -= len(due)
        joined = times[0] if len(times) == 1 else np.concatenate(times)
        if not self._keep_times:
            joined = joined + self._wall_us
        return Block(self._device_id, joined, values[0] if len(values) == 1 else np.concatenate(values))


class SyntheticSensor:
    """A signal made by rule: a sine per channel with noise, and now and then a burst. The same seed gives the same."""

    can_wait = False

    def __init__(
        self,
        device_id: str,
        *,
        channels: Sequence[str] = ("a",),
        rate_hz: float = 100.0,
        noise: float = 0.1,
        burst_every_s: float = 30.0,
        readings: int | None = None,
        max_readings: int = 64,
        seed: int = 0,
    ) -> None:
        """`readings`: how many there are in all; None: no end."""
        self.channels: Sequence[str] = list(channels)
        self._device_id, self._rate_hz, self._noise, self._burst_every_s = device_id, rate_hz, noise, burst_every_s
        self._readings, self._max_readings = readings, max_readings
        self._random = np.random.default_rng(seed)
        self._row = 0
        self._start_s, self._wall_us = 0.0, 0

    def start(self, monotonic_s: float, wall_us: int) -> None:
        """The first row is sensed now."""
        self._start_s, self._wall_us = monotonic_s, wall_us

    def _count(self) -> int:
        left = self._max_readings if self._readings is None else self._readings - self._row
        return min(self._max_readings, left)

    def due_s(self) -> float | None:
        """When the next block is full."""
        count = self._count()
        return self._start_s + (self._row + count - 1) / self._rate_hz if count else None

    def read(self) -> Block | None:
        """The next block."""
        count = self._count()
        if not count:
            return None
        seconds = np.arange(self._row, self._row + count) / self._rate_hz
        self._row += count
        phase = np.arange(len(self.channels)) * 0.7
        signal = np.sin(2 * np.pi * 0.5 * seconds[:, None] + phase)
        signal += self._random.normal(0.0, self._noise, signal.shape)
        if self._burst_every_s:
            signal[(seconds % self._burst_every_s) > self._burst_every_s - 1.0] += 3.0
        times = (self._wall_us + seconds * 1e6).astype(np.int64)
        return Block(self._device_id, times, signal.astype(np.float32))

    def close(self) -> None:
        """Nothing is held."""


def make_sensor(kind: str, device_id: str, options: Mapping[str, Any]) -> Sensor:
    """A sensor of one's own. Raises ConfigError: it cannot be found or made."""
    factory: SensorFactory = load("sensor", kind, ("recorded", "synthetic"))
    return make("sensor", kind, lambda: factory(device_id, options), device=device_id)
