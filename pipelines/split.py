"""Poll chunks to lanes: decode, refuse what cannot be right, and sort out what comes too late. One step, no shuffle."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics

from pipelines import refusal
from pipelines.deadletter import failure, outgoing
from pipelines.elements import Lanes, Sighting
from pipelines.io.chunk import Batch, Chunk, Outgoing, Record
from pipelines.limits import FailureLimit, count
from schemas import topics
from schemas.clocks import UNSET, Clocks, check_times
from schemas.codec import decode
from schemas.errors import ConfigError, DecodeError, TidegateError
from schemas.records import EdgeAggregate, EdgeEvent, SensorBlock
from schemas.sketch import Sketch

log = logging.getLogger(__name__)
FLEET_LANE = "fleet"
FAILED = "failed"
#: How far a window may end behind the broker's clock. A wrong clock beyond it would hold its window, and with it the
#: committed offset, until that future comes.
MAX_AHEAD_US = 3600 * 1_000_000
#: Devices whose wrong clock is told of in the log.
MAX_TOLD = 1_000
#: Of a cohort or a model's name, which are copied into every decision. Package manifests allow no more either.
MAX_NAME = 128


class LateData(TidegateError):
    """A good record of a window that is closed for good."""


class UnexpectedError(TidegateError):
    """A record on which our own code failed in a way that it does not know: a defect, contained."""

    @classmethod
    def of(cls, thrown: Exception) -> UnexpectedError:
        """What was thrown, in words."""
        return cls(f"{type(thrown).__name__}: {thrown}", fix="this is a defect of ours: please report it")


class LostRecords(TidegateError):
    """Records are gone from the topic that nobody had read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRule:
    """Fleet windows: `size_us` long, corrected by late data until `lateness_us` after their end."""

    size_us: int
    lateness_us: int

    def __post_init__(self) -> None:
        if self.size_us < 1 or self.lateness_us < 0:
            raise ConfigError("fleet windows need a positive size and a lateness of zero or more", rule=str(self))

    def start(self, at_us: int) -> int:
        """Start of the window that holds a moment."""
        return at_us - at_us % self.size_us


class Routed(NamedTuple):
    """Output of Split."""

    lanes: beam.PCollection[Lanes]
    failed: beam.PCollection[Batch]


class Split(beam.PTransform):
    """Chunk -> decoded lanes, and dead letters. Keeps timestamps and windows."""

    def __init__(
        self,
        topic_prefix: str,
        window: WindowRule,
        *,
        recorded_clock: bool = False,
        limit: FailureLimit = FailureLimit(),  # noqa: B008  # immutable
    ) -> None:
        super().__init__()
        self._split = _Split(topic_prefix, window, recorded_clock, limit)

    def expand(self, chunks: beam.PCollection[Chunk]) -> Routed:
        """See Routed."""
        step = beam.ParDo(self._split).with_outputs(FAILED, main="lanes")
        out = chunks | "Decode" >> step.with_output_types(Lanes)
        # said again: with several outputs Beam forgets it, and pickles what it has no type of
        out["lanes"].element_type, out[FAILED].element_type = Lanes, Batch
        return Routed(out["lanes"], out[FAILED])


class _Split(beam.DoFn):
    """`recorded_clock`: failures are dated by their record, not by the wall clock."""

    def __init__(self, prefix: str, window: WindowRule, recorded_clock: bool, limit: FailureLimit) -> None:
        self._prefix, self._window, self._recorded_clock = prefix, window, recorded_clock
        self._limit, self._step = limit, uuid.uuid4().hex
        self._good = Metrics.counter("tidegate.split", "records")
        self._bad = Metrics.counter("tidegate.split", "failed")
        self._clocks = Clocks()
        self._told: set[str] = set()

    def process(self, chunk: Chunk) -> Iterator[Any]:
        topic = chunk.topic.removeprefix(self._prefix)
        events, audits, sightings, ahead = [], [], [], []
        failed: list[Outgoing] = []
        if chunk.lost_from >= 0:
            failed.append(self._gap(chunk))
        kind = topics.by_name(topic).record
        refused = dict(chunk.refused)
        unfit, newest = 0, ""
        for record in self._records(chunk, topic):
            try:
                if refused and record.offset in refused:
                    if record.offset < chunk.resume.position:
                        continue  # an earlier run has put it away
                    raise refusal.error(refused[record.offset])
                good: Any = decode(record.value or b"", kind)
                _check_names(good)
                check_times(good)
                if topic == topics.EVENTS.name:
                    events.append(good)
                    if not self._recorded_clock:
                        ahead.append(self._ahead_us(good, record))
                elif topic == topics.SAMPLES.name:
                    audits.append(good)
                elif (sketch := self._wanted(chunk, record, good)) is not None:
                    sightings.append(Sighting(record.offset, good, sketch))
            except Exception as thrown:  # also what nobody thought of: one record must not end the job
                cause = thrown if isinstance(thrown, TidegateError) else UnexpectedError.of(thrown)
                at_us = record.append_time_ms * 1000 if self._recorded_clock else time.time_ns() // 1000  # noqa: TID251
                failed.append(outgoing(failure(chunk, record, "split", cause, at_us)))
                _count(cause)
                if isinstance(cause, DecodeError | UnexpectedError):
                    unfit, newest = unfit + 1, str(cause)[:200]
        count(self._step, self._limit, len(chunk.records), unfit, newest)
        self._good.inc(len(events) + len(audits) + len(sightings))
        self._bad.inc(len(failed))
        yield Lanes(chunk.receipt, events, audits, sightings, tuple(ahead))
        yield beam.pvalue.TaggedOutput(FAILED, Batch(failed, (chunk.receipt,)))

    def _ahead_us(self, event: EdgeEvent, record: Record) -> int | None:
        """How far the clock of an event's device is ahead of the broker's; None where that cannot be known."""
        verdict = self._clocks.judge(event.device_id, event.decided_at, record.append_time_ms * 1000)
        if verdict.suspect:
            Metrics.counter("tidegate.split", f"clock.{verdict.suspect}").inc()
            if event.device_id not in self._told and len(self._told) < MAX_TOLD:
                self._told.add(event.device_id)
                off_s = (event.decided_at // 1000 - record.append_time_ms) / 1e3
                log.warning(
                    "the clock of %s %s (%+.0f s against the broker's); its records are kept as they are, said once",
                    event.device_id,
                    "was never set" if verdict.suspect == UNSET else "is ahead",
                    off_s,
                )
        return verdict.ahead_us

    def _gap(self, chunk: Chunk) -> Outgoing:
        """A dead letter that stands for records which the broker had deleted before they were read."""
        gone = Record(chunk.lost_from, None, b"", chunk.records[0].append_time_ms if chunk.records else 0)
        last = (chunk.begin if chunk.records else chunk.end) - 1
        cause = LostRecords(
            f"offsets {chunk.lost_from} to {last} were deleted by retention before they were read",
            fix="keep the topic longer, or the pipeline up",
        )
        at_us = gone.append_time_ms * 1000 if self._recorded_clock else time.time_ns() // 1000  # noqa: TID251
        _count(cause)
        return outgoing(failure(chunk, gone, "source", cause, at_us))

    def _records(self, chunk: Chunk, topic: str) -> list[Record]:
        """Aggregates of windows that an earlier run left open are wanted again; other records only once."""
        return chunk.records if topic == topics.AGGREGATES.name else chunk.fresh()

    def _wanted(self, chunk: Chunk, record: Record, aggregate: EdgeAggregate) -> Sketch | None:
        """What an aggregate adds to its window; None when an earlier run has it in a closed one already.

        Raises LateData, or DecodeError where it fits no window or its sketch is not one.
        """
        start = self._window.start(aggregate.window_start)
        end = start + self._window.size_us
        if aggregate.window_end > end:
            raise DecodeError(
                "an aggregate spans two fleet windows",
                device_id=aggregate.device_id,
                fix="the fleet window must be a multiple of the edges' aggregate window",
            )
        try:
            sketch = Sketch.from_aggregate(aggregate)
        except ValueError as cause:
            raise DecodeError(f"not a sketch: {cause}", device_id=aggregate.device_id) from None
        if aggregate.window_end > record.append_time_ms * 1000 + MAX_AHEAD_US:
            raise DecodeError(
                "its window ends in the future",
                device_id=aggregate.device_id,
                window_end=aggregate.window_end,
                received_at=record.append_time_ms * 1000,
                fix="the clock of the device is wrong",
            )
        horizon_us = chunk.resume.horizon_us(FLEET_LANE)
        if end <= horizon_us and record.offset < chunk.resume.position:
            return None
        if end <= max(horizon_us, chunk.watermark_us - self._window.lateness_us):
            raise LateData(
                "its window is closed for good",
                device_id=aggregate.device_id,
                window_end=end,
                watermark=chunk.watermark_us,
                fix="raise --allowed_lateness when devices are offline for longer than that",
            )
        return sketch


def _count(cause: TidegateError) -> None:
    """One dead letter, by its reason: the families of errors are few."""
    Metrics.counter("tidegate.split", f"failed.{type(cause).__name__}").inc()


def _check_names(record: EdgeEvent | EdgeAggregate | SensorBlock) -> None:
    """Raises DecodeError: a name is longer than any that a package may have."""
    for what in ("cohort", "model_name"):
        if len(getattr(record, what, None) or "") > MAX_NAME:
            raise DecodeError(f"its {what} is too long", device_id=record.device_id, max_characters=MAX_NAME)
