"""The sensor that asks the oracle: `kind = "tests.faults.sensor:make"`. Runs inside the edge process under test."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.faults.source import CHANNELS, READINGS, STEP_US


class OracleSensor:
    """Asks for one block at a time, and by asking says that what came of those before is in the spool."""

    can_wait = False  # as a machine that goes on turning: a full spool has to give something up

    def __init__(self, device_id: str, options: Mapping[str, Any]) -> None:
        self.channels: Sequence[str] = ["a", "b"]
        self._device, self._path, self._pace_s = device_id, str(options["socket"]), float(options["pace_s"])
        self._socket: socket.socket | None = None
        self._next_s = 0.0
        self._acked = -1
        self._ended = False

    def start(self, monotonic_s: float, wall_us: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(5.0)
        self._socket.connect(self._path)
        self._file = self._socket.makefile("rb")
        self._next_s = monotonic_s

    def due_s(self) -> float | None:
        # never within the turn in which the last block was read: only a later turn has spooled what came of it
        return None if self._ended else max(self._next_s, time.monotonic())

    def read(self) -> tuple[Any, Any] | None:
        assert self._socket is not None
        self._socket.sendall(json.dumps({"device": self._device, "acked": self._acked}).encode() + b"\n")
        said = json.loads(self._file.readline())
        self._next_s = max(self._next_s + self._pace_s, time.monotonic() - 5 * self._pace_s)
        if said.get("end"):
            self._ended = True
            return None
        self._acked = said["number"]
        values = np.frombuffer(base64.b64decode(said["values"]), "<f4").reshape(READINGS, CHANNELS)
        return said["first"] + np.arange(READINGS, dtype=np.int64) * STEP_US, values

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def make(device_id: str, options: Mapping[str, Any]) -> OracleSensor:
    """What the configuration names."""
    return OracleSensor(device_id, options)
