"""The aggregate stream: edge sketches to fleet windows in event time, with late data as corrections.

Two steps. `Sum` adds up the aggregates of a bundle per window, so that what crosses the shuffle, and costs a round
trip for its state, is one element per cohort and window and not one for each chunk of each partition. `Publish` keeps
the sum of each window in state, writes it when the watermark passes the window's end, and writes it again, larger, for
everything that comes later until the allowed lateness is over. What it writes is always the whole window: a reader
replaces by cohort and window_start and never has to add. `Split` has refused what is too late by the time of its
chunk; what became too late on the way here is counted, and begins no window anew.
"""

from __future__ import annotations

import struct
import uuid
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow, TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.elements import Lanes
from pipelines.fleet import Fleet
from pipelines.io import flow as flows
from pipelines.io.chunk import Batch, Outgoing, WindowAck
from pipelines.split import FLEET_LANE, WindowRule
from schemas.codec import encode

#: Step -> latest end of a window that is over in this process, us: a runner need not tell that an element is late.
_OVER: dict[str, int] = {}


class FleetWindows(beam.PTransform):
    """Lanes -> encoded FleetWindows. `flow` names the source whose ledger counts the contributions.

    The window is part of the key, and timers end it; Beam's own windows are not used. Prism clears windowed state as
    soon as the watermark passes the window's end, whatever the allowed lateness, so a correction would hold the late
    part alone.
    """

    def __init__(self, rule: WindowRule, flow: str = "") -> None:
        super().__init__()
        self._rule, self._flow = rule, flow

    def expand(self, lanes: beam.PCollection[Lanes]) -> beam.PCollection[Batch]:
        """See the module."""
        return (
            lanes
            | "Sum" >> beam.ParDo(_Sum(self._rule)).with_output_types(tuple[bytes, bytes])
            | "Publish" >> beam.ParDo(_Publish(self._rule, self._flow)).with_output_types(Batch)
        )


#: In front of a key: the window's start, us.
_START = struct.Struct(">q")


#: Sums that a bundle may hold; one that replays months is let go in between.
MAX_HELD = 1_000


class _Sum(beam.DoFn):
    def __init__(self, rule: WindowRule) -> None:
        self._rule = rule
        self._held: dict[tuple[bytes, int], Fleet] = {}

    def start_bundle(self) -> None:
        """Nothing of an earlier bundle, which may have failed, is carried over."""
        self._held = {}

    def process(self, lanes: Lanes) -> Iterator[TimestampedValue]:
        groups: dict[tuple[bytes, int], list[Fleet]] = defaultdict(list)
        first: dict[tuple[bytes, int], int] = {}
        for offset, aggregate, sketch in lanes.aggregates:
            part = Fleet.of(aggregate, sketch)
            at = part.key, self._rule.start(aggregate.window_start)
            groups[at].append(part)
            first.setdefault(at, offset)
        flow = flows.find(lanes.receipt.flow)
        if flow is not None and flow.ledger is not None:
            parts = [(start + self._rule.size_us, key, first[key, start]) for key, start in groups]
            flow.ledger.contribute(FLEET_LANE, lanes.receipt, parts)
        for at, group in groups.items():
            total = Fleet.total(group, contributions=1)
            self._held[at] = self._held[at].merge(total) if at in self._held else total
        if len(self._held) > MAX_HELD:
            for element, at_us in self._let_go():
                yield TimestampedValue(element, at_us)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Hand on what the bundle added up."""
        for element, at_us in self._let_go():
            yield WindowedValue(element, at_us, [GlobalWindow()])

    def _let_go(self) -> Iterator[tuple[tuple[bytes, bytes], Timestamp]]:
        held, self._held = self._held, {}
        for (key, start), total in held.items():
            yield (_START.pack(start) + key, total.to_bytes()), Timestamp(micros=start)


class _Publish(beam.DoFn):
    """State of a window: one byte (1 = published before), then the sum."""

    SUM = ReadModifyWriteStateSpec("sum", BytesCoder())
    DUE = TimerSpec("due", TimeDomain.WATERMARK)
    OVER = TimerSpec("over", TimeDomain.WATERMARK)

    def __init__(self, rule: WindowRule, flow: str) -> None:
        self._rule, self._flow, self._step = rule, flow, uuid.uuid4().hex
        self._published = Metrics.counter("tidegate.fleet", "windows")
        self._corrected = Metrics.counter("tidegate.fleet", "corrections")
        self._too_late = Metrics.counter("tidegate.fleet", "too_late")

    def process(
        self,
        element: tuple[bytes, bytes],
        total: Any = beam.DoFn.StateParam(SUM),
        due: Any = beam.DoFn.TimerParam(DUE),
        over: Any = beam.DoFn.TimerParam(OVER),
    ) -> Iterator[Batch]:
        """Add a contribution; publish at once when the window was published before."""
        key, part = element
        saved = total.read()
        published = bool(saved) and saved[0] == 1
        fleet = Fleet.from_bytes(part)
        end_us = self._end(key)
        if not saved and end_us <= _OVER.get(self._step, 0):
            self._too_late.inc(fleet.records)
            yield Batch([], windows=self._acks(fleet, end_us, cumulative=False))
            return
        if saved:
            fleet = Fleet.from_bytes(saved[1:]).merge(fleet)
        total.write((b"\1" if published else b"\0") + fleet.to_bytes())
        if published:
            self._corrected.inc()
            yield self._batch(fleet, end_us)
        else:
            due.set(Timestamp(micros=end_us))
        over.set(Timestamp(micros=end_us + self._rule.lateness_us))

    @on_timer(DUE)
    def publish(self, key: Any = beam.DoFn.KeyParam, total: Any = beam.DoFn.StateParam(SUM)) -> Iterator[Batch]:
        """The watermark passed the end of the window."""
        yield from self._unpublished(key, total)

    @on_timer(OVER)
    def forget(self, key: Any = beam.DoFn.KeyParam, total: Any = beam.DoFn.StateParam(SUM)) -> Iterator[Batch]:
        """Nothing can correct the window any more. Both timers may be due at once, and then in either order."""
        yield from self._unpublished(key, total)
        total.clear()
        _OVER[self._step] = max(self._end(key), _OVER.get(self._step, 0))

    def _unpublished(self, key: bytes, total: Any) -> Iterator[Batch]:
        saved = total.read()
        if saved and saved[0] == 0:
            total.write(b"\1" + saved[1:])
            self._published.inc()
            yield self._batch(Fleet.from_bytes(saved[1:]), self._end(key))

    def _end(self, key: bytes) -> int:
        return int(_START.unpack_from(key)[0]) + self._rule.size_us

    def _batch(self, fleet: Fleet, end_us: int) -> Batch:
        record = Outgoing(fleet.cohort.encode(), encode(fleet.window(end_us - self._rule.size_us, end_us)))
        return Batch([record], windows=self._acks(fleet, end_us, cumulative=True))

    def _acks(self, fleet: Fleet, end_us: int, *, cumulative: bool) -> tuple[WindowAck, ...]:
        if not self._flow:
            return ()
        return (WindowAck(self._flow, FLEET_LANE, end_us, fleet.key, fleet.contributions, cumulative),)
