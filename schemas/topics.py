"""The topic catalogue. No topic name is written anywhere else; deploy creates the topics from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from schemas import records as r

_DAY_MS = 24 * 3600 * 1000
#: What devices send is stamped by the broker: event time lives in the payload, so a wrong device clock can neither
#: poison a batch (brokers refuse records from the future) nor delete data (retention goes by record time).
_INGEST = {"message.timestamp.type": "LogAppendTime", "retention.ms": str(7 * _DAY_MS)}
_COMPACTED = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.1",
    "min.compaction.lag.ms": "60000",
    "delete.retention.ms": str(_DAY_MS),
}


#: Header of a dead letter's record that was sent again, whose device may have sent newer ones meanwhile.
RETRY_HEADER = "tidegate-retry-of"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One topic: `key` says in words what its records are keyed by."""

    name: str
    record: type[Any]
    key: str
    partitions: int
    doc: str
    config: dict[str, str] = field(default_factory=dict)

    def named(self, prefix: str) -> str:
        """Name on a broker whose topics carry a prefix, such as `plant1.` (with its dot)."""
        return prefix + self.name

    @property
    def compacted(self) -> bool:
        """Whether only the latest record of each key is kept."""
        return self.config.get("cleanup.policy") == "compact"


EVENTS = Topic(
    name="edge.events",
    record=r.EdgeEvent,
    key="device",
    partitions=4,
    config=_INGEST,
    doc="Urgent lane: windows with a provisional decision, for the heavy model.",
)
AGGREGATES = Topic(
    name="edge.aggregates",
    record=r.EdgeAggregate,
    key="device",
    partitions=4,
    config=_INGEST,
    doc="Bulk lane: mergeable sketches per event-time window.",
)
SAMPLES = Topic(
    name="edge.samples",
    record=r.SensorBlock,
    key="device",
    partitions=4,
    config=_INGEST,
    doc="Random audit sample of windows that were not escalated; also training data.",
)
STATUS = Topic(
    name="edge.status",
    record=r.DeviceStatus,
    key="device",
    partitions=1,
    config=_COMPACTED | {"message.timestamp.type": "LogAppendTime"},
    doc="Reported state: applied versions, health, loss ledger counters.",
)
CLAIMS = Topic(
    name="edge.claims",
    record=r.DeviceClaim,
    key="device",
    partitions=1,
    config=_COMPACTED | {"message.timestamp.type": "LogAppendTime", "segment.ms": str(_DAY_MS)},
    doc="Which process acts for a device: two with one device id find each other here.",
)
GAPS = Topic(
    name="edge.gaps",
    record=r.GapMarker,
    key="device",
    partitions=1,
    config={"message.timestamp.type": "LogAppendTime", "retention.ms": str(30 * _DAY_MS)},
    doc="What edges gave up for want of room, by sequence number: the ledger explains missing records by it.",
)
DECISIONS = Topic(
    name="cloud.decisions",
    record=r.Decision,
    key="device",
    partitions=4,
    config={"retention.ms": str(30 * _DAY_MS)},
    doc="Final decisions: confirm or override, one per event.",
)
FLEET = Topic(
    name="cloud.aggregates",
    record=r.FleetWindow,
    key="cohort",
    partitions=1,
    config={"retention.ms": str(30 * _DAY_MS)},
    doc="Fleet statistics per window; a higher revision replaces a lower one.",
)
DEAD_LETTERS = Topic(
    name="cloud.deadletter",
    record=r.Failure,
    key="source",
    partitions=1,
    config={"retention.ms": str(30 * _DAY_MS)},
    doc="What could not be processed, with its reason.",
)
SEEN = Topic(
    name="cloud.seen",
    record=r.SeenPage,
    key="group/source/partition/page",
    partitions=1,
    config=_COMPACTED | {"segment.ms": "600000", "segment.bytes": str(16 << 20), "min.compaction.lag.ms": "0"},
    doc="What the pipeline knows of each device, kept over its restart: which records are resends.",
)
THRESHOLDS = Topic(
    name="feedback.thresholds",
    record=r.ThresholdUpdate,
    key="device or cohort",
    partitions=1,
    config=_COMPACTED,
    doc="Desired thresholds, with provenance and time to live.",
)
MODELS = Topic(
    name="feedback.models",
    record=r.ModelUpdate,
    key="model name",
    partitions=1,
    config=_COMPACTED,
    doc="Desired model of a cohort: its manifest.",
)
ARTIFACTS = Topic(
    name="feedback.artifacts",
    record=r.ArtifactChunk,
    key="sha256:index",
    partitions=1,
    config=_COMPACTED,
    doc="Files of model packages in chunks, addressed by hash.",
)

CATALOGUE: tuple[Topic, ...] = (
    EVENTS,
    AGGREGATES,
    SAMPLES,
    STATUS,
    CLAIMS,
    GAPS,
    DECISIONS,
    FLEET,
    DEAD_LETTERS,
    SEEN,
    THRESHOLDS,
    MODELS,
    ARTIFACTS,
)


_BY_NAME = {topic.name: topic for topic in CATALOGUE}


def by_name(name: str) -> Topic:
    """Topic of that name (without prefix). Raises KeyError."""
    return _BY_NAME[name]
