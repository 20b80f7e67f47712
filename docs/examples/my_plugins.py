"""Plug-ins for an edge process: a sensor, a feature, a detector and a sink. docs/plugins.md walks through them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_filters.blocks import Block
from edge_filters.outgoing import FromDevice
from schemas.records import EdgeEvent, Floats, Transition


class Host:
    """A sensor: how busy this machine is. Channels: share of the CPU in use, 0..1, and the load of the last minute."""

    channels = ("cpu", "load")
    can_wait = False  # what is not read in time is gone

    def __init__(self, device_id: str, options: Mapping[str, Any]) -> None:
        """Options: `rate_hz`, readings per second; `block`, readings in a block; `proc`, where to look."""
        self._device_id = device_id
        self._step_s = 1.0 / float(options.get("rate_hz", 10.0))
        self._per_block = int(options.get("block", 5))
        self._stat = Path(options.get("proc", "/proc")) / "stat"
        self._rows: list[tuple[int, float, float]] = []
        self._next_s = 0.0
        self._wall_offset_us = 0
        self._before = (0, 0)

    def start(self, monotonic_s: float, wall_us: int) -> None:
        """The same moment on two clocks: time.monotonic, and microseconds since 1970 UTC."""
        self._next_s = monotonic_s
        self._wall_offset_us = wall_us - round(monotonic_s * 1e6)
        self._before = self._ticks()

    def due_s(self) -> float | None:
        """When to read next, by time.monotonic; None would say that there is no more."""
        return self._next_s

    def read(self) -> Block | None:
        """One reading; a block once there are enough of them, None before."""
        at_us = round(self._next_s * 1e6) + self._wall_offset_us
        self._next_s = max(self._next_s + self._step_s, time.monotonic())
        busy, total = self._ticks()
        passed = total - self._before[1]
        share = (busy - self._before[0]) / passed if passed else 0.0
        self._before = busy, total
        self._rows.append((at_us, share, os.getloadavg()[0]))
        if len(self._rows) < self._per_block:
            return None
        rows, self._rows = self._rows, []
        times = np.array([row[0] for row in rows], np.int64)  # microseconds since 1970 UTC
        return Block(self._device_id, times, np.array([row[1:] for row in rows], np.float32))

    def close(self) -> None:
        """Nothing is held."""

    def _ticks(self) -> tuple[int, int]:
        ticks = [int(word) for word in self._stat.read_text().split("\n", 1)[0].split()[1:9]]
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def crest(options: Mapping[str, Any]) -> Any:
    """A feature: peak over root mean square, per channel. A knock in a machine raises it long before the mean moves."""
    floor = float(options.get("floor", 1e-6))

    def of(windows: Floats) -> Floats:
        peak = np.abs(windows).max(axis=1)
        rms = np.sqrt((windows.astype(np.float64) ** 2).mean(axis=1))
        return np.asarray(peak / np.maximum(rms, floor), np.float32)

    return of


class Band:
    """A detector: how far a window's mean is outside of a band around its device's own past, in widths of the band."""

    def __init__(self, channels: Sequence[str], window_readings: int, options: Mapping[str, Any]) -> None:
        """Options: `width`, half the band, in the units of the sensor; `memory`, share of the past kept per window."""
        self._width = float(options["width"])
        self._memory = float(options.get("memory", 0.98))
        self._centre: dict[str, Floats] = {}

    def score(self, windows: Floats, devices: Sequence[str]) -> list[float]:
        """One number per window; `windows` is float32[batch, readings, channels]."""
        scores = []
        for window, device in zip(windows, devices, strict=True):
            mean = window.mean(axis=0)
            centre = self._centre.get(device, mean)
            scores.append(float(np.abs(mean - centre).max() / self._width))
            self._centre[device] = self._memory * centre + (1 - self._memory) * mean
        return scores


class Siren:
    """A sink: a line of JSON for every alarm that begins or ends, appended to a file."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Options: `path`, the file."""
        self._path = Path(options["path"])

    def write(self, records: Sequence[FromDevice]) -> None:
        """Records in order; an exception brings the same ones again."""
        with self._path.open("a", encoding="utf-8") as file:
            for record in records:
                if isinstance(record, EdgeEvent) and record.transition is not Transition.NONE:
                    line = {"device": record.device_id, "alarm": record.transition.value, "score": record.score}
                    file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Nothing is held."""
