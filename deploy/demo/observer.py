"""An independent reader of the topics: what the demo reports is what it saw here, not what the processes say they did.

It follows every topic from the beginning with read_committed, counts bytes and identities, and remembers the moments
that the figures need. It decides nothing.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from schemas import topics
from schemas.codec import decode
from schemas.errors import DecodeError
from schemas.records import (
    Applied,
    Decision,
    DeviceStatus,
    EdgeAggregate,
    EdgeEvent,
    Failure,
    FleetWindow,
    ModelUpdate,
    SensorBlock,
    ThresholdUpdate,
)

EDGE_TOPICS = (topics.EVENTS, topics.AGGREGATES, topics.SAMPLES, topics.STATUS)
FOLLOWED = (*EDGE_TOPICS, topics.DECISIONS, topics.FLEET, topics.DEAD_LETTERS, topics.THRESHOLDS, topics.MODELS)


@dataclass(slots=True)
class Seen:
    """Everything the observer saw. Events and decisions go by (device, boot epoch, seq). Times in microseconds."""

    bytes_sent: int = 0
    events: dict[tuple[str, int, int], EdgeEvent] = field(default_factory=dict)
    event_copies: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    decisions: dict[tuple[str, int, int], Decision] = field(default_factory=dict)
    decision_copies: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    decided_at: dict[tuple[str, int, int], int] = field(default_factory=dict)
    samples: list[SensorBlock] = field(default_factory=list)
    aggregated: Counter[str] = field(default_factory=Counter)
    first_status: dict[str, DeviceStatus] = field(default_factory=dict)
    status: dict[str, DeviceStatus] = field(default_factory=dict)
    applied: dict[tuple[str, str, int], Applied] = field(default_factory=dict)
    fleet: dict[tuple[str, int], FleetWindow] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    thresholds: dict[str, list[ThresholdUpdate]] = field(default_factory=lambda: defaultdict(list))
    models: list[ModelUpdate] = field(default_factory=list)
    unreadable: int = 0

    def take(self, topic: str, payload: bytes, key_bytes: int, stamped_ms: int) -> None:
        """One record of a topic (name without prefix)."""
        if topic in _EDGE_NAMES:
            self.bytes_sent += len(payload) + key_bytes
        try:
            record: Any = decode(payload, topics.by_name(topic).record)
        except DecodeError:
            self.unreadable += 1
            return
        _TAKE[type(record)](self, record, stamped_ms)

    def _event(self, record: EdgeEvent, _: int) -> None:
        self.events.setdefault(record.identity, record)
        self.event_copies[record.identity] += 1

    def _decision(self, record: Decision, stamped_ms: int) -> None:
        self.decisions.setdefault(record.identity, record)
        self.decision_copies[record.identity] += 1
        self.decided_at.setdefault(record.identity, max(record.decided_at, stamped_ms * 1000))

    def _status(self, record: DeviceStatus, _: int) -> None:
        self.first_status.setdefault(record.device_id, record)
        self.status[record.device_id] = record
        for item in record.applied:
            self.applied.setdefault((record.device_id, item.kind.value, item.version), item)

    def _fleet(self, record: FleetWindow, _: int) -> None:
        known = self.fleet.get((record.cohort, record.window_start))
        if known is None or record.revision >= known.revision:
            self.fleet[record.cohort, record.window_start] = record

    def _aggregate(self, record: EdgeAggregate, _: int) -> None:
        self.aggregated[record.device_id] += record.readings + record.invalid

    def _sample(self, record: SensorBlock, _: int) -> None:
        self.samples.append(record)

    def _failure(self, record: Failure, _: int) -> None:
        self.failures.append(record)

    def _thresholds(self, record: ThresholdUpdate, _: int) -> None:
        self.thresholds[record.target].append(record)

    def _model(self, record: ModelUpdate, _: int) -> None:
        self.models.append(record)


_EDGE_NAMES = frozenset(topic.name for topic in EDGE_TOPICS)
_TAKE: dict[type[Any], Any] = {
    EdgeEvent: Seen._event,
    Decision: Seen._decision,
    DeviceStatus: Seen._status,
    FleetWindow: Seen._fleet,
    EdgeAggregate: Seen._aggregate,
    SensorBlock: Seen._sample,
    Failure: Seen._failure,
    ThresholdUpdate: Seen._thresholds,
    ModelUpdate: Seen._model,
}


class Observer:
    """Reads in a thread of its own into `seen`; take `lock` to look at it while it runs."""

    def __init__(self, bootstrap_servers: str, topic_prefix: str) -> None:
        self.seen = Seen()
        self.lock = threading.Lock()
        self._names = {topic.named(topic_prefix): topic for topic in FOLLOWED}
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap_servers,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        self._partitions = [TopicPartition(name, p) for name, t in self._names.items() for p in range(t.partitions)]
        self._consumer.assign(self._partitions)
        self._consumer.seek_to_beginning(*self._partitions)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="observer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Read to the end as it is now, and stop."""
        self._stop.set()
        self._thread.join()
        ends = self._consumer.end_offsets(self._partitions)
        while any(self._consumer.position(p) < end for p, end in ends.items()):
            self._poll()
        self._consumer.close()

    def _follow(self) -> None:
        while not self._stop.is_set():
            self._poll()

    def _poll(self) -> None:
        for partition, messages in self._consumer.poll(timeout_ms=100).items():
            topic = self._names[partition.topic].name
            with self.lock:
                for message in messages:
                    self.seen.take(topic, message.value or b"", len(message.key or b""), message.timestamp)
