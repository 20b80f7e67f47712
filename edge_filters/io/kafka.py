"""Kafka: the outbox on an idempotent producer, the inbox on a consumer without a group. No call of either blocks.

Connecting and reading happen in threads of their own, so a broker that is down at the start or goes away is a state
and never an exception in the filter's loop. The producer's delivery never times out by itself: what it holds arrives
in order or not at all, and what it does not hold yet waits in the spool.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import crc32c  # noqa: F401  # without it kafka-python falls back to a CRC in Python, twenty times slower, silently
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.partitioner import Partitioner, murmur2

from edge_filters.io.inbox import LogInbox, Place
from edge_filters.outgoing import Parcel, headers
from edge_filters.ports import Delivery, Report
from schemas import topics

_SENT = (topics.EVENTS, topics.AGGREGATES, topics.SAMPLES, topics.STATUS, topics.GAPS)
#: Silence of the broker, with records on their way, after which it counts as gone.
SILENT_S = 3.0
_RETRY_S = (0.2, 0.5, 1.0, 2.0)
_FOR_GOOD = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
    kafka_errors.InvalidTopicError,
)
_PENDING, _DELIVERED = Report(Delivery.PENDING), Report(Delivery.DELIVERED)

_hash = functools.lru_cache(maxsize=100_000)(murmur2)


class _KeyPartitioner(Partitioner):  # type: ignore[misc]  # untyped base
    """Kafka's own choice of a partition by key, remembering the hash: it costs more than the rest of a send."""

    def partition(
        self, topic: str, key: Any, serialized_key: bytes, value: Any, serialized_value: Any, cluster: Any
    ) -> int:
        """Partition of a record with a key."""
        chosen: int = (_hash(serialized_key) & 0x7FFFFFFF) % len(cluster.partitions_for_topic(topic))
        return chosen


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _has_topic(producer: Any, name: str) -> bool:
    try:
        return bool(producer.partitions_for(name))
    except kafka_errors.KafkaTimeoutError:  # the answer of the client for a topic that is not there
        return False


class KafkaOutbox:
    """Implements ports.Outbox."""

    def __init__(self, bootstrap_servers: str, topic_prefix: str = "", client: Mapping[str, Any] | None = None) -> None:
        """`client`: further settings of kafka-python, such as `security_protocol`."""
        self._names = {topic.name: topic.named(topic_prefix) for topic in (*_SENT, topics.CLAIMS)}
        self._needed = [topic.named(topic_prefix) for topic in _SENT]
        self._servers = bootstrap_servers
        self._settings = {
            "bootstrap_servers": bootstrap_servers.split(","),
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": 5,
            "batch_size": 256 * 1024,
            "delivery_timeout_ms": 2**31 - 1,
            "max_block_ms": 2000,
            "bootstrap_timeout_ms": 3000,
            "reconnect_backoff_max_ms": 1000,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
            "partitioner": _KeyPartitioner(),
        } | dict(client or {})
        self._producer: Any = None
        self._why = f"not connected to the broker at {bootstrap_servers} yet"
        self._stop = threading.Event()
        self._on_its_way = 0
        self._heard_s = time.monotonic()
        self._attempt = 0
        self._connect()

    def _connect(self) -> None:
        self._thread = threading.Thread(target=self._connecting, name="kafka-connect", daemon=True)
        self._thread.start()

    def _connecting(self) -> None:
        while not self._stop.is_set():
            if self._attempt:
                self._stop.wait(_RETRY_S[min(self._attempt, len(_RETRY_S)) - 1])
            self._attempt += 1  # an acknowledgement sets it back
            producer = None
            try:
                producer = KafkaProducer(**self._settings)
                missing = next((name for name in self._needed if not _has_topic(producer, name)), None)
                if missing is None:
                    self._heard_s, self._why, self._producer = time.monotonic(), "", producer
                    return
                self._why = f"the broker at {self._servers} has no topic {missing}; `tidegate up` makes the topics"
            except Exception as failed:  # kafka-python's own families and plain OSError, ValueError, AssertionError
                self._why = f"cannot use the broker at {self._servers}: {_reason(failed)}"
            if producer is not None:
                with contextlib.suppress(Exception):
                    producer.close(timeout=0)

    @property
    def ready(self) -> bool:
        """Whether a producer is there and knows every topic."""
        return self._producer is not None

    @property
    def problem(self) -> str:
        """Why nothing gets through, as a sentence."""
        if self._producer is not None and self._on_its_way and time.monotonic() - self._heard_s > SILENT_S:
            return f"the broker at {self._servers} acknowledges nothing"
        return self._why

    def send(self, parcel: Parcel) -> Any:
        """Hand a parcel to the producer."""
        if not self._on_its_way:
            self._heard_s = time.monotonic()
        self._on_its_way += 1
        try:
            return self._producer.send(
                self._names[parcel.topic], value=parcel.payload, key=parcel.key, headers=headers(parcel)
            )
        except Exception as failed:  # too large for the client, or metadata that is gone
            return failed

    def report(self, receipt: Any) -> Report:
        """What became of a parcel."""
        if isinstance(receipt, Exception):
            failed: BaseException = receipt
        elif not receipt.is_done:
            return _PENDING
        elif not receipt.failed():
            self._on_its_way = max(0, self._on_its_way - 1)
            self._heard_s = time.monotonic()
            self._attempt = 0
            return _DELIVERED
        else:
            failed = receipt.exception
        self._on_its_way = max(0, self._on_its_way - 1)  # after a restart, old receipts may still come
        self._heard_s = time.monotonic()
        return Report(Delivery.REFUSED if isinstance(failed, _FOR_GOOD) else Delivery.LOST, _reason(failed))

    def restart(self) -> None:
        """A new producer: the old one's sequence numbers are spoilt."""
        old, self._producer = self._producer, None
        self._on_its_way = 0
        self._why = f"connecting anew to the broker at {self._servers}"
        if old is not None:
            with contextlib.suppress(Exception):
                old.close(timeout=0)
        self._connect()

    def close(self, timeout_s: float) -> None:
        """Let go; waits at most `timeout_s` for what is on its way."""
        self._stop.set()
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(Exception):
                producer.close(timeout=timeout_s)
        self._thread.join(timeout_s + 5.0)


class KafkaInbox(LogInbox):
    """Implements ports.Inbox on kafka-python."""

    def __init__(
        self,
        bootstrap_servers: str,
        topic_prefix: str = "",
        client: Mapping[str, Any] | None = None,
        devices: Collection[str] = (),
    ) -> None:
        """`client`: as for the outbox; `devices`: whose claims are heard."""
        settings = {
            "bootstrap_servers": bootstrap_servers.split(","),
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "bootstrap_timeout_ms": 3000,
            "reconnect_backoff_max_ms": 1000,
            "fetch_max_bytes": 4 * 1024 * 1024,
            "max_partition_fetch_bytes": 1024 * 1024 + 65536,
            "metrics_enabled": False,
            "allow_auto_create_topics": False,
        } | dict(client or {})
        super().__init__(lambda: _Log(settings), bootstrap_servers, topic_prefix, devices)


class _Log:
    """Implements inbox.FeedbackLog."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._consumer = KafkaConsumer(**settings)

    def partitions(self, topic: str) -> list[int]:
        return sorted(self._consumer.partitions_for_topic(topic) or ())

    def assign(self, offsets: dict[Place, int]) -> None:
        self._consumer.assign([TopicPartition(*place) for place in offsets])
        for place, offset in offsets.items():
            self.seek(place, offset)

    def first(self, places: Iterable[Place]) -> dict[Place, int]:
        found = self._consumer.beginning_offsets([TopicPartition(*place) for place in places])
        return {Place(*where): offset for where, offset in found.items()}

    def ends(self, places: Iterable[Place]) -> dict[Place, int]:
        found = self._consumer.end_offsets([TopicPartition(*place) for place in places])
        return {Place(*where): offset for where, offset in found.items()}

    def seek(self, place: Place, offset: int) -> None:
        self._consumer.seek(TopicPartition(*place), offset)
        self._consumer.resume(TopicPartition(*place))

    def pause(self, place: Place) -> None:
        self._consumer.pause(TopicPartition(*place))

    def resume(self, place: Place) -> None:
        self._consumer.resume(TopicPartition(*place))

    def position(self, place: Place) -> int | None:
        position: int | None = self._consumer.position(TopicPartition(*place))
        return position

    def read(self, timeout_s: float, max_records: int) -> list[tuple[Place, Sequence[Any]]]:
        _unpark(self._consumer)
        polled = self._consumer.poll(timeout_ms=round(timeout_s * 1000), max_records=max_records)
        return [(Place(*where), messages) for where, messages in polled.items()]

    def close(self) -> None:
        self._consumer.close()


def _unpark(consumer: Any) -> None:
    """Let kafka-python 3.0 go back to what it holds of partitions that were paused in the middle of a fetch.

    It does so only while the place for "the fetch that is being handed out" holds None. A fetch that was handed out
    to its end stays there, empty, and for as long as it does the others are neither handed out nor fetched anew.
    """
    fetcher = consumer._fetcher
    if not fetcher._next_partition_records:
        fetcher._next_partition_records = None
