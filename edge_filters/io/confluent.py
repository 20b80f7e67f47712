"""The same two ports on librdkafka (extra `fast`): the outbox and the inbox as in kafka.py, several times cheaper.

What is promised is the same, and so are the names of the settings; tests/contracts holds both to it. librdkafka
connects and sends in threads of its own; acknowledgements are taken in when somebody asks for a report.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

try:
    import confluent_kafka as ck
except ModuleNotFoundError as _missing:
    from schemas.errors import MissingToolError
    from schemas.librdkafka import INSTALL

    raise MissingToolError("the Python package confluent-kafka is not installed", fix=INSTALL) from _missing

from edge_filters.io.inbox import LogInbox, Place
from edge_filters.outgoing import Parcel, headers
from edge_filters.ports import Delivery, Report
from schemas import topics
from schemas.librdkafka import translated

_SENT = (topics.EVENTS, topics.AGGREGATES, topics.SAMPLES, topics.STATUS, topics.GAPS)
#: Silence of the broker, with records on their way, after which it counts as gone.
SILENT_S = 3.0
#: How long the broker may take to answer a question before it counts as gone.
ANSWER_S = 3.0
LARGEST_BYTES = 1024 * 1024
_RETRY_S = (0.2, 0.5, 1.0, 2.0)
_FOR_GOOD = frozenset(
    {
        ck.KafkaError.MSG_SIZE_TOO_LARGE,
        ck.KafkaError.RECORD_LIST_TOO_LARGE,
        ck.KafkaError.TOPIC_EXCEPTION,
        ck.KafkaError.INVALID_RECORD,
    }
)
_PENDING, _DELIVERED = Report(Delivery.PENDING), Report(Delivery.DELIVERED)
#: librdkafka's own log says on stderr, at every attempt, what our sentences say once.
_QUIET = {"log_level": 2, "log.connection.close": False}


def _reason(error: BaseException) -> str:
    """What went wrong, in the client's words."""
    cause = error.args[0] if isinstance(error, ck.KafkaException) and error.args else error
    return (cause.str() if isinstance(cause, ck.KafkaError) else str(cause)) or type(error).__name__


def _keep_first(said: list[str], error: ck.KafkaError) -> None:
    """The first of a row of errors names the cause; what follows says that all brokers are down, again and again."""
    if not said:
        said.append(error.str())


class _Receipt:
    """What is known about one parcel; librdkafka calls it back once."""

    __slots__ = ("done", "error")

    def __init__(self, error: Exception | ck.KafkaError | None = None) -> None:
        self.done, self.error = error is not None, error

    def __call__(self, error: ck.KafkaError | None, message: Any) -> None:
        self.done, self.error = True, error


class ConfluentOutbox:
    """Implements ports.Outbox on librdkafka's idempotent producer."""

    def __init__(self, bootstrap_servers: str, topic_prefix: str = "", client: Mapping[str, Any] | None = None) -> None:
        """`client`: further settings, named as kafka-python names them. Raises ConfigError: one has no counterpart."""
        self._names = {topic.name: topic.named(topic_prefix) for topic in (*_SENT, topics.CLAIMS)}
        self._needed = [topic.named(topic_prefix) for topic in _SENT]
        self._servers = bootstrap_servers
        self._settings: dict[str, Any] = {
            "linger.ms": 5,
            "batch.size": 256 * 1024,
            "reconnect.backoff.max.ms": 1000,
            **_QUIET,
            **translated(client or {}),
            "bootstrap.servers": bootstrap_servers,
            "acks": "all",
            "enable.idempotence": True,
            "message.timeout.ms": 0,  # never: what it holds arrives in order or not at all
            "message.max.bytes": LARGEST_BYTES,
            "partitioner": "murmur2_random",  # Kafka's own choice by key
        }
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
            said: list[str] = []
            producer: Any = None
            try:
                heard = functools.partial(_keep_first, said)
                producer = ck.Producer(self._settings | {"error_cb": heard})
                there = producer.list_topics(timeout=ANSWER_S).topics
                missing = next((name for name in self._needed if name not in there), None)
                if missing is None:
                    self._heard_s, self._why, self._producer = time.monotonic(), "", producer
                    return
                self._why = f"the broker at {self._servers} has no topic {missing}; `tidegate up` makes the topics"
            except Exception as failed:  # KafkaException of the client, ValueError of a setting it does not like
                if producer is not None:
                    producer.poll(0)  # this is when it says why
                self._why = f"cannot use the broker at {self._servers}: {said[0] if said else _reason(failed)}"

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

    def send(self, parcel: Parcel) -> _Receipt:
        """Hand a parcel to the producer."""
        if not self._on_its_way:
            self._heard_s = time.monotonic()
        self._on_its_way += 1
        receipt = _Receipt()
        try:
            self._producer.produce(
                self._names[parcel.topic], parcel.payload, parcel.key, headers=headers(parcel), on_delivery=receipt
            )
        except Exception as failed:  # too large for the client, its queue is full, or it failed for good
            return _Receipt(failed)
        return receipt

    def report(self, receipt: _Receipt) -> Report:
        """What became of a parcel."""
        if not receipt.done:
            if self._producer is not None:
                self._producer.poll(0)
            if not receipt.done:
                return _PENDING
        self._on_its_way = max(0, self._on_its_way - 1)  # after a restart, old receipts may still come
        self._heard_s = time.monotonic()
        error = receipt.error
        if error is None:
            self._attempt = 0
            return _DELIVERED
        known = error.args[0] if isinstance(error, ck.KafkaException) else error
        code = known.code() if isinstance(known, ck.KafkaError) else None
        if code == ck.KafkaError.MSG_SIZE_TOO_LARGE:
            why = f"it is larger than the maximum request size of {LARGEST_BYTES} bytes, or than the topic takes"
        else:
            why = known.str() if isinstance(known, ck.KafkaError) else _reason(known)
        return Report(Delivery.REFUSED if code in _FOR_GOOD else Delivery.LOST, why)

    def restart(self) -> None:
        """A new producer: the old one's sequence numbers are spoilt."""
        old, self._producer = self._producer, None
        self._on_its_way = 0
        self._why = f"connecting anew to the broker at {self._servers}"
        if old is not None:
            _let_go(old)
        self._connect()

    def close(self, timeout_s: float) -> None:
        """Let go; waits at most `timeout_s` for what is on its way."""
        self._stop.set()
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(Exception):
                producer.flush(timeout_s)
            _let_go(producer)
        self._thread.join(timeout_s + ANSWER_S + 2.0)


def _let_go(producer: Any) -> None:
    """Drop what a producer still holds: closing it waits for nothing then."""
    with contextlib.suppress(Exception):
        producer.purge()
        producer.poll(0)


class ConfluentInbox(LogInbox):
    """Implements ports.Inbox on librdkafka."""

    def __init__(
        self,
        bootstrap_servers: str,
        topic_prefix: str = "",
        client: Mapping[str, Any] | None = None,
        devices: Collection[str] = (),
    ) -> None:
        """`client`: as for the outbox; `devices`: whose claims are heard."""
        settings: dict[str, Any] = {
            "fetch.max.bytes": 4 * 1024 * 1024,
            "max.partition.fetch.bytes": 1024 * 1024 + 65536,
            "queued.max.messages.kbytes": 4 * 1024,
            "fetch.queue.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1000,
            **_QUIET,
            **translated(client or {}),
            "bootstrap.servers": bootstrap_servers,
            "group.id": "tidegate-edge-reader",  # asked for by the client; nothing joins it
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "allow.auto.create.topics": False,
        }
        super().__init__(lambda: _Log(settings), bootstrap_servers, topic_prefix, devices)


class _Message(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None


class _Log:
    """Implements inbox.FeedbackLog."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._consumer = ck.Consumer(dict(settings))
        self._positions: dict[Place, int] = {}

    def partitions(self, topic: str) -> list[int]:
        found = self._consumer.list_topics(timeout=ANSWER_S).topics.get(topic)
        return sorted(found.partitions) if found is not None else []

    def assign(self, offsets: dict[Place, int]) -> None:
        self._positions = dict(offsets)
        self._consumer.assign([ck.TopicPartition(*place, offset) for place, offset in offsets.items()])

    def first(self, places: Iterable[Place]) -> dict[Place, int]:
        return self._ask(places, ck.OFFSET_BEGINNING)

    def ends(self, places: Iterable[Place]) -> dict[Place, int]:
        return self._ask(places, ck.OFFSET_END)

    def _ask(self, places: Iterable[Place], which: int) -> dict[Place, int]:
        """One request for all of them: to the broker, the ends of a log are times, too, before and after any other."""
        asked = [ck.TopicPartition(*place, which) for place in places]
        found = self._consumer.offsets_for_times(asked, timeout=ANSWER_S)
        if wrong := next((told.error for told in found if told.error is not None), None):
            raise ck.KafkaException(wrong)
        return {Place(told.topic, told.partition): told.offset for told in found}

    def seek(self, place: Place, offset: int) -> None:
        # Resumed first, because a pause outlives an assignment; not seek(), which fails before the first fetch.
        self._consumer.resume([ck.TopicPartition(*place)])
        self._consumer.incremental_unassign([ck.TopicPartition(*place)])
        self._consumer.incremental_assign([ck.TopicPartition(*place, offset)])
        self._positions[place] = offset

    def pause(self, place: Place) -> None:
        self._consumer.pause([ck.TopicPartition(*place)])

    def resume(self, place: Place) -> None:
        self._consumer.resume([ck.TopicPartition(*place)])

    def position(self, place: Place) -> int | None:
        return self._positions.get(place)

    def read(self, timeout_s: float, max_records: int) -> list[tuple[Place, list[_Message]]]:
        found: dict[Place, list[_Message]] = {}
        batch: list[Any] = self._consumer.consume(1, timeout_s)  # more than one would wait for all of them
        if batch and max_records > 1:
            batch += self._consumer.consume(max_records - 1, 0)
        for message in batch:
            place, offset, error = Place(message.topic(), message.partition()), message.offset(), message.error()
            if error is None:
                found.setdefault(place, []).append(_Message(offset, message.key(), message.value()))
                self._positions[place] = offset + 1
            elif error.code() == ck.KafkaError._PARTITION_EOF:
                self._positions[place] = offset  # it may lie beyond the last record: markers, and what was compacted
            elif error.fatal():
                raise ck.KafkaException(error)
        return list(found.items())

    def close(self) -> None:
        self._consumer.close()
