"""Sinks of somebody else: in order, again after a failure, and never in the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from edge_filters import sinks
from edge_filters.device import Device, Rules
from edge_filters.sinks import SinkRunner, TappedEngine
from schemas.records import EdgeAggregate, EdgeEvent, SensorBlock
from tests.doubles import records as make
from tests.doubles.edge_parts import ManualClock, block, slot
from tests.wait import until


class Memory:
    """A sink that keeps what it is given; it fails or waits as told."""

    def __init__(self, fail: int = 0) -> None:
        self.got: list[Any] = []
        self.fail = fail
        self.calls = 0
        self.closed = False
        self.go = threading.Event()
        self.go.set()

    def write(self, records: Sequence[Any]) -> None:
        self.calls += 1
        self.go.wait(30)
        if self.fail:
            self.fail -= 1
            raise RuntimeError("no one listens")
        self.got += records

    def close(self) -> None:
        self.closed = True


def soon() -> float:
    return time.monotonic() + 10


def test_records_come_in_order_and_only_those_that_are_wanted() -> None:
    sink = Memory()
    runner = SinkRunner("own:it", sink, [EdgeEvent])
    events = [make.event("a", seq) for seq in range(1000)]
    for event in events:
        runner.offer([event, make.audit("a", event.seq)])
    runner.close(soon())
    assert sink.got == events
    assert (runner.written, runner.dropped, sink.closed) == (1000, 0, True)


def test_after_a_failure_the_same_records_come_again(caplog: pytest.LogCaptureFixture) -> None:
    sink = Memory(fail=3)
    runner = SinkRunner("own:it", sink, [EdgeEvent], retry_s=0.001)
    events = [make.event("a", seq) for seq in range(5)]
    runner.offer(events)
    until(lambda: runner.written == 5, "all five")
    runner.close(soon())
    assert sink.got == events
    said = [r.message for r in caplog.records]
    assert said == [
        "the sink 'own:it' failed in write(): RuntimeError: no one listens; the same records are given to it again",
        "the sink 'own:it' takes records again",
    ]


def test_a_slow_sink_holds_nobody_up_and_loses_its_oldest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sinks, "MAX_WAITING", 10)
    sink = Memory()
    sink.go.clear()
    runner = SinkRunner("own:it", sink, [EdgeEvent])
    runner.offer([make.event("a", 0)])
    until(lambda: sink.calls, "the first call")
    for seq in range(1, 101):
        runner.offer([make.event("a", seq)])
    assert runner.dropped == 90
    sink.go.set()
    runner.close(soon())
    assert [event.seq for event in sink.got] == [0, *range(91, 101)]
    assert [r.message for r in caplog.records] == [
        "the sink 'own:it' is too slow: its oldest records are dropped; Kafka gets them all",
        "the sink 'own:it' did not get 90 records; Kafka gets them all",
    ]


def test_a_sink_that_never_returns_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    sink = Memory()
    sink.go.clear()
    runner = SinkRunner("own:it", sink, [EdgeEvent])
    runner.offer([make.event("a", 0)])
    until(lambda: sink.calls, "the call")
    runner.offer([make.event("a", 1)])
    runner.close(time.monotonic() + 0.05)
    sink.go.set()
    assert "the sink 'own:it' does not return; it is left behind" in [r.message for r in caplog.records]
    assert runner.dropped == 1


def test_what_a_sink_that_fails_to_the_end_has_missed_is_counted() -> None:
    runner = SinkRunner("own:it", Memory(fail=10**6), [EdgeEvent], retry_s=0.001)
    runner.offer([make.event("a", seq) for seq in range(7)])
    runner.close(time.monotonic() + 0.2)
    until(lambda: runner.dropped == 7, "the count")


def test_a_configuration_that_is_only_checked_starts_no_thread() -> None:
    before = threading.active_count()
    SinkRunner("own:it", Memory(), [EdgeEvent])
    assert threading.active_count() == before


def test_a_tapped_engine_gives_its_records_to_the_sinks_and_to_kafka() -> None:
    every, alarms = Memory(), Memory()
    shared, rules = slot(), Rules(audit_rate=1.0)
    runners = [
        SinkRunner("own:every", every, [EdgeEvent, EdgeAggregate, SensorBlock]),
        SinkRunner("own:alarms", alarms, [EdgeEvent]),
    ]
    engine = TappedEngine([Device("pump-7", "pumps", 1, shared, rules)], rules, runners)
    sent = engine.step([block([5.0] * 4 + [0.0] * 8)], ManualClock()).records
    sent = sent + engine.tick(ManualClock()).records + engine.flush(ManualClock()).records
    assert every.got == sent
    assert alarms.got == [r for r in sent if isinstance(r, EdgeEvent)]
    assert {type(r) for r in sent} == {EdgeEvent, EdgeAggregate, SensorBlock}
    assert every.closed
