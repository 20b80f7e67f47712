"""The aggregate stream: edge sketches to fleet windows in event time, with late data as corrections.

Two steps. `Sum` adds up a chunk's aggregates per window, so that what crosses the shuffle is one element per chunk,
cohort and window. `Publish` keeps the sum of each window in state, writes it when the watermark passes the window's
end, and writes it again, larger, for everything that comes later until the allowed lateness is over. What it writes is
always the whole window: a reader replaces by cohort and window_start and never has to add.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import FixedWindows, IntervalWindow, TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

from pipelines.elements import Lanes
from pipelines.fleet import Fleet, add_up
from pipelines.io import flow as flows
from pipelines.io.chunk import Batch, Outgoing, WindowAck
from pipelines.split import FLEET_LANE, WindowRule
from schemas.codec import encode


class FleetWindows(beam.PTransform):
    """Lanes -> encoded FleetWindows. `flow` names the source whose ledger counts the contributions."""

    def __init__(self, rule: WindowRule, flow: str = "") -> None:
        super().__init__()
        self._rule, self._flow = rule, flow

    def expand(self, lanes: beam.PCollection[Lanes]) -> beam.PCollection[Batch]:
        """See the module."""
        size_s, late_s = self._rule.size_us / 1e6, self._rule.lateness_us / 1e6
        return (
            lanes
            | "Sum" >> beam.ParDo(_Sum(self._rule)).with_output_types(tuple[bytes, bytes])
            | "Window" >> beam.WindowInto(FixedWindows(size_s), allowed_lateness=Duration.of(late_s))
            | "Publish" >> beam.ParDo(_Publish(self._rule, self._flow)).with_output_types(Batch)
        )


class _Sum(beam.DoFn):
    def __init__(self, rule: WindowRule) -> None:
        self._rule = rule

    def process(self, lanes: Lanes) -> Iterator[TimestampedValue]:
        groups: dict[tuple[bytes, int], list[Fleet]] = defaultdict(list)
        first: dict[tuple[bytes, int], int] = {}
        for offset, aggregate in lanes.aggregates:
            part = Fleet.of(aggregate)
            at = part.key, self._rule.start(aggregate.window_start)
            groups[at].append(part)
            first.setdefault(at, offset)
        flow = flows.find(lanes.receipt.flow)
        if flow is not None and flow.ledger is not None:
            parts = [(start + self._rule.size_us, key, first[key, start]) for key, start in groups]
            flow.ledger.contribute(FLEET_LANE, lanes.receipt, parts)
        for (key, start), group in groups.items():
            yield TimestampedValue((key, add_up(group).to_bytes()), Timestamp(micros=start))


class _Publish(beam.DoFn):
    """State of a window: one byte (1 = published before), then the sum."""

    SUM = ReadModifyWriteStateSpec("sum", BytesCoder())
    DUE = TimerSpec("due", TimeDomain.WATERMARK)
    OVER = TimerSpec("over", TimeDomain.WATERMARK)

    def __init__(self, rule: WindowRule, flow: str) -> None:
        self._rule, self._flow = rule, flow
        self._published = Metrics.counter("tidegate.fleet", "windows")
        self._corrected = Metrics.counter("tidegate.fleet", "corrections")

    def process(
        self,
        element: tuple[bytes, bytes],
        window: IntervalWindow = beam.DoFn.WindowParam,
        total: Any = beam.DoFn.StateParam(SUM),
        due: Any = beam.DoFn.TimerParam(DUE),
        over: Any = beam.DoFn.TimerParam(OVER),
    ) -> Iterator[Batch]:
        """Add a contribution; publish at once when the window was published before."""
        _, part = element
        saved = total.read()
        late = bool(saved) and saved[0] == 1
        fleet = Fleet.from_bytes(part)
        if saved:
            fleet = Fleet.from_bytes(saved[1:]).merge(fleet)
        total.write((b"\1" if late else b"\0") + fleet.to_bytes())
        if late:
            self._corrected.inc()
            yield self._batch(fleet, window)
        else:  # at the window's last moment: one microsecond later, at its end, Prism never fires it
            due.set(window.max_timestamp())
        over.set(window.max_timestamp() + Duration.of(self._rule.lateness_us / 1e6))

    @on_timer(DUE)
    def publish(
        self, window: IntervalWindow = beam.DoFn.WindowParam, total: Any = beam.DoFn.StateParam(SUM)
    ) -> Iterator[Batch]:
        """The watermark passed the end of the window."""
        yield from self._unpublished(window, total)

    @on_timer(OVER)
    def forget(
        self, window: IntervalWindow = beam.DoFn.WindowParam, total: Any = beam.DoFn.StateParam(SUM)
    ) -> Iterator[Batch]:
        """Nothing can correct the window any more. Both timers may be due at once, and then in either order."""
        yield from self._unpublished(window, total)
        total.clear()

    def _unpublished(self, window: IntervalWindow, total: Any) -> Iterator[Batch]:
        saved = total.read()
        if saved and saved[0] == 0:
            total.write(b"\1" + saved[1:])
            self._published.inc()
            yield self._batch(Fleet.from_bytes(saved[1:]), window)

    def _batch(self, fleet: Fleet, window: IntervalWindow) -> Batch:
        start_us, end_us = window.start.micros, window.end.micros
        record = Outgoing(fleet.cohort.encode(), encode(fleet.window(start_us, end_us)))
        ack = WindowAck(self._flow, FLEET_LANE, end_us, fleet.key, fleet.contributions, cumulative=True)
        return Batch([record], windows=(ack,) if self._flow else ())
