"""A recording, or recorded topics, looked through once: per device what was sensed, scored and decided. Pure.

Memory is bounded for signals (a band of smallest and largest values over time); events cost a few numbers each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.explain.plots import CHANNELS, DOTS, Dot, Level, Picture, thinned
from deploy.recording.files import Found, Stamp
from schemas.records import (
    DecidedBy,
    Decision,
    DeviceStatus,
    EdgeAggregate,
    EdgeEvent,
    Failure,
    FeedbackKind,
    FleetWindow,
    ModelUpdate,
    Outcome,
    SensorBlock,
    ThresholdUpdate,
    Verdict,
)

#: A step in event time this many times longer than the usual one is a gap.
GAP_FACTOR = 5.0
#: Buckets of a band are merged by two when there are twice as many.
BUCKETS = 2048
_LABELS = 500
Array = npt.NDArray[Any]


class Band:
    """Smallest and largest value per channel over time, in a bounded number of buckets. The first channels only."""

    def __init__(self, channels: int) -> None:
        self._wide = min(channels, CHANNELS)
        self._size = 1  # readings of a bucket
        self._parts: list[tuple[Array, Array, Array]] = []
        self._count = 0

    def add(self, times: Array, low: Array, high: Array) -> None:
        """Rows: int64[n], float[n, c] twice (the same array where each row is one reading)."""
        starts = np.arange(0, len(times), self._size)
        if not len(starts):
            return
        low, high = low[:, : self._wide], high[:, : self._wide]
        if self._size > 1:
            low, high = np.fmin.reduceat(low, starts, axis=0), np.fmax.reduceat(high, starts, axis=0)
        self._parts.append((np.array(times[starts]), np.array(low), np.array(high)))
        self._count += len(starts)
        if self._count > 2 * BUCKETS:
            self._merge()

    def _merge(self) -> None:
        times, low, high = self.arrays()
        pairs = np.arange(0, len(times), 2)
        self._parts = [(times[pairs], np.fmin.reduceat(low, pairs, axis=0), np.fmax.reduceat(high, pairs, axis=0))]
        self._count, self._size = len(pairs), self._size * 2

    def arrays(self) -> tuple[Array, Array, Array]:
        """Times, smallest and largest values, in the order of time."""
        if not self._parts:
            empty = np.empty((0, self._wide))
            return np.empty(0, np.int64), empty, empty
        times, low, high = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        order = np.argsort(times, kind="stable")
        return times[order], low[order], high[order]


@dataclass(slots=True)
class Device:
    """What is known of one device. Times in microseconds since 1970."""

    device_id: str
    cohort: str = ""
    channels: list[str] = field(default_factory=list)
    readings: int = 0
    invalid: int = 0
    labelled: int = 0
    first_us: int | None = None
    last_us: int | None = None
    usual_step_us: float | None = None
    gaps: int = 0
    longest_gap_us: int = 0
    jumps_back: int = 0
    is_raw: bool = False  # its readings themselves are recorded; else aggregates stand for them
    band: Band | None = None
    shaded: list[tuple[int, int]] = field(default_factory=list)
    events: int = 0
    audits: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    models: set[str] = field(default_factory=set)
    scored: list[tuple[int, float, Any, int]] = field(default_factory=list)  # at, score, identity or None, thresholds
    status: DeviceStatus | None = None

    @property
    def rate_hz(self) -> float | None:
        """Readings per second of event time."""
        if self.usual_step_us:
            return 1e6 / self.usual_step_us
        if self.first_us is None or self.last_us is None or self.last_us <= self.first_us:
            return None
        return self.readings * 1e6 / (self.last_us - self.first_us)

    def sensed(self, first_us: int, last_us: int) -> None:
        """Readings lie between two times."""
        self.first_us = first_us if self.first_us is None else min(self.first_us, first_us)
        self.last_us = last_us if self.last_us is None else max(self.last_us, last_us)


@dataclass(slots=True)
class Survey:
    """Everything that the report shows."""

    devices: dict[str, Device] = field(default_factory=dict)
    events: dict[Any, tuple[str, int]] = field(default_factory=dict)  # identity -> device, thresholds version
    decisions: dict[Any, tuple[str, str]] = field(default_factory=dict)  # identity -> outcome, verdict
    records: Counter[str] = field(default_factory=Counter)
    doubled: Counter[str] = field(default_factory=Counter)
    decided_by: Counter[str] = field(default_factory=Counter)
    edge_us: list[int] = field(default_factory=list)
    uplink_us: list[int] = field(default_factory=list)
    final_us: list[int] = field(default_factory=list)
    feedback_us: list[int] = field(default_factory=list)
    recorded_clock: bool = True  # every final decision is dated as its provisional one: an offline replay
    failures: Counter[str] = field(default_factory=Counter)
    failed_example: dict[str, str] = field(default_factory=dict)
    fleet: Counter[str] = field(default_factory=Counter)
    updates: dict[tuple[str, int], ThresholdUpdate] = field(default_factory=dict)
    published: list[ModelUpdate] = field(default_factory=list)
    _applied: set[tuple[str, FeedbackKind, int]] = field(default_factory=set)
    _aggregated: dict[str, int] = field(default_factory=dict)  # device -> end of its newest aggregate

    def take(self, found: Found) -> None:
        """One record."""
        self.records[found.topic] += 1
        record = found.record
        if isinstance(record, SensorBlock):
            self._block(record)
        elif isinstance(record, EdgeEvent):
            self._event(record, found.stamp)
        elif isinstance(record, Decision):
            self._decision(record, found.stamp)
        elif isinstance(record, EdgeAggregate):
            self._aggregate(record)
        elif isinstance(record, DeviceStatus):
            self._status(record)
        elif isinstance(record, Failure):
            self.failures[record.reason] += 1
            self.failed_example.setdefault(record.reason, f"{record.source}, {record.stage}: {record.problem}")
        elif isinstance(record, FleetWindow):
            self.fleet[record.cohort] += 1
        elif isinstance(record, ThresholdUpdate):
            self.updates[record.target, record.version] = record
        elif isinstance(record, ModelUpdate):
            self.published.append(record)

    def _of(self, device_id: str, cohort: str, channels: Sequence[str] = ()) -> Device:
        device = self.devices.get(device_id)
        if device is None:
            device = self.devices[device_id] = Device(device_id)
        device.cohort = device.cohort or cohort
        device.channels = device.channels or list(channels)
        return device

    def _block(self, block: SensorBlock) -> None:
        device = self._of(block.device_id, block.cohort, block.channels)
        times = block.times
        if block.score is not None:
            device.audits += 1
            at_us = int(times[-1]) if len(times) else 0
            device.scored.append((at_us, block.score, None, block.thresholds_version or 0))
            device.models.add(f"{block.model_name} {block.model_version}")
            return
        if not len(times):
            return
        if not device.is_raw:  # what aggregates told before is told better now
            device.is_raw, device.band = True, None
            device.readings = device.invalid = device.gaps = device.longest_gap_us = 0
            device.first_us = device.last_us = None
        steps = np.diff(times, prepend=times[0] if device.last_us is None else device.last_us)
        forward = steps[steps > 0]
        if device.usual_step_us is None and len(forward):
            device.usual_step_us = float(np.median(forward))
        if device.usual_step_us is not None:
            gaps = steps[steps > GAP_FACTOR * device.usual_step_us]
            device.gaps += len(gaps)
            device.longest_gap_us = max(device.longest_gap_us, int(gaps.max(initial=0)))
        device.jumps_back += int((steps < 0).sum())
        values = block.matrix
        device.invalid += int((~np.isfinite(values).all(axis=1)).sum())
        device.readings += len(times)
        device.sensed(int(times.min()), int(times.max()))
        self._draw(device, times, values, values)
        if block.labels is not None:
            self._label(device, times, np.frombuffer(block.labels, np.uint8))

    def _label(self, device: Device, times: Array, labels: Array) -> None:
        device.labelled += int((labels != 0).sum())
        edges = np.flatnonzero(np.diff(np.concatenate([[0], (labels != 0).astype(np.int8), [0]])))
        for a, b in zip(edges[::2], edges[1::2] - 1, strict=True):
            start, end = int(times[a]), int(times[b])
            if device.shaded and a == 0 and device.shaded[-1][1] >= start - 2 * (device.usual_step_us or 0):
                device.shaded[-1] = device.shaded[-1][0], end
            elif len(device.shaded) < _LABELS:
                device.shaded.append((start, end))

    def _draw(self, device: Device, times: Array, low: Array, high: Array) -> None:
        if device.band is None:
            device.band = Band(len(device.channels))
        if low.shape[1] == len(device.channels):
            device.band.add(times, low, high)

    def _aggregate(self, record: EdgeAggregate) -> None:
        device = self._of(record.device_id, record.cohort, record.channels)
        if device.is_raw:
            return
        device.readings += record.readings
        device.invalid += record.invalid
        newest = self._aggregated.get(record.device_id)
        if newest is not None and record.window_start > newest:
            device.gaps += 1
            device.longest_gap_us = max(device.longest_gap_us, record.window_start - newest)
        self._aggregated[record.device_id] = max(record.window_end, newest or record.window_end)
        device.sensed(record.window_start, record.window_end)
        if record.readings:
            low, high = (np.frombuffer(data, "<f4")[None, :] for data in (record.min, record.max))
            self._draw(device, np.array([record.window_start], np.int64), low, high)

    def _event(self, record: EdgeEvent, stamp: Stamp | None) -> None:
        if record.identity in self.events:
            self.doubled["events"] += 1
            return
        device = self._of(record.device_id, record.cohort)
        self.events[record.identity] = record.device_id, record.thresholds_version
        device.events += 1
        device.models.add(f"{record.model_name} {record.model_version}")
        device.scored.append((record.sensed_to, record.score, record.identity, record.thresholds_version))
        self.edge_us.append(record.decided_at - record.sensed_to)
        if stamp is not None:
            self.uplink_us.append(stamp.stamped_ms * 1000 - record.decided_at)

    def _decision(self, record: Decision, stamp: Stamp | None) -> None:
        if record.identity in self.decisions:
            self.doubled["decisions"] += 1
            return
        device = self._of(record.device_id, record.cohort)
        self.decisions[record.identity] = record.outcome.value, record.verdict.value
        device.outcomes[record.outcome.value] += 1
        device.verdicts[record.verdict.value] += 1
        self.decided_by[record.decided_by.value] += 1
        if record.decided_by is DecidedBy.EDGE:
            self.decided_by[f"EDGE: {record.reason}"[:200]] += 1
        if record.identity not in self.events:
            device.models.add(f"{record.model_name} {record.model_version}")
        self.recorded_clock = self.recorded_clock and record.decided_at == record.edge_decided_at
        at_us = record.decided_at if stamp is None else max(record.decided_at, stamp.stamped_ms * 1000)
        self.final_us.append(at_us - record.sensed_to)

    def _status(self, record: DeviceStatus) -> None:
        device = self._of(record.device_id, record.cohort)
        if device.status is None or (record.boot_epoch, record.seq) >= (device.status.boot_epoch, device.status.seq):
            device.status = record
        for item in record.applied:
            key = record.device_id, item.kind, item.version
            if item.accepted and key not in self._applied:
                self.feedback_us.append(item.applied_at - item.issued_at)
            self._applied.add(key)

    # -- what follows from it -------------------------------------------------------------------------------------

    @property
    def undecided(self) -> int:
        """Events without a final decision, where decisions are part of the recording."""
        return len(self.events.keys() - self.decisions.keys()) if self.decisions else 0

    @property
    def agreement(self) -> float | None:
        """Share of the edge's own answers that the heavy model confirmed; what it left open does not count."""
        verdicts: Counter[str] = sum((d.verdicts for d in self.devices.values()), Counter())
        judged = verdicts[Verdict.CONFIRMED.value] + verdicts[Verdict.OVERRIDDEN.value]
        kept = sum(n for who, n in self.decided_by.items() if who == DecidedBy.EDGE.value)
        judged, agreed = judged - kept, verdicts[Verdict.CONFIRMED.value] - kept
        return agreed / judged if judged else None

    def picture(self, device: Device, dots_of_a_kind: int = DOTS) -> Picture:
        """What is drawn of a device."""
        times, low, high = (device.band or Band(len(device.channels))).arrays()
        dots, levels = [], []
        before: int | None = None
        for at_us, score, identity, version in sorted(device.scored, key=lambda s: s[0]):
            dots.append(Dot(at_us, score, self._kind(identity)))
            if version != before:
                before = version
                found = self._levels(device, version)
                if found is not None:
                    levels.append(Level(at_us, *found))
        return Picture(times, low, high, device.channels, thinned(dots, dots_of_a_kind), levels[:200], device.shaded)

    def _kind(self, identity: Any) -> str:
        if identity is None:
            return "audit"
        outcome, verdict = self.decisions.get(identity, ("", ""))
        if not outcome:
            return "undecided"
        if outcome == Outcome.ANOMALY.value:
            return "anomaly"
        return "overridden" if verdict == Verdict.OVERRIDDEN.value else "normal"

    def _levels(self, device: Device, version: int) -> tuple[float, float] | None:
        update = self.updates.get((device.device_id, version)) or self.updates.get((device.cohort, version))
        if update is not None and math.isfinite(update.escalate_at) and math.isfinite(update.raise_at):
            return update.escalate_at, update.raise_at
        status = device.status
        if status is not None and status.thresholds_version == version:
            return status.escalate_at, status.raise_at
        return None
