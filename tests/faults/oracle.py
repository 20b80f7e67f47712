"""The oracle: the process that the sensors get their readings from, and that keeps an own account of them.

Uses no product code. Sensors connect to its socket and ask for one block after the other, one JSON object a line:

    {"device": "p", "acked": 6}    blocks up to number 6 are safe, as the edge process says by asking for more
    {"number": 7, "first": 1700000000000000, "values": "…"}      or {"end": true}: there is no more

An edge process reads a sensor only after it has spooled what came of the block before, so that asking is its
acknowledgement. A block that was given and not acknowledged, because the process died, is never given again: it may
come out or not. Before an answer leaves, what it says is in the account, a file of JSON lines, and forced to disk.

The harness speaks on the same socket: {"pace_s": 0.1}, {"shift_us": …, "device": "p"}, {"close": true}.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import selectors
import signal
import socket
import time
from pathlib import Path
from typing import Any

from tests.faults.source import READINGS, STEP_US, block


class Account:
    """The oracle's file: what was given, what was acknowledged, what the clocks were told."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self._dirty = False

    def note(self, **what: Any) -> None:
        """One line; safe after `sync`."""
        self._file.write(json.dumps(what, separators=(",", ":")).encode() + b"\n")
        self._dirty = True

    def sync(self) -> None:
        """Force what was noted to disk."""
        if self._dirty:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._dirty = False


class Oracle:
    """Gives blocks and notes it. One thread."""

    def __init__(self, seed: int, account: Account) -> None:
        self._seed, self._account = seed, account
        self._next: dict[str, int] = {}
        self._acked: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._shift: dict[str, int] = {}
        self._closed = False

    def answer(self, request: dict[str, Any], now_us: int) -> dict[str, Any]:
        """Answer to one line."""
        if "close" in request:
            self._closed = True
            return {}
        if "shift_us" in request:
            self._shift[request["device"]] = request["shift_us"]
            self._last.pop(request["device"], None)  # a clock that is set back repeats times; see `_time`
            self._account.note(shifted=request["device"], by_us=request["shift_us"], at_us=now_us)
            return {}
        device = request["device"]
        if (acked := request["acked"]) > self._acked.get(device, -1):
            self._acked[device] = acked
            self._account.note(acked=device, number=acked)
        if self._closed:
            return {"end": True}
        number = self._next[device] = self._next.get(device, -1) + 1
        found = block(self._seed, device, number)
        first = self._time(device, now_us)
        self._account.note(given=device, number=number, first=first, at_us=now_us)
        return {"number": number, "first": first, "values": base64.b64encode(found.values).decode()}

    def _time(self, device: str, now_us: int) -> int:
        """Event time of the first reading: the clock of the device, which gives each block a time of its own."""
        at = now_us + self._shift.get(device, 0) - READINGS * STEP_US
        last = self._last.get(device)
        if last is not None:
            at = max(at, last + READINGS * STEP_US)
        self._last[device] = at
        return at


def serve(path: Path, oracle: Oracle, account: Account) -> None:
    """Answer on a socket until SIGTERM."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    listener.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    pending: dict[socket.socket, bytes] = {}
    while not ended:
        answers: list[tuple[socket.socket, bytes]] = []
        for key, _ in selector.select(0.5):
            if key.fileobj is listener:
                peer, _ = listener.accept()
                selector.register(peer, selectors.EVENT_READ)
                pending[peer] = b""
                continue
            peer = key.fileobj  # type: ignore[assignment]
            try:
                data = peer.recv(65536)
            except OSError:
                data = b""
            if not data:
                selector.unregister(peer)
                pending.pop(peer)
                peer.close()
                continue
            *lines, pending[peer] = (pending[peer] + data).split(b"\n")
            for line in lines:
                said = oracle.answer(json.loads(line), time.time_ns() // 1000)
                answers.append((peer, json.dumps(said).encode() + b"\n"))
        account.sync()  # one for all that came together, and before any of them hears of it
        for peer, data in answers:
            try:
                peer.sendall(data)
            except OSError:
                continue  # it has died: what it was to get is noted as given


def main() -> None:
    """`python -m tests.faults.oracle --seed 1 --account FILE --socket PATH`."""
    parser = argparse.ArgumentParser(description="the oracle of the fault suite")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--account", type=Path, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    given = parser.parse_args()
    account = Account(given.account)
    serve(given.socket, Oracle(given.seed, account), account)


if __name__ == "__main__":
    main()
