"""The path of one event, put together from whatever records speak of it. Pure: records in, a Trace out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from deploy.recording.files import Found, Stamp
from schemas import topics
from schemas.codec import peek_identity
from schemas.ids import Identity
from schemas.records import (
    Applied,
    Decision,
    DeviceStatus,
    EdgeAggregate,
    EdgeEvent,
    Failure,
    FeedbackKind,
    Floats,
    ModelUpdate,
    SensorBlock,
    ThresholdUpdate,
    Verdict,
)


class Levels(NamedTuple):
    """Thresholds in force."""

    escalate_at: float
    raise_at: float
    clear_at: float


class Hop(NamedTuple):
    """One moment of the path. `clock`: whose time it is; two clocks may disagree by more than a hop takes."""

    name: str
    at_us: int
    clock: str  # device, broker, cloud
    words: str


@dataclass(slots=True)
class Trace:
    """Everything found about one event. Of what came several times, the first counts and `copies` says how often."""

    identity: Identity
    event: EdgeEvent | None = None
    event_stamp: Stamp | None = None
    sample: SensorBlock | None = None
    sample_stamp: Stamp | None = None
    decision: Decision | None = None
    decision_stamp: Stamp | None = None
    failures: list[Failure] = field(default_factory=list)
    updates: list[ThresholdUpdate] = field(default_factory=list)  # for its device or cohort
    caused: list[ThresholdUpdate] = field(default_factory=list)  # that name it as evidence
    models: list[ModelUpdate] = field(default_factory=list)
    levels: dict[int, Levels] = field(default_factory=dict)  # by thresholds version, as the device reported
    applied: dict[tuple[FeedbackKind, int], Applied] = field(default_factory=dict)
    channels: list[str] = field(default_factory=list)
    copies: Counter[str] = field(default_factory=Counter)
    searched: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    device_seqs: dict[int, tuple[int, int]] = field(default_factory=dict)  # boot epoch -> lowest, highest in a topic

    @property
    def is_found(self) -> bool:
        """Whether any record is of this very event."""
        return bool(self.event or self.sample or self.decision or self.failures)

    def saw(self, identity: Identity) -> None:
        """An event of some device lies where was searched."""
        if identity.device_id == self.identity.device_id:
            low, high = self.device_seqs.get(identity.boot_epoch, (identity.seq, identity.seq))
            self.device_seqs[identity.boot_epoch] = min(low, identity.seq), max(high, identity.seq)

    def wants(self, topic: str, payload: bytes) -> bool:
        """Whether the record must be decoded; counts it. `topic`: without prefix."""
        self.searched[topic] += 1
        identity = peek_identity(payload)
        if identity is None:  # no record of a device: whoever it is about is inside
            return True
        if topic in (topics.STATUS.name, topics.AGGREGATES.name):
            return identity.device_id == self.identity.device_id
        self.saw(identity)
        if topic == topics.SAMPLES.name and identity.device_id == self.identity.device_id and not self.channels:
            return True
        return identity == self.identity

    def take(self, found: Found) -> None:
        """A record, decoded. Whatever it is not about this event is passed over."""
        for kind, method in _TAKE:
            if isinstance(found.record, kind):
                method(self, found.record, found.stamp)
                return

    def _event(self, record: EdgeEvent, stamp: Stamp | None) -> None:
        self.saw(record.identity)
        if record.identity == self.identity:
            self.copies["event"] += 1
            if self.event is None:
                self.event, self.event_stamp = record, stamp

    def _sample(self, record: SensorBlock, stamp: Stamp | None) -> None:
        if record.score is None:
            return  # a recording of readings counts blocks, not windows
        self.saw(record.identity)
        self._name(record.device_id, record.channels)
        if record.identity == self.identity:
            self.copies["sample"] += 1
            if self.sample is None:
                self.sample, self.sample_stamp = record, stamp

    def _decision(self, record: Decision, stamp: Stamp | None) -> None:
        self.saw(record.identity)
        if record.identity == self.identity:
            self.copies["decision"] += 1
            if self.decision is None:
                self.decision, self.decision_stamp = record, stamp

    def _aggregate(self, record: EdgeAggregate, _: Stamp | None) -> None:
        self._name(record.device_id, record.channels)

    def _failure(self, record: Failure, _: Stamp | None) -> None:
        if peek_identity(record.payload) == self.identity and record.source.endswith(
            (topics.EVENTS.name, topics.SAMPLES.name)
        ):
            self.failures.append(record)

    def _status(self, record: DeviceStatus, _: Stamp | None) -> None:
        if record.device_id != self.identity.device_id:
            return
        levels = Levels(record.escalate_at, record.raise_at, record.clear_at)
        self.levels.setdefault(record.thresholds_version, levels)
        for item in record.applied:
            self.applied.setdefault((item.kind, item.version), item)

    def _threshold(self, record: ThresholdUpdate, _: Stamp | None) -> None:
        self.updates.append(record)
        if self.identity.event_id in record.evidence:
            self.caused.append(record)

    def _model(self, record: ModelUpdate, _: Stamp | None) -> None:
        self.models.append(record)

    def _name(self, device_id: str, channels: list[str]) -> None:
        if device_id == self.identity.device_id and not self.channels:
            self.channels = list(channels)

    # -- what follows from it -------------------------------------------------------------------------------------

    @property
    def window(self) -> Floats | None:
        """The readings, float32[n, channels]; None where the edge kept them back or only a decision was found."""
        if self.event is not None and self.event.values:
            return self.event.matrix
        return self.sample.matrix if self.sample is not None else None

    @property
    def channel_names(self) -> list[str]:
        """Names as far as another record of the device told them, else numbers."""
        window = self.window
        wide = 0 if window is None else window.shape[1]
        return self.channels if len(self.channels) == wide else [f"channel {i}" for i in range(wide)]

    @property
    def thresholds(self) -> ThresholdUpdate | None:
        """The feedback that the edge obeyed when it decided; None for the package's defaults, or where it is gone."""
        told: EdgeEvent | Decision | None = self.event or self.decision
        version = told.thresholds_version if told else self.sample.thresholds_version if self.sample else None
        cohort = told.cohort if told else self.sample.cohort if self.sample else None
        targets = (self.identity.device_id, cohort)
        found = [u for u in self.updates if version and u.version == version and u.target in targets]
        return found[0] if found else None

    def levels_of(self, version: int) -> Levels | None:
        """Thresholds of a version: from the feedback itself, else as the device reported them."""
        update = self.thresholds
        if update is not None and update.version == version:
            return Levels(update.escalate_at, update.raise_at, update.clear_at)
        return self.levels.get(version)

    def published(self, sha256: bytes | None) -> ModelUpdate | None:
        """The announcement of a package."""
        return next((m for m in self.models if m.manifest_sha256 == sha256), None)

    @property
    def is_replayed(self) -> bool:
        """Whether an offline replay decided it: that dates the final decision as the provisional one."""
        return self.decision is not None and self.decision.decided_at == self.decision.edge_decided_at

    @property
    def why(self) -> str:
        """Why the final decision is what it is, in words; empty where there is none."""
        d = self.decision
        if d is None:
            return ""
        if d.heavy_score is None or d.heavy_threshold is None:
            return f"the provisional decision stands: {d.reason}" if d.reason else "the provisional decision stands"
        side = "reaches" if d.heavy_score >= d.heavy_threshold else "is below"
        says = f"the heavy model's score {d.heavy_score:.6g} {side} its threshold {d.heavy_threshold:.6g}"
        verdict = {
            Verdict.OVERRIDDEN: f", so {d.provisional.value} became {d.outcome.value}",
            Verdict.RESOLVED: f", which settles what the edge left open: {d.outcome.value}",
            Verdict.CONFIRMED: f", as the edge said: {d.outcome.value}",
        }.get(d.verdict, "")
        return says + verdict + (f" ({d.reason})" if d.reason else "")

    def hops(self) -> list[Hop]:
        """The path in the order in which it was gone, whatever the clocks say."""
        return list(self._hops())

    def _hops(self) -> Iterator[Hop]:
        e, d, s = self.event, self.decision, self.sample
        told: EdgeEvent | Decision | None = e or d
        if told is not None:
            yield Hop("sensed_from", told.sensed_from, "device", "first reading sensed")
            yield Hop("sensed_to", told.sensed_to, "device", "last reading sensed")
            at_us = e.decided_at if e else d.edge_decided_at if d else 0
            yield Hop("edge_decided", at_us, "device", "scored and decided at the edge")
        elif s is not None and len(s.times):
            yield Hop("sensed_from", int(s.times[0]), "device", "first reading sensed")
            yield Hop(
                "sensed_to",
                int(s.times[-1]),
                "device",
                "last reading sensed; answered at the edge, not sent as an event",
            )
        if self.event_stamp is not None:
            yield Hop(
                "sent", self.event_stamp.stamped_ms * 1000, "broker", f"in {topics.EVENTS.name}{_at(self.event_stamp)}"
            )
        if s is not None and self.sample_stamp is not None:
            at = self.sample_stamp
            yield Hop("sampled", at.stamped_ms * 1000, "broker", f"in {topics.SAMPLES.name}{_at(at)}, for the audit")
        if d is not None:
            yield Hop("decided", d.decided_at, "cloud", "decided for good")
            if self.decision_stamp is not None:
                at = self.decision_stamp
                yield Hop("published", at.stamped_ms * 1000, "cloud", f"in {topics.DECISIONS.name}{_at(at)}")
        for failure in self.failures:
            yield Hop("failed", failure.failed_at, "cloud", f"dead letter: {failure.reason}: {failure.problem}")
        for update in self.caused:
            words = f"evidence for thresholds {update.version} of {update.target}: {update.reason}"
            yield Hop("feedback", update.issued_at, "cloud", words)
            item = self.applied.get((FeedbackKind.THRESHOLDS, update.version))
            if item is not None and update.target in (self.identity.device_id, _cohort(told)):
                verb = "applied" if item.accepted else f"refused ({item.reason})"
                yield Hop("applied", item.applied_at, "device", f"thresholds {update.version} {verb} on the device")

    def latencies_ms(self) -> dict[str, float]:
        """From hop to hop, and in all, milliseconds; negative where two clocks disagree.

        Of a replay, only the window's length.
        """
        at = {hop.name: hop.at_us for hop in self.hops() if hop.name not in ("failed", "feedback", "applied")}
        pairs: Sequence[tuple[str, str, str]] = (
            ("window", "sensed_from", "sensed_to"),
            ("edge", "sensed_to", "edge_decided"),
            ("uplink", "edge_decided", "sent"),
            ("cloud", "sent" if "sent" in at else "edge_decided", "decided"),
            ("publishing", "decided", "published"),
            ("in_all", "sensed_to", "published" if "published" in at else "decided"),
        )
        pairs = pairs[:1] if self.is_replayed else pairs
        return {name: (at[b] - at[a]) / 1000 for name, a, b in pairs if a in at and b in at}


def _at(stamp: Stamp) -> str:
    return f", partition {stamp.partition}, offset {stamp.offset}"


def _cohort(told: Any) -> str | None:
    return None if told is None else str(told.cohort)


_TAKE: tuple[tuple[type[Any], Callable[..., None]], ...] = (
    (EdgeEvent, Trace._event),
    (SensorBlock, Trace._sample),
    (Decision, Trace._decision),
    (EdgeAggregate, Trace._aggregate),
    (Failure, Trace._failure),
    (DeviceStatus, Trace._status),
    (ThresholdUpdate, Trace._threshold),
    (ModelUpdate, Trace._model),
)

SPARKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Floats, width: int = 60) -> str:
    """A signal in one line of text: float32[n] to at most `width` bars; what is not finite is a dot.

    Of each bar's readings the one furthest from the mean is drawn, so that no spike is lost.

    >>> sparkline(np.array([0, 1, 2, 3, 4, 5, 6, 7], np.float32))
    '▁▂▃▄▅▆▇█'
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return "·" * min(len(values), width)
    low, high, mean = float(finite.min()), float(finite.max()), float(finite.mean())
    span = (high - low) or 1.0
    bars = []
    for part in np.array_split(values, min(len(values), width)):
        usable = part[np.isfinite(part)]
        if not len(usable):
            bars.append("·")
            continue
        furthest = float(usable[np.abs(usable - mean).argmax()])
        bars.append(SPARKS[min(7, int((furthest - low) / span * 8))] if high > low else SPARKS[3])
    return "".join(bars)
