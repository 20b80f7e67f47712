"""The log on librdkafka (extra `fast`): the reader of the source and the producer of the sink.

What is promised is the same as on kafka-python, and so are the names of the settings. Committed offsets stay with
kafka-python: confluent-kafka 2.16 reads past the end of the note beside one, and commits are few and small. So do
transactions: librdkafka sends the end of one again by itself after a lost connection and tells nobody, and the first
copy, when it arrives at last, commits what it finds then (docs/adr/0023-answers-with-their-positions.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

try:
    import confluent_kafka as ck
except ModuleNotFoundError as _missing:
    from schemas.errors import MissingToolError
    from schemas.librdkafka import INSTALL

    raise MissingToolError("the Python package confluent-kafka is not installed", fix=INSTALL) from _missing

from kafka import KafkaConsumer
from kafka.errors import KafkaError, KafkaTimeoutError

from pipelines.io.chunk import Outgoing, Record
from pipelines.io.kafka_python import KafkaPythonReader
from pipelines.io.partition import Partition
from pipelines.io.transport import Committed, LogAway, OffsetsGone, Read, is_retried
from schemas.librdkafka import translated

#: How long the broker may take to answer a question before it counts as away.
ANSWER_S = 5.0
#: librdkafka's own log says on stderr, at every attempt, what our sentences say once.
_QUIET = {"log_level": 2, "log.connection.close": False}
_GONE = frozenset({ck.KafkaError._AUTO_OFFSET_RESET, ck.KafkaError.OFFSET_OUT_OF_RANGE, ck.KafkaError._LOG_TRUNCATION})
#: Said while a connection is made anew, which happens by itself; questions that are not answered tell of an outage.
_PASSING = frozenset({ck.KafkaError._TRANSPORT, ck.KafkaError._ALL_BROKERS_DOWN, ck.KafkaError._TIMED_OUT})


def check(client: Mapping[str, Any]) -> None:
    """Say now what would fail in a worker. Raises ConfigError: a setting has no counterpart here."""
    translated(client)


class ConfluentReader:
    """Implements transport.LogReader."""

    def __init__(
        self,
        bootstrap_servers: str,
        client: Mapping[str, Any],
        open_notes: Callable[[], KafkaConsumer],
        *,
        queued_bytes: int,
        read_committed: bool = True,
    ) -> None:
        """`client`: named as kafka-python names them. `queued_bytes`: what librdkafka may hold, about.

        `open_notes`: opens the consumer that is asked for committed offsets.

        Raises ConfigError: a setting that has no counterpart.
        """
        self._consumer = ck.Consumer(
            {
                "fetch.queue.backoff.ms": 10,  # 1 s by default: a reader that empties the queue would wait for it
                "queued.max.messages.kbytes": max(1024, queued_bytes >> 10),
                **_QUIET,
                **translated(client),
                "bootstrap.servers": bootstrap_servers,
                "group.id": "tidegate-reader",  # asked for by the client; nothing joins it or commits
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed" if read_committed else "read_uncommitted",
                "allow.auto.create.topics": False,
            }
        )
        self._open_notes = open_notes
        self._notes: KafkaPythonReader | None = None
        self._positions: dict[Partition, int] = {}
        self._gone: dict[Partition, int] = {}
        self._paused: set[Partition] = set()

    def partitions(self, topic: str) -> list[int]:
        """See LogReader."""
        with _answered():
            found = self._consumer.list_topics(topic, timeout=ANSWER_S).topics.get(topic)
        return sorted(found.partitions) if found is not None and found.error is None else []

    def assign(self, offsets: Mapping[Partition, int]) -> None:
        """See LogReader."""
        for partition in list(self._paused):
            self.resume(partition)
        with _answered():
            self._consumer.assign([ck.TopicPartition(*p, offset) for p, offset in offsets.items()])
        self._positions, self._gone = dict(offsets), {}

    def seek(self, partition: Partition, offset: int) -> None:
        """See LogReader."""
        if partition in self._paused:  # it would stay so, in a new assignment, too
            self.resume(partition)
        with _answered():  # not seek(), which fails while the client has not begun to fetch the partition
            self._consumer.incremental_unassign([ck.TopicPartition(*partition)])
            self._consumer.incremental_assign([ck.TopicPartition(*partition, offset)])
        self._positions[partition] = offset
        self._gone.pop(partition, None)

    def pause(self, partition: Partition) -> None:
        """See LogReader."""
        with _answered():
            self._consumer.pause([ck.TopicPartition(*partition)])
        self._paused.add(partition)

    def resume(self, partition: Partition) -> None:
        """See LogReader."""
        with _answered():
            self._consumer.resume([ck.TopicPartition(*partition)])
        self._paused.discard(partition)

    def read(self, timeout_s: float, max_records: int) -> list[Read]:
        """See LogReader."""
        if self._gone:
            raise OffsetsGone(self._gone)
        with _answered():
            batch: list[Any] = self._consumer.consume(1, timeout_s)  # more than one would wait for all of them
            if batch and max_records > 1:
                batch += self._consumer.consume(max_records - 1, 0)
        found: dict[tuple[str, int], list[Record]] = {}
        sizes: dict[tuple[str, int], int] = {}
        wrong = ""
        for message in batch:
            error = message.error()
            where = (message.topic(), message.partition())
            if error is None:
                key, value = message.key(), message.value()
                record = Record(message.offset(), key, value, message.timestamp()[1], is_retried(message.headers()))
                size = (len(key) if key else 0) + (len(value) if value else 0)
                try:
                    found[where].append(record)
                    sizes[where] += size
                except KeyError:
                    found[where], sizes[where] = [record], size
            else:
                wrong = self._noted(error, where, message.offset()) or wrong
        for where, records in found.items():
            self._positions[Partition(*where)] = max(self._positions[Partition(*where)], records[-1].offset + 1)
        if wrong and not found:
            raise LogAway(wrong)
        return [Read(Partition(*where), records, sizes[where]) for where, records in found.items()]

    def position(self, partition: Partition) -> int | None:
        """See LogReader."""
        return self._positions.get(partition)

    def first(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """See LogReader."""
        return self._ask(partitions, ck.OFFSET_BEGINNING)

    def ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """See LogReader."""
        return self._ask(partitions, ck.OFFSET_END)

    def committed(self, partition: Partition) -> Committed | None:
        """See LogReader."""
        if self._notes is None:
            self._notes = KafkaPythonReader(self._open_notes)
        return self._notes.committed(partition)

    def close(self) -> None:
        """See LogReader."""
        self._consumer.close()
        if self._notes is not None:
            self._notes.close()

    def _ask(self, partitions: Iterable[Partition], which: int) -> dict[Partition, int]:
        """One request for all of them: to the broker, the ends of a log are times, too, before and after any other."""
        with _answered():
            found = self._consumer.offsets_for_times(
                [ck.TopicPartition(*p, which) for p in partitions], timeout=ANSWER_S
            )
        for told in found:
            if told.error is not None or told.offset < 0:
                raise LogAway(told.error.str() if told.error is not None else f"no offset of {told.topic} is known")
        return {Partition(told.topic, told.partition): told.offset for told in found}

    def _noted(self, error: Any, where: tuple[str, int], offset: int | None) -> str:
        """What an event that is not a record means: a position, a gap, or a reason why nothing comes."""
        code = error.code()
        if code == ck.KafkaError._PARTITION_EOF:
            # It may lie behind the last record: markers of transactions, and what was compacted away.
            self._positions[Partition(*where)] = offset or 0
        elif code in _GONE:
            partition = Partition(*where)
            self._gone[partition] = self._positions.get(partition, -1)
        elif code not in _PASSING:
            return str(error.str())
        return ""


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except ck.KafkaException as away:
        error = away.args[0]
        raise LogAway(f"{error.name()}: {error.str()}") from away


class ConfluentProducer:
    """An idempotent producer for many records at once, with kafka-python's errors."""

    def __init__(self, bootstrap_servers: str, timeout_s: float, client: Mapping[str, Any]) -> None:
        """`timeout_s`: how long a record may take, outages included. Raises ConfigError: as the reader."""
        self._timeout_s = timeout_s
        self._settings = {
            "linger.ms": 5,
            "batch.size": 256 << 10,
            "reconnect.backoff.max.ms": 1_000,
            **_QUIET,
            **translated(client),
            "bootstrap.servers": bootstrap_servers,
            "acks": "all",
            "enable.idempotence": True,
            "message.timeout.ms": int(timeout_s * 1000),
            "message.max.bytes": 1 << 20,
            "partitioner": "murmur2_random",  # Kafka's own choice by key
        }
        self._producer = ck.Producer(self._settings)

    def send(self, topic: str, records: Iterable[Outgoing]) -> Lot:
        """Hand records over in order; does not wait for the broker.

        Raises KafkaError: one is too large, or there is no room for it in time.
        """
        lot = Lot(self._producer)
        for key, value, headers in records:
            self._produce(topic, value, key, list(headers), lot)
        return lot

    def _produce(self, topic: str, value: bytes | None, key: bytes | None, headers: list[Any], lot: Lot) -> None:
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            try:
                self._producer.produce(topic, value, key, headers=headers, on_delivery=lot.answered)
            except BufferError:  # its queue is full: let it get rid of some
                if time.monotonic() > deadline_s:
                    raise KafkaTimeoutError("the producer's queue stays full") from None
                self._producer.poll(0.05)
            except ck.KafkaException as failed:
                error = failed.args[0]
                if error.fatal():  # it will never send again: the next bundle gets a new one
                    self._producer = ck.Producer(self._settings)
                raise KafkaError(f"{error.name()}: {error.str()}") from failed
            else:
                lot.sent += 1
                return

    def close(self, timeout: float) -> None:
        """Let go; waits at most `timeout` for what is on its way, in seconds."""
        self._producer.flush(timeout)
        self._producer.purge()
        self._producer.poll(0)


class Lot:
    """Records that were handed over together."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._answers: list[Any] = []  # appended to by whichever thread takes answers in
        self.sent = 0

    def answered(self, error: Any, message: Any) -> None:
        """What librdkafka calls for each record."""
        self._answers.append(error)

    def wait(self, deadline_s: float) -> None:
        """Until the broker has every record; `deadline_s` by the monotonic clock.

        Raises KafkaError: it does not take one, or not in time.
        """
        while len(self._answers) < self.sent:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise KafkaTimeoutError(f"no acknowledgement of {self.sent - len(self._answers)} records in time")
            self._producer.flush(left_s)  # does not linger
        for error in self._answers:
            if error is not None:
                raise KafkaError(f"{error.name()}: {error.str()}")
