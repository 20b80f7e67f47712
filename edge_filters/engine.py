"""The filter for many devices: blocks in, records out. Composes the pure parts; does no I/O and reads no clock itself.

A step costs by the blocks it is given, never by the devices that exist: the windows of all devices that came together
are scored in one call per model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_filters.aggregator import Aggregate
from edge_filters.allocator import POLICY_VERSION, Allocator, Lane
from edge_filters.blocks import Block, Span, Window, spans
from edge_filters.device import Device, Rules, Slot
from edge_filters.outgoing import FromDevice
from edge_filters.updates import Candidate
from schemas.errors import ModelError, UpdateRefused
from schemas.ids import Identity
from schemas.records import (
    ArtifactChunk,
    EdgeAggregate,
    EdgeEvent,
    FeedbackKind,
    Floats,
    ModelUpdate,
    SensorBlock,
    ThresholdUpdate,
    Times,
    Transition,
)
from schemas.scoring import Scorer

Clock = Callable[[], int]

#: Windows in one call of a model: bounds the memory of a step.
MAX_BATCH = 512
#: Aggregates made in one step, at least; more when more wait. Devices tend to close their windows all at once, and
#: the next decisions shall not wait for that.
AGGREGATES_PER_STEP = 4
_LONG = np.iinfo(np.int64)


class Step(NamedTuple):
    """What a step gives: records to send, in order, and sentences for the operator."""

    records: list[FromDevice]
    notices: list[str]


class Engine:
    """All devices of a process."""

    def __init__(self, devices: Iterable[Device], rules: Rules) -> None:
        self.devices = {device.device_id: device for device in devices}
        self.slots = list({id(d.slot): d.slot for d in self.devices.values()}.values())
        self._rules = rules
        self._allocator = Allocator(rules.audit_rate)
        self._closing: deque[Device] = deque()

    # -- readings -------------------------------------------------------------------------------------------------

    def step(self, blocks: Sequence[Block], clock: Clock) -> Step:
        """Filter blocks, in the order in which they were sensed.

        Args:
            blocks: of any devices of this engine.
            clock: microseconds; read when the readings arrive and again when their decisions are made.
        """
        now_us = clock()
        notices: list[str] = []
        windows: list[tuple[Device, Window]] = []
        touched: dict[str, Device] = {}
        blocks = [block for block in blocks if len(block.times)]
        known = spans([block.times for block in blocks]) if blocks else []
        finite = _all_finite(blocks)
        for block, block_span in zip(blocks, known, strict=True):
            device = self.devices[block.device_id]
            touched[block.device_id] = device
            for window in self._sense(device, block, block_span, finite, now_us, notices):
                windows.append((device, window))  # noqa: PERF401  # a list made per block costs more
        records = self._decide(windows, clock, notices)
        for device in touched.values():
            if device.aggregator.has_passed and not device.queued:
                device.queued = True
                self._closing.append(device)
        self._aggregate(records)
        return Step(records, notices)

    def tick(self, clock: Clock) -> Step:
        """Close what has been open for too long by the clock. Costs by the devices: call it a few times a second."""
        now_us = clock()
        notices: list[str] = []
        windows: list[tuple[Device, Window]] = []
        if self._rules.max_wait_us is not None:
            for device in self.devices.values():
                # opened later than now: the clock was set back, and by the new time it would wait for hours
                waited_us = now_us - device.windower.opened_us
                if device.windower.open_readings and not 0 <= waited_us < self._rules.max_wait_us:
                    windows += [(device, window) for window in device.windower.flush()]
        records = self._decide(windows, clock, notices)
        # a device that still senses closes its windows by event time; twice the window is for one that fell silent
        overdue = now_us - 2 * self._rules.aggregate_us
        for device in self.devices.values():
            if device.aggregator.is_open:
                records += [_aggregate(device, aggregate) for aggregate in device.aggregator.flush(overdue, now_us)]
        self._aggregate(records)
        return Step(records, notices)

    def flush(self, clock: Clock) -> Step:
        """Close everything: the stream has ended, or the process is about to."""
        notices: list[str] = []
        open_windows = [(d, window) for d in self.devices.values() for window in d.windower.flush()]
        records = self._decide(open_windows, clock, notices)
        for device in self.devices.values():
            records += [_aggregate(device, aggregate) for aggregate in device.aggregator.flush()]
            device.queued = False
        self._closing.clear()
        return Step(records, notices)

    def _sense(
        self, device: Device, block: Block, known: Span | None, all_finite: bool, now_us: int, notices: list[str]
    ) -> list[Window]:
        times, values = block.times, block.values
        counters = device.counters
        counters["readings_sensed"] += len(times)
        counters["bytes_sensed"] += times.nbytes + values.nbytes
        if values.ndim != 2 or values.shape != (len(times), len(device.channels)):
            self._invalid(device, times, f"a block of shape {values.shape} does not fit the channels", now_us, notices)
            return []
        if not all_finite:
            finite: npt.NDArray[np.bool_] = np.isfinite(values)
            rows: npt.NDArray[np.bool_] = np.asarray(finite.all(axis=1))
            if not rows.all():
                self._invalid(device, times[~rows], _first_place(device, times, finite, rows), now_us, notices)
                times, values, known = times[rows], values[rows], None
                if not len(times):
                    return []
        device.aggregator.add(times, values, now_us, known)
        return device.windower.take(times, values, now_us, known)

    def _invalid(self, device: Device, times: Times, sentence: str, now_us: int, notices: list[str]) -> None:
        device.counters["readings_invalid"] += len(times)
        device.aggregator.add_invalid(times, now_us)
        if not device.said_invalid:
            device.said_invalid = True
            notices.append(f"{device.device_id}: {sentence}; such readings are left out and counted, said once")

    # -- decisions ------------------------------------------------------------------------------------------------

    def _decide(self, windows: list[tuple[Device, Window]], clock: Clock, notices: list[str]) -> list[FromDevice]:
        if not windows:
            return []
        scores = self._score(windows, notices)
        now_us = clock()
        records: list[FromDevice] = []
        for (device, window), score in zip(windows, scores, strict=True):
            seq, device.seq = device.seq, device.seq + 1
            counters = device.counters
            if score is None:
                counters["windows_unscored"] += 1
                continue
            counters["windows_scored"] += 1
            in_force = device.thresholds.at(now_us)
            provisional = device.decider.decide(score, in_force.levels)
            lane = self._allocator.allocate(Identity(device.device_id, device.boot_epoch, seq), provisional)
            sensed_to = int(window.times[-1])
            device.aggregator.scored(sensed_to, score, lane is Lane.EVENT, now_us)
            if lane is not Lane.EVENT:
                counters["windows_answered"] += 1
                if lane is Lane.SAMPLE:
                    counters["windows_sampled"] += 1
                    records.append(self._sample(device, seq, window, score, in_force.version))
                continue
            counters["windows_escalated"] += 1
            if provisional.transition is Transition.RAISED:
                counters["alarms_raised"] += 1
            records.append(
                EdgeEvent(
                    device_id=device.device_id,
                    boot_epoch=device.boot_epoch,
                    seq=seq,
                    cohort=device.cohort,
                    sensed_from=int(window.times[0]),
                    sensed_to=sensed_to,
                    decided_at=now_us,
                    model_name=device.slot.name,
                    model_version=device.slot.version,
                    model_sha256=device.slot.sha256,
                    thresholds_version=in_force.version,
                    policy_version=POLICY_VERSION,
                    score=score,
                    outcome=provisional.outcome,
                    transition=provisional.transition,
                    reason=provisional.reason,
                    readings=len(window.times),
                    channels=len(device.channels),
                    values=window.values.tobytes(),
                )
            )
        for device, _ in windows:
            device.counters["clock_jumps_back"] = device.windower.jumps_back
        return records

    def _sample(self, device: Device, seq: int, window: Window, score: float, thresholds_version: int) -> SensorBlock:
        return SensorBlock(
            device_id=device.device_id,
            boot_epoch=device.boot_epoch,
            seq=seq,
            cohort=device.cohort,
            channels=device.channels,
            event_times=window.times.tobytes(),
            values=window.values.tobytes(),
            sampled_at_rate=self._allocator.audit_rate,
            score=score,
            model_name=device.slot.name,
            model_version=device.slot.version,
            model_sha256=device.slot.sha256,
            thresholds_version=thresholds_version,
        )

    def _score(self, windows: list[tuple[Device, Window]], notices: list[str]) -> list[float | None]:
        """Score of each window; None where it has none: too short, or the model gives no number for it."""
        scores: list[float | None] = [None] * len(windows)
        groups: dict[tuple[int, int], list[int]] = {}
        for at, (device, window) in enumerate(windows):
            if len(window.times) >= device.slot.fewest_readings:
                groups.setdefault((id(device.slot), len(window.times)), []).append(at)
        for members in groups.values():
            for start in range(0, len(members), MAX_BATCH):
                batch = members[start : start + MAX_BATCH]
                for at, score in zip(batch, self._score_batch(windows, batch, notices), strict=True):
                    scores[at] = score
        return scores

    def _score_batch(
        self, windows: list[tuple[Device, Window]], batch: list[int], notices: list[str]
    ) -> Sequence[float | None]:
        scorer = windows[batch[0]][0].slot.scorer
        rows: Floats = np.concatenate([windows[at][1].values for at in batch])
        stacked = rows.reshape(len(batch), -1, rows.shape[1])
        ids = [windows[at][0].device_id for at in batch]
        spans = np.array([windows[at][1].times[[0, -1]] for at in batch]) if scorer.carries else None
        try:
            with np.errstate(all="ignore"):
                scores = scorer.score(stacked, ids) if spans is None else scorer.score(stacked, ids, spans)
            answers: list[float] = scores.tolist()
            return answers
        except ModelError as wrong:
            if len(batch) == 1:
                device = windows[batch[0]][0]
                if not device.said_unscored:
                    device.said_unscored = True
                    notices.append(
                        f"{device.device_id}: a window has no score: {wrong}; counted as unscored, said once"
                    )
                return [None]
            # one window that the model chokes on must not cost the others their score
            return [score for at in batch for score in self._score_batch(windows, [at], notices)]

    # -- aggregates -----------------------------------------------------------------------------------------------

    def _aggregate(self, records: list[FromDevice]) -> None:
        budget = max(AGGREGATES_PER_STEP, len(self._closing) // 4)
        while self._closing and budget:
            device = self._closing[0]
            aggregate = device.aggregator.pop()
            if aggregate is None:
                device.queued = False
                self._closing.popleft()
                continue
            records.append(_aggregate(device, aggregate))
            budget -= 1

    @property
    def has_work(self) -> bool:
        """Whether a step without blocks would still make aggregates."""
        return bool(self._closing)

    # -- feedback -------------------------------------------------------------------------------------------------

    def apply_thresholds(self, update: ThresholdUpdate, now_us: int) -> list[str]:
        """Offer thresholds to the devices they may be for. Returns a sentence per verdict."""
        verdicts: dict[str, int] = {}
        one = self.devices.get(update.target)
        for device in list(self.devices.values()) if update.target_kind == "COHORT" else [one] if one else []:
            try:
                if not device.thresholds.offer(update, now_us):
                    continue
                why = ""
            except UpdateRefused as refused:
                why = str(refused)
            device.note(FeedbackKind.THRESHOLDS, update, why, now_us)
            verdicts[why] = verdicts.get(why, 0) + 1
        return [
            f"{update.target}: thresholds {update.version} "
            + (f"refused: {why}" if why else f"are in force ({update.reason})")
            + (f", on {count} devices" if update.target_kind == "COHORT" else "")
            for why, count in verdicts.items()
        ]

    def offer_model(self, update: ModelUpdate, now_us: int) -> list[str]:
        """Offer a model update to the slots it is for; `wanted` and `candidates` say how it goes on."""
        notices = []
        for slot in self.slots:
            try:
                if slot.updates.offer(update, now_us):
                    notices.append(f"model {update.model_name} {update.version} is believed; waiting for its file")
            except UpdateRefused as refused:
                notices += self.refuse_model(slot, update, refused, now_us)
        return notices

    def add_chunk(self, chunk: ArtifactChunk, now_us: int) -> list[str]:
        """Take a piece of a file."""
        notices = []
        for slot in self.slots:
            pending = slot.updates.pending
            try:
                slot.updates.add(chunk)
            except UpdateRefused as refused:
                assert pending is not None
                notices += self.refuse_model(slot, pending, refused, now_us)
        return notices

    @property
    def wanted(self) -> frozenset[bytes]:
        """SHA-256 of the files that pending updates still need."""
        return frozenset(sha256 for slot in self.slots if (sha256 := slot.updates.wanted) is not None)

    def candidates(self, now_us: int) -> tuple[list[tuple[Slot, Candidate]], list[str]]:
        """Updates whose files are complete, to be built and given to `install_model` or `refuse_model`."""
        ready: list[tuple[Slot, Candidate]] = []
        notices: list[str] = []
        for slot in self.slots:
            pending = slot.updates.pending
            try:
                candidate = slot.updates.candidate()
            except UpdateRefused as refused:
                assert pending is not None
                notices += self.refuse_model(slot, pending, refused, now_us)
                continue
            if candidate is not None:
                ready.append((slot, candidate))
        return ready, notices

    def install_model(self, slot: Slot, candidate: Candidate, scorer: Scorer, now_us: int) -> list[str]:
        """Swap the model of a slot, between two steps."""
        before = slot.version
        slot.swap(scorer, now_us)
        for device in slot.devices:
            device.note(FeedbackKind.MODEL, candidate.update, "", now_us)
        return [f"model {slot.name}: version {before} -> {slot.version} on {len(slot.devices)} device(s)"]

    def refuse_model(self, slot: Slot, update: ModelUpdate, why: Exception, now_us: int) -> list[str]:
        """An update is not taken: what runs keeps running, and the devices say so."""
        slot.updates.failed(update)
        for device in slot.devices:
            device.note(FeedbackKind.MODEL, update, str(why), now_us)
        return [f"model {update.model_name} {update.version} refused, {slot.version} stays: {why}"]


def _all_finite(blocks: Sequence[Block]) -> bool:
    """Whether every value of all blocks is finite; False also where they have not one shape and must be looked at."""
    if len({block.values.shape[1:] for block in blocks}) != 1:
        return False
    return bool(np.isfinite(np.concatenate([block.values for block in blocks])).all())


def _aggregate(device: Device, aggregate: Aggregate) -> EdgeAggregate:
    seq, device.aggregate_seq = device.aggregate_seq, device.aggregate_seq + 1
    device.counters["readings_aggregated"] += aggregate.sketch.readings
    return EdgeAggregate(
        device_id=device.device_id,
        boot_epoch=device.boot_epoch,
        seq=seq,
        cohort=device.cohort,
        window_start=max(aggregate.start_us, _LONG.min),  # a device's clock may say anything that fits into 64 bits,
        window_end=min(aggregate.end_us, _LONG.max),  # and then the window around it may not
        channels=device.channels,
        windows_scored=aggregate.windows_scored,
        windows_escalated=aggregate.windows_escalated,
        score_max=aggregate.score_max,
        **aggregate.sketch.fields(),  # type: ignore[arg-type]  # fields() is typed as objects
    )


def _first_place(device: Device, times: Times, finite: npt.NDArray[np.bool_], rows: npt.NDArray[np.bool_]) -> str:
    """The first value that is not finite, in words."""
    row = int(np.argmin(rows))
    channel = device.channels[int(np.argmin(finite[row]))]
    return f"channel {channel!r} is not a finite number at event time {int(times[row])} us"
