"""The log on kafka-python: the default."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, LogTruncationError, OffsetOutOfRangeError

from pipelines.io.chunk import Record
from pipelines.io.partition import Partition
from pipelines.io.transport import Committed, LogAway, OffsetsGone, Read, is_retried

#: How long one request for offsets may take before it counts as "the broker is away".
REQUEST_MS = 5_000


class KafkaPythonReader:
    """Implements transport.LogReader."""

    def __init__(self, open_consumer: Callable[[], KafkaConsumer]) -> None:
        """Raises LogAway: the broker is not there."""
        with _answered():
            self._consumer = open_consumer()

    def partitions(self, topic: str) -> list[int]:
        """See LogReader."""
        with _answered():
            return sorted(self._consumer.partitions_for_topic(topic) or ())

    def assign(self, offsets: Mapping[Partition, int]) -> None:
        """See LogReader."""
        tps = {p: TopicPartition(*p) for p in offsets}
        with _answered():
            self._consumer.assign(list(tps.values()))
            self._consumer.resume(*tps.values())
            for p, offset in offsets.items():
                self._consumer.seek(tps[p], offset)

    def seek(self, partition: Partition, offset: int) -> None:
        """See LogReader."""
        self._consumer.seek(TopicPartition(*partition), offset)
        self._consumer.resume(TopicPartition(*partition))

    def pause(self, partition: Partition) -> None:
        """See LogReader."""
        self._consumer.pause(TopicPartition(*partition))

    def resume(self, partition: Partition) -> None:
        """See LogReader."""
        self._consumer.resume(TopicPartition(*partition))

    def read(self, timeout_s: float, max_records: int) -> list[Read]:
        """See LogReader."""
        _unpark(self._consumer)
        with _answered():
            polled = self._consumer.poll(timeout_ms=round(timeout_s * 1000), max_records=max_records)
        out = []
        for tp, raw in polled.items():
            # the sizes are known already, which saves a look at each key and value; missing ones are counted as -1
            size = sum(max(0, r.serialized_key_size) + max(0, r.serialized_value_size) for r in raw)
            records = [Record(r.offset, r.key, r.value, r.timestamp, is_retried(r.headers)) for r in raw]
            out.append(Read(Partition(tp.topic, tp.partition), records, size))
        return out

    def position(self, partition: Partition) -> int | None:
        """See LogReader."""
        with _answered():
            position: int | None = self._consumer.position(TopicPartition(*partition), timeout_ms=0)
            return position

    def first(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """See LogReader."""
        return self._ask(self._consumer.beginning_offsets, partitions)

    def ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """See LogReader."""
        return self._ask(self._consumer.end_offsets, partitions)

    def committed(self, partition: Partition) -> Committed | None:
        """See LogReader."""
        with _answered():
            found = self._consumer.committed(TopicPartition(*partition), metadata=True, timeout_ms=REQUEST_MS)
        return None if found is None or found.offset < 0 else Committed(found.offset, found.metadata or "")

    def close(self) -> None:
        """See LogReader."""
        self._consumer.close(autocommit=False, timeout_ms=1_000)

    def _ask(self, question: Any, partitions: Iterable[Partition]) -> dict[Partition, int]:
        asked = [TopicPartition(*p) for p in partitions]
        with _answered():
            # kafka-python leaves out what it knows no leader of, and then misses it with a KeyError: let it learn first
            for topic in {tp.topic for tp in asked}:
                self._consumer.partitions_for_topic(topic)
            try:
                found = question(asked, timeout_ms=REQUEST_MS)
            except KeyError as missing:
                raise LogAway(f"no leader is known for {missing.args[0]}") from missing
        return {Partition(*tp): offset for tp, offset in found.items()}


def _unpark(consumer: KafkaConsumer) -> None:
    """Let kafka-python 3.0 go back to what it holds of partitions that were paused in the middle of a fetch.

    It does so only while the place for "the fetch that is being handed out" holds None. A fetch that was handed out
    to its end stays there, empty, and for as long as it does the others are neither handed out nor fetched anew.
    """
    fetcher = consumer._fetcher
    if not fetcher._next_partition_records:
        fetcher._next_partition_records = None


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except OffsetOutOfRangeError as gone:
        raise OffsetsGone({Partition(*tp): offset for tp, offset in gone.args[0].items()}) from gone
    except LogTruncationError as cut:
        raise OffsetsGone({Partition(*tp): -1 for tp in cut.divergent_offsets}) from cut
    except (KafkaError, OSError) as away:
        raise LogAway(f"{type(away).__name__}: {away}") from away
