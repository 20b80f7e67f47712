"""Transactions in memory: topics, a group's offsets, and a name that one writer holds at a time.

`trouble` holds what the next steps do instead of working: (step, error's name, whether it has worked all the same).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence

from pipelines.io.chunk import Outgoing
from pipelines.io.outcome import Step
from pipelines.io.partition import Partition
from pipelines.io.transport import Committed, Trouble


class MemoryTransactions:
    """The broker's side. One name, one group."""

    def __init__(self) -> None:
        self.topics: dict[str, list[Outgoing]] = defaultdict(list)
        self.committed: dict[Partition, Committed] = {}
        self.epoch = 0
        self.count = 0
        self.trouble: deque[tuple[Step, str, bool]] = deque()
        self.at_step: Callable[[Step], None] = lambda step: None

    def writer(self) -> MemoryWriter:
        """Takes the name over. Raises Trouble."""
        self.fails(Step.OPEN)
        self.epoch += 1
        return MemoryWriter(self, self.epoch)

    def reader(self) -> MemoryOffsets:
        """Knows what is committed."""
        return MemoryOffsets(self)

    def fails(self, step: Step, work: Callable[[], None] = lambda: None) -> None:
        """Do the work of a step, or what it is told to do instead."""
        self.at_step(step)
        if self.trouble and self.trouble[0][0] is step:
            _, name, done = self.trouble.popleft()
            if done:
                work()
            raise Trouble(step, name, "as it was told")
        work()


class MemoryWriter:
    """Implements transport.Transactions."""

    def __init__(self, broker: MemoryTransactions, epoch: int) -> None:
        self._broker, self._epoch = broker, epoch
        self._records: list[tuple[str, Outgoing]] = []
        self._offsets: dict[Partition, Committed] = {}

    def begin(self) -> None:
        self._records, self._offsets = [], {}
        self._broker.fails(Step.BEGIN)

    def send(self, topic: str, records: Sequence[Outgoing]) -> None:
        self._records += [(topic, record) for record in records]

    def flush(self, deadline_s: float) -> None:
        self._mine(Step.SEND)
        self._broker.fails(Step.SEND)

    def offsets(self, offsets: Mapping[Partition, Committed], deadline_s: float) -> None:
        self._mine(Step.OFFSETS)
        self._offsets = dict(offsets)
        self._broker.fails(Step.OFFSETS)

    def commit(self, deadline_s: float) -> None:
        self._mine(Step.COMMIT)

        def work() -> None:
            for topic, record in self._records:
                self._broker.topics[topic].append(record)
            self._broker.committed |= self._offsets
            self._broker.count += 1

        self._broker.fails(Step.COMMIT, work)

    def close(self) -> None:
        self._epoch = -1

    def _mine(self, step: Step) -> None:
        if self._epoch != self._broker.epoch:
            raise Trouble(step, "PRODUCER_FENCED", "another writer has the name")


class MemoryOffsets:
    """The part of a LogReader that the writer of answers asks."""

    def __init__(self, broker: MemoryTransactions) -> None:
        self._broker = broker

    def committed(self, partition: Partition) -> Committed | None:
        return self._broker.committed.get(partition)

    def close(self) -> None:
        pass
