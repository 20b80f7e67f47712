"""Sinks of one's own: records go to them beside Kafka, and what they do or fail to do never touches the way to Kafka.

Each sink has a thread and a bounded queue, so a slow one costs no decision. What does not fit is dropped, counted and
said; the spool and Kafka have it all the same. After a crash a sink may miss records that Kafka gets: it is a
convenience at the device, not the record of what happened.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from edge_filters.blocks import Block
from edge_filters.device import Device, Rules
from edge_filters.engine import Clock, Engine, Step
from edge_filters.outgoing import FromDevice
from edge_filters.plugins import ANY
from edge_filters.ports import Sink

log = logging.getLogger("edge_filters")

#: Records that wait for a sink, at most, and those given to it in one call.
MAX_WAITING, MAX_AT_ONCE = 10_000, 256
#: A sink that fails is called again after this, then after twice as long, up to the longest.
RETRY_S, LONGEST_RETRY_S = 1.0, 30.0
#: How long the sinks have for what still waits when the process ends.
CLOSE_S = 5.0


class SinkRunner:
    """Gives one sink its records, in order, from a thread of its own."""

    def __init__(self, kind: str, sink: Sink, types: Iterable[type[FromDevice]], retry_s: float = RETRY_S) -> None:
        """`types`: the records it wants. `retry_s`: wait after the first failure."""
        self.kind = kind
        self.dropped = 0
        self.written = 0
        self._sink, self._types, self._retry_s = sink, tuple(types), retry_s
        self._waiting: deque[FromDevice] = deque()
        self._changed = threading.Condition()
        self._closing_s: float | None = None
        self._said_full = False
        self._thread: threading.Thread | None = None

    def offer(self, records: Sequence[FromDevice]) -> None:
        """Queue those it wants. Never blocks; the oldest go when there is no room."""
        wanted = [record for record in records if isinstance(record, self._types)]
        if not wanted:
            return
        self._start()
        with self._changed:
            self._waiting.extend(wanted)
            while len(self._waiting) > MAX_WAITING:
                self._waiting.popleft()
                self.dropped += 1
            self._changed.notify()
        if self.dropped and not self._said_full:
            self._said_full = True
            log.error("the sink %r is too slow: its oldest records are dropped; Kafka gets them all", self.kind)

    def close(self, deadline_s: float) -> None:
        """Write what waits until `deadline_s`, by time.monotonic, and let go."""
        with self._changed:
            self._closing_s = deadline_s
            self._changed.notify()
        thread = self._start()
        thread.join(max(0.0, deadline_s - time.monotonic()))
        with self._changed:
            self.dropped += len(self._waiting)
            self._waiting.clear()
        if thread.is_alive():
            log.error("the sink %r does not return; it is left behind", self.kind)
        if self.dropped:
            log.error("the sink %r did not get %d records; Kafka gets them all", self.kind, self.dropped)

    def _start(self) -> threading.Thread:
        """Its thread, started when it is first needed: a configuration that is only checked starts none."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"sink {self.kind}", daemon=True)
            self._thread.start()
        return self._thread

    def _run(self) -> None:
        while batch := self._next():
            self._write(batch)
        try:
            self._sink.close()
        except ANY as failed:
            log.warning("the sink %r failed in close(): %s: %s", self.kind, type(failed).__name__, failed)

    def _next(self) -> list[FromDevice]:
        """The next records; none where it is closing and nothing waits."""
        with self._changed:
            while not self._waiting and self._closing_s is None:
                self._changed.wait()
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_AT_ONCE))]

    def _write(self, batch: list[FromDevice]) -> None:
        wait_s, said = self._retry_s, ""
        while True:
            try:
                self._sink.write(batch)
            except ANY as failed:
                sentence = f"the sink {self.kind!r} failed in write(): {type(failed).__name__}: {failed}"[:500]
                if sentence != said:
                    said = sentence
                    log.error("%s; the same records are given to it again", sentence)
            else:
                self.written += len(batch)
                if said:
                    log.warning("the sink %r takes records again", self.kind)
                return
            if not self._rest(wait_s):
                with self._changed:
                    self.dropped += len(batch)
                return
            wait_s = min(2 * wait_s, LONGEST_RETRY_S)

    def _rest(self, wait_s: float) -> bool:
        """Wait between two tries, less long when it is closing. False: there is no time for another."""
        until_s = time.monotonic() + wait_s
        with self._changed:
            while (now := time.monotonic()) < until_s:
                if self._closing_s is not None:
                    until_s = min(until_s, now + 0.1, self._closing_s)
                self._changed.wait(max(0.0, until_s - now))
            return self._closing_s is None or time.monotonic() < self._closing_s


class TappedEngine(Engine):
    """An engine whose records go to sinks as well; its `flush`, the end of the stream, closes them."""

    def __init__(self, devices: Iterable[Device], rules: Rules, sinks: Sequence[SinkRunner]) -> None:
        super().__init__(devices, rules)
        self.sinks = list(sinks)

    def step(self, blocks: Sequence[Block], clock: Clock) -> Step:
        """See Engine.step."""
        return self._tapped(super().step(blocks, clock))

    def tick(self, clock: Clock) -> Step:
        """See Engine.tick."""
        return self._tapped(super().tick(clock))

    def flush(self, clock: Clock) -> Step:
        """See Engine.flush. Waits for the sinks, at most `CLOSE_S`."""
        step = self._tapped(super().flush(clock))
        self.close_sinks()
        return step

    def close_sinks(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        """Let the sinks write what waits, all of them within `CLOSE_S`."""
        deadline_s = monotonic_s() + CLOSE_S
        for sink in self.sinks:
            sink.close(deadline_s)

    def _tapped(self, step: Step) -> Step:
        if step.records:
            for sink in self.sinks:
                sink.offer(step.records)
        return step
