"""What the feed needs from a log, and who provides it: kafka-python, confluent-kafka, or a double in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from pipelines.io.chunk import Outgoing, Record
from pipelines.io.outcome import Move, Step, move
from pipelines.io.partition import Partition
from schemas.topics import RETRY_HEADER


class LogAway(Exception):
    """The log did not answer; asking again later can help. Its words are the reason."""


class OffsetsGone(Exception):
    """Records were deleted before they were read, or the log was cut: `asked` has the offsets that are not there."""

    def __init__(self, asked: Mapping[Partition, int]) -> None:
        super().__init__(dict(asked))
        self.asked = dict(asked)


class Committed(NamedTuple):
    """A committed offset and the note beside it."""

    offset: int
    note: str


class Read(NamedTuple):
    """Records of one partition, in order, and the bytes of their keys and values."""

    partition: Partition
    records: list[Record]
    size: int


def is_retried(headers: Iterable[tuple[str, bytes | None]] | None) -> bool:
    """Whether a record's headers say that it was a dead letter and was sent again."""
    return bool(headers) and any(name == RETRY_HEADER for name, _ in headers or ())


class LogReader(Protocol):
    """Reads partitions of a log, committed records only unless it was opened otherwise. Used by one thread.

    Every call may raise LogAway.
    """

    def partitions(self, topic: str) -> list[int]:
        """Partitions of a topic, sorted; none where there is no such topic."""
        ...

    def assign(self, offsets: Mapping[Partition, int]) -> None:
        """Read these and no others, each from its offset; none of them is paused."""
        ...

    def seek(self, partition: Partition, offset: int) -> None:
        """Go on reading there, also where it was paused."""
        ...

    def pause(self, partition: Partition) -> None:
        """Read nothing of it until it is resumed."""
        ...

    def resume(self, partition: Partition) -> None:
        """Read it again, from where it was paused."""
        ...

    def read(self, timeout_s: float, max_records: int) -> list[Read]:
        """What has come; waits up to `timeout_s` for a first record.

        Raises OffsetsGone: the partitions that it names stand still until they are told where to go on.
        """
        ...

    def position(self, partition: Partition) -> int | None:
        """Offset that is read next, with gaps and markers passed over that are known to hold nothing; None: unknown."""
        ...

    def first(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Offset of the oldest record of each that is still there."""
        ...

    def ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Offset behind the last record of each that this reader may see, asked afresh."""
        ...

    def committed(self, partition: Partition) -> Committed | None:
        """What the group has committed; None where it has not."""
        ...

    def close(self) -> None:
        """Let go; waits a second at most."""
        ...


class OpenReader(Protocol):
    """Opens a log."""

    def __call__(self, *, read_committed: bool = True) -> LogReader:
        """A reader; one with `read_committed=False` sees open transactions, too. Raises LogAway."""
        ...


#: How long the broker leaves a transaction open that nobody ends; until then readers wait behind it.
TRANSACTION_TIMEOUT_S = 15.0
#: How long one attempt at a transaction may take; less than that.
ATTEMPT_S = 10.0


class Trouble(Exception):
    """A step of a transaction failed. The producer it came from is not used again, unless `move` is RETRY."""

    def __init__(self, step: Step, name: str, words: str) -> None:
        """`name`: what Kafka or librdkafka call the error. `words`: theirs."""
        super().__init__(step, name, words)
        self.step, self.name, self.words = step, name, words

    @property
    def move(self) -> Move:
        """What to do about it."""
        return move(self.step, self.name)

    def __str__(self) -> str:
        return f"{self.step.value} failed: {self.name}: {self.words}"


class Transactions(Protocol):
    """Writes records and offsets of one group in transactions. To make one is to take its name over.

    Used by one thread. Every call may raise Trouble; after that, only close() makes sense. No request that adds offsets
    or ends a transaction is sent a second time when its outcome is not known; that is Trouble, too.
    """

    def begin(self) -> None:
        """Begin a transaction."""
        ...

    def send(self, topic: str, records: Sequence[Outgoing]) -> None:
        """Queue records, in order."""
        ...

    def flush(self, deadline_s: float) -> None:
        """Until the broker has every record; `deadline_s` by the monotonic clock, here and below."""
        ...

    def offsets(self, offsets: Mapping[Partition, Committed], deadline_s: float) -> None:
        """Commit offsets with their notes as a part of the transaction."""
        ...

    def commit(self, deadline_s: float) -> None:
        """End the transaction: all of it is there, or none of it."""
        ...

    def close(self) -> None:
        """Let go, without waiting for the broker."""
        ...
