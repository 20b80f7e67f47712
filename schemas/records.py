"""The records on the wire, as frozen values. The `.avsc` files in schemas/avro are the truth; a test compares them.

Times are microseconds since 1970-01-01 UTC (`_us` is left off, as the Avro files say timestamp-micros). Arrays travel
as bytes with a fixed dtype, so that a block costs one copy and not one object per reading.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from schemas.ids import DEVICE_ID, Identity

Floats = npt.NDArray[np.float32]
Times = npt.NDArray[np.int64]


class Outcome(StrEnum):
    """What a window is. SUSPECT: the edge leaves the answer to the heavy model; it stays where that cannot answer."""

    UNKNOWN = "UNKNOWN"
    NORMAL = "NORMAL"
    SUSPECT = "SUSPECT"
    ANOMALY = "ANOMALY"


class Transition(StrEnum):
    """Whether the edge's alarm changed with a window."""

    NONE = "NONE"
    RAISED = "RAISED"
    CLEARED = "CLEARED"


class Verdict(StrEnum):
    """What became of the provisional decision. RESOLVED: it was SUSPECT."""

    UNKNOWN = "UNKNOWN"
    CONFIRMED = "CONFIRMED"
    OVERRIDDEN = "OVERRIDDEN"
    RESOLVED = "RESOLVED"


class DecidedBy(StrEnum):
    """Who made the final decision."""

    UNKNOWN = "UNKNOWN"
    HEAVY = "HEAVY"
    EDGE = "EDGE"


class Health(StrEnum):
    """State of a device."""

    UNKNOWN = "UNKNOWN"
    STARTING = "STARTING"
    OK = "OK"
    DEGRADED = "DEGRADED"
    STOPPED = "STOPPED"


class ThresholdsSource(StrEnum):
    """Where the thresholds in force come from."""

    DEFAULT = "DEFAULT"
    FEEDBACK = "FEEDBACK"
    EXPIRED = "EXPIRED"


class FeedbackKind(StrEnum):
    """Which kind of feedback was applied or refused."""

    THRESHOLDS = "THRESHOLDS"
    MODEL = "MODEL"


class TargetKind(StrEnum):
    """What a threshold update is addressed to."""

    DEVICE = "DEVICE"
    COHORT = "COHORT"


@lru_cache(maxsize=1 << 14)
def _is_device(device_id: str) -> bool:
    """The same few devices come again with every record."""
    return DEVICE_ID.fullmatch(device_id) is not None


def _check_device(device_id: str) -> None:
    if not _is_device(device_id):
        raise ValueError(f"device_id must be a path of letters, digits and ._-/, got {device_id[:200]!r}")


def _check_finite(name: str, value: float | None) -> None:
    if value is not None and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def _check_sha(name: str, value: bytes | None) -> None:
    if value is not None and len(value) != 32:
        raise ValueError(f"{name} must be 32 bytes, got {len(value)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorBlock:
    """Readings of one device: a recording, or a window of the audit sample.

    `event_times` is int64[n], `values` float32[n, c] row-major, `labels` uint8[n], all as little-endian bytes.
    """

    device_id: str
    boot_epoch: int
    seq: int
    cohort: str
    channels: list[str]
    event_times: bytes
    values: bytes
    labels: bytes | None = None
    sampled_at_rate: float = 1.0
    score: float | None = None
    model_name: str | None = None
    model_version: int | None = None
    model_sha256: bytes | None = None
    thresholds_version: int | None = None

    def __post_init__(self) -> None:
        _check_device(self.device_id)
        _check_finite("score", self.score)
        _check_sha("model_sha256", self.model_sha256)
        if not 0.0 < self.sampled_at_rate <= 1.0:
            raise ValueError(f"sampled_at_rate must be in (0, 1], got {self.sampled_at_rate}")
        if not self.channels:
            raise ValueError("a block needs at least one channel")
        readings, rest = divmod(len(self.event_times), 8)
        if rest or len(self.values) != readings * len(self.channels) * 4:
            raise ValueError(
                f"{len(self.event_times)} bytes of event times and {len(self.values)} bytes of values do not fit "
                f"{len(self.channels)} channels"
            )
        if self.labels is not None and len(self.labels) != readings:
            raise ValueError(f"{len(self.labels)} labels for {readings} readings")

    @property
    def identity(self) -> Identity:
        """Device, boot epoch and sequence number."""
        return Identity(self.device_id, self.boot_epoch, self.seq)

    @property
    def times(self) -> Times:
        """Event times, int64[n], microseconds. A view, not a copy."""
        return np.frombuffer(self.event_times, dtype="<i8")

    @property
    def matrix(self) -> Floats:
        """Readings, float32[n, c]. A view, not a copy."""
        return np.frombuffer(self.values, dtype="<f4").reshape(-1, len(self.channels))


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeEvent:
    """A window that the edge did not answer for good, with its provisional decision.

    `values` is float32[readings, channels] row-major, or empty when the allocator kept the window back.
    """

    device_id: str
    boot_epoch: int
    seq: int
    cohort: str
    sensed_from: int
    sensed_to: int
    decided_at: int
    model_name: str
    model_version: int
    model_sha256: bytes
    thresholds_version: int
    policy_version: int
    score: float
    outcome: Outcome
    transition: Transition
    reason: str
    readings: int
    channels: int
    values: bytes

    def __post_init__(self) -> None:
        _check_device(self.device_id)
        _check_finite("score", self.score)
        _check_sha("model_sha256", self.model_sha256)
        if self.readings < 1 or self.channels < 1:
            raise ValueError(f"a window of {self.readings} readings x {self.channels} channels")
        if len(self.values) not in (0, self.readings * self.channels * 4):
            raise ValueError(f"{len(self.values)} bytes are no window of {self.readings} x {self.channels} float32")

    @property
    def identity(self) -> Identity:
        """Device, boot epoch and sequence number."""
        return Identity(self.device_id, self.boot_epoch, self.seq)

    @property
    def matrix(self) -> Floats:
        """The window, float32[readings, channels]. A view. Raises ValueError: the window was kept back."""
        return np.frombuffer(self.values, dtype="<f4").reshape(self.readings, self.channels)


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeAggregate:
    """Mergeable sketch of one device's readings in one event-time window; schemas/sketch.py reads and writes it."""

    device_id: str
    boot_epoch: int
    seq: int
    cohort: str
    window_start: int
    window_end: int
    channels: list[str]
    readings: int
    invalid: int
    mean: bytes
    m2: bytes
    min: bytes
    max: bytes
    bins: bytes
    windows_scored: int = 0
    windows_escalated: int = 0
    score_max: float | None = None

    def __post_init__(self) -> None:
        _check_device(self.device_id)
        _check_finite("score_max", self.score_max)
        wide = len(self.channels)
        if self.window_end <= self.window_start:
            raise ValueError(f"window ends at {self.window_end}, before it starts at {self.window_start}")
        if min(self.readings, self.invalid, self.windows_scored, self.windows_escalated) < 0:
            raise ValueError("counts must not be negative")
        if not wide or [len(self.mean), len(self.m2), len(self.min), len(self.max)] != [8 * wide] * 2 + [4 * wide] * 2:
            raise ValueError(f"the statistics do not fit {wide} channels")

    @property
    def identity(self) -> Identity:
        """Device, boot epoch and sequence number."""
        return Identity(self.device_id, self.boot_epoch, self.seq)


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """One feedback message and what became of it on a device."""

    kind: FeedbackKind
    version: int
    accepted: bool
    reason: str
    issued_at: int
    applied_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """What a device runs and how it is. `counters` uses the names of LEDGER."""

    device_id: str
    boot_epoch: int
    seq: int
    cohort: str
    at: int
    health: Health
    problem: str | None
    model_name: str
    model_version: int
    model_sha256: bytes
    thresholds_version: int
    thresholds_source: ThresholdsSource
    escalate_at: float
    raise_at: float
    clear_at: float
    counters: dict[str, int]
    spool_records: int
    spool_bytes: int
    applied: list[Applied] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check_device(self.device_id)
        _check_sha("model_sha256", self.model_sha256)
        _check_finite("escalate_at", self.escalate_at)
        _check_finite("raise_at", self.raise_at)
        _check_finite("clear_at", self.clear_at)

    @property
    def identity(self) -> Identity:
        """Device, boot epoch and sequence number."""
        return Identity(self.device_id, self.boot_epoch, self.seq)


#: Names in DeviceStatus.counters. Readings: sensed = invalid + aggregated + open; windows: scored = answered +
#: escalated; sampled windows are part of the answered ones. Records: enqueued = acked + dropped + waiting in
#: the spool; dropped ones were thrown out of a full spool, refused by the broker for good, or too large.
LEDGER = (
    "readings_sensed",
    "readings_invalid",
    "readings_aggregated",
    "bytes_sensed",
    "windows_scored",
    "windows_unscored",
    "windows_answered",
    "windows_escalated",
    "windows_sampled",
    "alarms_raised",
    "records_enqueued",
    "records_acked",
    "bytes_acked",
    "records_dropped",
    "feedback_accepted",
    "feedback_refused",
    "clock_jumps_back",
)


class ClaimKind(StrEnum):
    """What a claim says. KNOCK: whoever holds the device shall claim it anew, to show that it is alive."""

    UNKNOWN = "UNKNOWN"
    CLAIM = "CLAIM"
    RELEASE = "RELEASE"
    KNOCK = "KNOCK"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceClaim:
    """Who acts for a device: process `instance` of edge `edge_id`, since `at`; edge_filters/lease.py obeys it."""

    device_id: str
    epoch: int
    instance: str
    edge_id: str
    kind: ClaimKind
    at: int

    def __post_init__(self) -> None:
        _check_device(self.device_id)


class GapReason(StrEnum):
    """Why an edge gave records up."""

    UNKNOWN = "UNKNOWN"
    EVICTED = "EVICTED"
    DISK_FULL = "DISK_FULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class GapMarker:
    """Records of one device, life and lane that were given up: runs `firsts[i]..lasts[i]` of seq, ends included.

    `lane` is the topic they were for, without prefix. `seq` is the first number named.
    """

    device_id: str
    boot_epoch: int
    seq: int
    lane: str
    reason: GapReason
    count: int
    firsts: list[int]
    lasts: list[int]
    at: int

    def __post_init__(self) -> None:
        _check_device(self.device_id)
        if not self.firsts or len(self.firsts) != len(self.lasts) or self.seq != self.firsts[0]:
            raise ValueError(f"{len(self.firsts)} first and {len(self.lasts)} last numbers are no runs from {self.seq}")
        before, count = -1, 0
        for first, last in zip(self.firsts, self.lasts, strict=True):
            if first <= before or last < first:
                raise ValueError(f"run {first}..{last} does not follow {before}")
            before, count = last, count + last - first + 1
        if count != self.count:
            raise ValueError(f"the runs name {count} records, not {self.count}")

    @property
    def identity(self) -> Identity:
        """Identity of the first record that is named."""
        return Identity(self.device_id, self.boot_epoch, self.seq)

    @property
    def runs(self) -> list[tuple[int, int]]:
        """First and last number of each run, both included."""
        return list(zip(self.firsts, self.lasts, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Final decision of one event: exactly one per identity."""

    device_id: str
    boot_epoch: int
    seq: int
    cohort: str
    sensed_from: int
    sensed_to: int
    edge_decided_at: int
    decided_at: int
    model_name: str
    model_version: int
    model_sha256: bytes
    thresholds_version: int
    policy_version: int
    provisional: Outcome
    outcome: Outcome
    verdict: Verdict
    decided_by: DecidedBy
    reason: str
    edge_score: float
    heavy_score: float | None
    heavy_threshold: float | None
    heavy_version: int | None
    heavy_sha256: bytes | None

    def __post_init__(self) -> None:
        _check_device(self.device_id)
        _check_sha("model_sha256", self.model_sha256)
        _check_sha("heavy_sha256", self.heavy_sha256)
        _check_finite("edge_score", self.edge_score)
        _check_finite("heavy_score", self.heavy_score)
        _check_finite("heavy_threshold", self.heavy_threshold)

    @property
    def identity(self) -> Identity:
        """Identity of the event it decides."""
        return Identity(self.device_id, self.boot_epoch, self.seq)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetWindow:
    """Statistics of one cohort in one window; a higher revision replaces a lower one of that window and channels."""

    cohort: str
    window_start: int
    window_end: int
    revision: int
    devices: list[str]
    channels: list[str]
    readings: int
    invalid: int
    mean: list[float]
    stddev: list[float]
    min: list[float]
    max: list[float]
    p50: list[float]
    p99: list[float]
    windows_scored: int
    windows_escalated: int
    score_max: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPage:
    """The last answered record of each device of a partition, below offset `as_of`; pipelines/io/memory.py has it."""

    group: str
    source: str
    partition: int
    page: int
    pages: int
    as_of: int
    devices: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.page < self.pages:
            raise ValueError(f"page {self.page} of {self.pages}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Dead letter: a record that could not be processed, as it came, with the reason."""

    source: str
    partition: int
    offset: int
    key: bytes | None
    payload: bytes
    stage: str
    reason: str
    problem: str
    failed_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdUpdate:
    """Thresholds that a device or a cohort shall obey until they expire."""

    target: str
    target_kind: TargetKind
    version: int
    model_name: str
    escalate_at: float
    raise_at: float
    clear_at: float
    issued_at: int
    expires_at: int
    reason: str
    evidence: list[str]
    evidence_count: int
    override_rate: float | None = None
    missed_rate: float | None = None

    def __post_init__(self) -> None:
        if len(self.evidence) > 64:
            raise ValueError(f"at most 64 event ids of evidence, got {len(self.evidence)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUpdate:
    """A model package that the devices of a cohort shall run. Its files travel as ArtifactChunks."""

    model_name: str
    version: int
    cohort: str
    manifest: bytes
    manifest_sha256: bytes
    issued_at: int
    expires_at: int

    def __post_init__(self) -> None:
        _check_sha("manifest_sha256", self.manifest_sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactChunk:
    """A piece of a file of a model package, addressed by the hash of the whole file."""

    sha256: bytes
    index: int
    count: int
    total_bytes: int
    data: bytes

    def __post_init__(self) -> None:
        _check_sha("sha256", self.sha256)
        if not 0 <= self.index < self.count:
            raise ValueError(f"chunk {self.index} of {self.count}")
        if not 0 <= len(self.data) <= self.total_bytes:
            raise ValueError(f"a chunk of {len(self.data)} bytes in a file of {self.total_bytes}")


Record = (
    SensorBlock
    | EdgeEvent
    | EdgeAggregate
    | DeviceStatus
    | DeviceClaim
    | GapMarker
    | Decision
    | FleetWindow
    | SeenPage
    | Failure
    | ThresholdUpdate
    | ModelUpdate
    | ArtifactChunk
)
