"""Records of one partition that were read but not handed out yet: the buffer between the feed and the ticks. Pure."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from pipelines.io.chunk import Record

#: What a buffered record counts beside its key and value, bytes.
PER_RECORD = 64


class Taken(NamedTuple):
    """Answer to one tick for one partition.

    `end` is the offset to ask for next. `lost_from` is -1, or the first of the offsets up to `end` that the log no
    longer has. `nothing_unread_at_us` is None, or a moment after which the broker was asked and had nothing unread.
    `more` says that records wait. `settling` says that the watermark must stand still: the broker is away, or has
    been back for so short a time that producers may still hold what they could not send.
    """

    records: list[Record]
    end: int
    lost_from: int = -1
    nothing_unread_at_us: int | None = None
    more: bool = False
    settling: bool = False


class ReadAhead:
    """The buffer of one partition. Not thread-safe.

    Two positions: `next`, the offset that the next tick must ask for, and `position`, the one that the consumer
    reads next. A tick that asks for another offset (a bundle was tried again, a checkpoint restored) leaves that
    offset in `seek` for the consumer to go to.
    """

    def __init__(self, offset: int) -> None:
        self.next = self.position = offset
        self.seek: int | None = None
        self.held_bytes = 0
        self.paused = False
        self.received_at_s = 0.0
        self._batches: deque[tuple[list[Record], int]] = deque()
        self._jump: tuple[int, int] | None = None
        self._nothing_unread_at_us: int | None = None

    @property
    def waiting(self) -> bool:
        """Whether records wait to be handed out."""
        return bool(self._batches)

    def receive(self, records: list[Record], size: int, now_s: float) -> None:
        """The consumer read these, `size` bytes as `size_of` counts; none of them waits for a seek to be obeyed."""
        self._batches.append((records, size))
        self.held_bytes += size
        self.position = records[-1].offset + 1
        self.received_at_s = now_s
        self._nothing_unread_at_us = None

    def moved_to(self, offset: int) -> None:
        """The consumer obeyed a seek: what was read before it is forgotten."""
        self._forget()
        self.next = self.position = offset
        self.seek = self._jump = None

    def jump(self, asked: int, start: int) -> None:
        """The log no longer has the offset that was asked for; the consumer goes on at `start`.

        Forward, the records between are lost, and the next tick but those for records that wait is told so.
        Backward, the log was cut or created anew, and everything is read again from there.
        """
        if start <= asked:
            self._forget()
        self.position = start
        self._jump = (asked if start > asked else -1, start)
        self._nothing_unread_at_us = None

    def nothing_unread(self, position: int, at_us: int) -> None:
        """Asked after `at_us`, the broker had nothing beyond `position`, where the consumer stands."""
        if self.seek is None and not self._batches:
            self.position = position
            self._nothing_unread_at_us = at_us

    def take(self, offset: int, max_records: int, max_bytes: int) -> Taken:
        """Records from `offset` on, within both limits but at least one when any waits; empty when it has to seek."""
        if self.next != offset:
            self.seek = offset
            return Taken([], offset)
        if self._jump is not None and (not self._batches or self._batches[0][0][0].offset >= self._jump[1]):
            (lost_from, self.next), self._jump = self._jump, None
            return Taken([], self.next, lost_from, None, self.waiting)
        records = self._cut(max_records, max_bytes)
        if records:
            self.next = records[-1].offset + 1
            return Taken(records, self.next, more=self.waiting)
        return Taken([], self.next, -1, self._nothing_unread_at_us)

    def _forget(self) -> None:
        self._batches.clear()
        self.held_bytes = 0
        self._nothing_unread_at_us = None

    def _cut(self, max_records: int, max_bytes: int) -> list[Record]:
        out: list[Record] = []
        taken = 0
        while self._batches and len(out) < max_records and (taken < max_bytes or not out):
            batch, size = self._batches.popleft()
            n, part = len(batch), size
            if n > max_records - len(out) or size > max_bytes - taken:
                n, part = _prefix(batch, max_records - len(out), max_bytes - taken, at_least=0 if out else 1)
            if n < len(batch):
                self._batches.appendleft((batch[n:], size - part))
            if n == 0:
                break
            out += batch[:n]
            taken += part
        self.held_bytes -= taken
        return out


def size_of(records: list[Record]) -> int:
    """What the buffer counts for these records, bytes."""
    return sum(map(_size, records))


def _size(record: Record) -> int:
    return len(record.key or b"") + len(record.value or b"") + PER_RECORD


def _prefix(batch: list[Record], max_records: int, max_bytes: int, at_least: int) -> tuple[int, int]:
    """How many records from the front fit, and their size."""
    size = n = 0
    for record in batch[:max_records]:
        more = _size(record)
        if n >= at_least and size + more > max_bytes:
            break
        size += more
        n += 1
    return n, size
