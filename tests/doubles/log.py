"""A log in memory: what the source and the inbox read, with everything that a broker may do to them.

tests/contracts holds it to the same promises as the real broker, through both client libraries.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping

from pipelines.io.chunk import Record
from pipelines.io.partition import Partition
from pipelines.io.transport import Committed, LogAway, OffsetsGone, OpenReader, Read


class _Part:
    """One partition. `held` is where an open transaction began, for as long as it is open."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.first = self.end = 0
        self.held: int | None = None


class MemoryLog:
    """Topics with partitions. Thread-safe."""

    def __init__(self) -> None:
        self._topics: dict[str, list[_Part]] = {}
        self._committed: dict[tuple[str, Partition], Committed] = {}
        self._changed = threading.Condition()
        self._up = True

    def create(self, topic: str, partitions: int = 1) -> None:
        """A new topic; in place of one of that name."""
        with self._changed:
            self._topics[topic] = [_Part() for _ in range(partitions)]
            self._changed.notify_all()

    def add_partitions(self, topic: str, partitions: int) -> None:
        """So many in all."""
        with self._changed:
            self._topics[topic] += [_Part() for _ in range(partitions - len(self._topics[topic]))]

    def write(self, topic: str, value: bytes | None, key: bytes | None = None, partition: int = 0) -> int:
        """Append a record; its offset."""
        with self._changed:
            part = self._topics[topic][partition]
            part.records.append(Record(part.end, key, value, time.time_ns() // 1_000_000))
            part.end += 1
            self._changed.notify_all()
            return part.end - 1

    def begin(self, topic: str, partition: int = 0) -> None:
        """Open a transaction: what is written from now on is not for readers of committed records."""
        with self._changed:
            part = self._topics[topic][partition]
            part.held = part.end

    def commit_transaction(self, topic: str, partition: int = 0) -> None:
        """End it; the marker takes an offset."""
        with self._changed:
            part = self._topics[topic][partition]
            part.held = None
            part.end += 1
            self._changed.notify_all()

    def delete_before(self, topic: str, offset: int, partition: int = 0) -> None:
        """Retention."""
        with self._changed:
            part = self._topics[topic][partition]
            part.first = offset
            part.records = [record for record in part.records if record.offset >= offset]

    def compact(self, topic: str, partition: int = 0) -> None:
        """Keep the last record of each key."""
        with self._changed:
            part = self._topics[topic][partition]
            last = {record.key: record.offset for record in part.records}
            part.records = [record for record in part.records if last[record.key] == record.offset]

    def commit(self, group_id: str, partition: Partition, offset: int, note: str) -> None:
        """Commit an offset."""
        with self._changed:
            self._committed[group_id, partition] = Committed(offset, note)

    def stop(self) -> None:
        """The broker is away: no question is answered."""
        with self._changed:
            self._up = False
            self._changed.notify_all()

    def start(self) -> None:
        """It is back."""
        with self._changed:
            self._up = True
            self._changed.notify_all()

    def reader(self, group_id: str | None = None, *, read_committed: bool = True) -> MemoryReader:
        """A reader of its own. Raises LogAway."""
        self.parts(())
        return MemoryReader(self, group_id, read_committed)

    def reader_for(self, group_id: str | None) -> OpenReader:
        """What a feed of a group opens its readers with."""

        def opened(*, read_committed: bool = True) -> MemoryReader:
            return self.reader(group_id if read_committed else None, read_committed=read_committed)

        return opened

    # -- for readers ------------------------------------------------------------------------------------------------

    def parts(self, partitions: Iterable[Partition]) -> dict[Partition, _Part]:
        """What is behind partitions. Raises LogAway: the broker is, or there is no such partition."""
        with self._changed:
            if not self._up:
                raise LogAway("the log was told to be away")
            try:
                return {Partition(*p): self._topics[p[0]][p[1]] for p in partitions}
            except (KeyError, IndexError):
                raise LogAway("no such partition") from None

    def numbers(self, topic: str) -> list[int]:
        """Partitions of a topic."""
        self.parts(())
        return list(range(len(self._topics.get(topic, ()))))

    def committed(self, group_id: str, partition: Partition) -> Committed | None:
        """What was committed."""
        self.parts(())
        return self._committed.get((group_id, partition))

    def wait(self, timeout_s: float) -> None:
        """Until something changes."""
        with self._changed:
            self._changed.wait(timeout_s)


class MemoryReader:
    """Implements transport.LogReader."""

    def __init__(self, log: MemoryLog, group_id: str | None, read_committed: bool) -> None:
        self._log, self._group_id, self._read_committed = log, group_id, read_committed
        self._positions: dict[Partition, int] = {}
        self._paused: set[Partition] = set()

    def partitions(self, topic: str) -> list[int]:
        return self._log.numbers(topic)

    def assign(self, offsets: Mapping[Partition, int]) -> None:
        self._positions = {Partition(*p): offset for p, offset in offsets.items()}
        self._paused = set()

    def seek(self, partition: Partition, offset: int) -> None:
        self._positions[Partition(*partition)] = offset
        self._paused.discard(Partition(*partition))

    def pause(self, partition: Partition) -> None:
        self._paused.add(Partition(*partition))

    def resume(self, partition: Partition) -> None:
        self._paused.discard(Partition(*partition))

    def read(self, timeout_s: float, max_records: int) -> list[Read]:
        deadline_s = time.monotonic() + timeout_s
        while not (found := self._there_is(max_records)) and (left_s := deadline_s - time.monotonic()) > 0:
            self._log.wait(left_s)
        return found

    def position(self, partition: Partition) -> int | None:
        return self._positions.get(Partition(*partition))

    def first(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return {p: part.first for p, part in self._log.parts(partitions).items()}

    def ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        return {p: self._end(part) for p, part in self._log.parts(partitions).items()}

    def committed(self, partition: Partition) -> Committed | None:
        return None if self._group_id is None else self._log.committed(self._group_id, partition)

    def close(self) -> None:
        self._positions = {}

    def _end(self, part: _Part) -> int:
        return part.end if part.held is None or not self._read_committed else part.held

    def _there_is(self, max_records: int) -> list[Read]:
        try:
            parts = self._log.parts(p for p in self._positions if p not in self._paused)
        except LogAway:
            return []  # as real clients do: a read of a log that is away brings nothing
        out, gone = [], {}
        for p, part in parts.items():
            at, end = self._positions[p], self._end(part)
            if not part.first <= at <= part.end:
                gone[p] = at
                continue
            records = [r for r in part.records if at <= r.offset < end][:max_records]
            max_records -= len(records)
            if records:
                out.append(Read(p, records, sum(len(r.key or b"") + len(r.value or b"") for r in records)))
                self._positions[p] = records[-1].offset + 1
            elif max_records > 0:
                self._positions[p] = max(at, end)  # markers, and what was compacted away
            if max_records <= 0:
                break
        if gone and not out:
            raise OffsetsGone(gone)
        return out


class MemoryFeedbackLog(MemoryReader):
    """Implements the edge's inbox.FeedbackLog: the same, without sizes."""

    def read(self, timeout_s: float, max_records: int) -> list[tuple[Partition, list[Record]]]:  # type: ignore[override]
        return [(read.partition, read.records) for read in super().read(timeout_s, max_records)]
