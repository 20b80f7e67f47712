"""The log on kafka-python: the default."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    LogTruncationError,
    OffsetOutOfRangeError,
    for_code,
)
from kafka.producer.transaction_manager import AddOffsetsToTxnHandler, EndTxnHandler, TxnOffsetCommitHandler
from kafka.structs import OffsetAndMetadata

from pipelines.io import bulk
from pipelines.io.chunk import Outgoing, Record
from pipelines.io.outcome import Move, Step, move
from pipelines.io.partition import Partition
from pipelines.io.transport import TRANSACTION_TIMEOUT_S, Committed, LogAway, OffsetsGone, Read, Trouble, is_retried

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
        if found is None or found.offset < 0:
            return None
        return Committed(found.offset, found.metadata or "")

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


class KafkaPythonTransactions:
    """Implements transport.Transactions."""

    def __init__(
        self, bootstrap_servers: str, transactional_id: str, group_id: str, client: Mapping[str, Any], timeout_s: float
    ) -> None:
        """Take the name over. `timeout_s`: for connecting, and for ending what was open under it. Raises Trouble."""
        self._group_id, self._sent, self._lots = group_id, [], 0  # type: tuple[str, list[bulk.Sent], int]
        self._producer: Any = None
        with _step(Step.OPEN):
            self._producer = KafkaProducer(
                **{
                    "linger_ms": 5,
                    "batch_size": 256 << 10,
                    "reconnect_backoff_max_ms": 1_000,
                    "bootstrap_timeout_ms": round(timeout_s * 1000),
                    **client,
                    "bootstrap_servers": bootstrap_servers,
                    "transactional_id": transactional_id,
                    "transaction_timeout_ms": round(TRANSACTION_TIMEOUT_S * 1000),
                    "retry_backoff_ms": 10,  # a transaction that follows another at once is told to wait a little
                    "request_timeout_ms": 5_000,
                    "delivery_timeout_ms": 10_000,
                    "max_block_ms": round(timeout_s * 1000),
                    "acks": "all",
                    "enable_idempotence": True,
                    "allow_auto_create_topics": False,
                    "metrics_enabled": False,
                }
            )
            self._manager = self._producer._transaction_manager
            _never_twice(self._manager)
            try:
                self._producer.init_transactions()
            except BaseException:
                self.close()
                raise

    def begin(self) -> None:
        """See Transactions."""
        with self._in(Step.BEGIN):
            self._producer.begin_transaction()
        self._sent = []

    def send(self, topic: str, records: Sequence[Outgoing]) -> None:
        """See Transactions."""
        with self._in(Step.SEND):
            self._lots += 1
            self._sent.append(bulk.send(self._producer, topic, records, keyless=self._lots))

    def flush(self, deadline_s: float) -> None:
        """See Transactions."""
        with self._in(Step.SEND):
            for sent in self._sent:
                sent.wait(deadline_s)

    def offsets(self, offsets: Mapping[Partition, Committed], deadline_s: float) -> None:
        """See Transactions."""
        with self._in(Step.OFFSETS):
            wanted = {TopicPartition(*p): OffsetAndMetadata(c.offset, c.note, -1) for p, c in offsets.items()}
            self._wait(self._manager.send_offsets_to_transaction(wanted, self._group_id), deadline_s)

    def commit(self, deadline_s: float) -> None:
        """See Transactions."""
        with self._in(Step.COMMIT):
            self._wait(self._manager.begin_commit(), deadline_s)

    def close(self) -> None:
        """See Transactions."""
        if self._producer is None:
            return
        self._producer._sender.force_close()  # close() alone would go on sending what is queued
        self._producer._sender.join(1.0)
        with contextlib.suppress(KafkaError):
            self._producer.close(timeout=0)

    def _wait(self, result: Any, deadline_s: float) -> None:
        self._producer._sender.wakeup()  # commit_transaction() of kafka-python does so too, and then waits for ever
        if not result.wait(max(0.0, deadline_s - time.monotonic()) * 1000):
            raise KafkaTimeoutError("no answer in time")

    @contextmanager
    def _in(self, step: Step) -> Iterator[None]:
        with _step(step, self._manager):
            yield


#: Requests that a later transaction must not find on their way.
_ONCE = (AddOffsetsToTxnHandler, TxnOffsetCommitHandler, EndTxnHandler)


def _never_twice(manager: Any) -> None:
    """Make kafka-python's manager of transactions give up where it would send a request again whose outcome is unknown.

    It does so by itself after a lost connection. There is no setting against it, so each request is asked here first.
    """
    enqueue = manager._enqueue_request

    def enqueue_once(handler: Any) -> None:
        if isinstance(handler, _ONCE) and "on_complete" not in vars(handler):
            handler.on_complete = _guarded(manager, handler, handler.on_complete)
        enqueue(handler)

    manager._enqueue_request = enqueue_once


def _guarded(manager: Any, handler: Any, complete: Callable[[int, Any], None]) -> Callable[[int, Any], None]:
    step = Step.COMMIT if isinstance(handler, EndTxnHandler) else Step.OFFSETS

    def on_complete(correlation_id: int, told: Any) -> None:
        for problem in _problems(told):
            if move(step, _name(problem)) is not Move.RETRY:
                manager.clear_in_flight_transactional_request_correlation_id()
                handler.fatal_error(problem)
                return
        complete(correlation_id, told)

    return on_complete


def _problems(told: Any) -> list[Exception]:
    """Errors in the answer to one of those requests."""
    if isinstance(told, Exception):
        return [told]
    if hasattr(told, "error_code"):
        codes = [told.error_code]
    else:
        codes = [code for _, partitions in getattr(told, "topics", ()) for _, code in partitions]
    return [for_code(code)() for code in codes if code]


def _name(error: BaseException) -> str:
    """Kafka's name of an error, or librdkafka's where it comes from the client."""
    if isinstance(error, KafkaConnectionError):
        return "_TRANSPORT"
    if isinstance(error, KafkaTimeoutError | OSError):
        return "_TIMED_OUT"
    return str(getattr(error, "message", "") or type(error).__name__)


@contextmanager
def _step(step: Step, manager: Any = None) -> Iterator[None]:
    try:
        yield
    except (KafkaError, OSError) as error:
        cause = (manager.last_error if manager is not None else None) or error
        raise Trouble(step, _name(cause), str(cause)[:300] or type(cause).__name__) from error
