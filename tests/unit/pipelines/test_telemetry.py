from __future__ import annotations

from typing import Any

import pytest

from pipelines.io.ledger import LedgerCore, Standing
from pipelines.io.partition import Partition
from pipelines.metering import histogram
from pipelines.telemetry import BACKLOG, COUNTERS, REASONS, State, hanging, readiness, readings
from schemas.metrics import LATENCY_S, PIPELINE, Histogram

EVENTS = [Partition("edge.events", n) for n in range(2)]


def state(**changes: Any) -> State:
    known: dict[str, Any] = {
        "standing": {p: Standing(read=90, safe=70, watermark_us=1_000_000) for p in EVENTS},
        "ends": dict.fromkeys(EVENTS, 100),
        "broker": "",
        "runner": "",
        "models": 1,
        "in_flight": 3,
    }
    return State(**known | changes)


def value(of: State, name: str, *labels: str) -> Any:
    return readings(of, "job", "0", 5_000_000).values[name][labels]


def test_every_metric_but_those_of_topics_not_written_yet_is_there() -> None:
    assert {m.name for m in PIPELINE} - set(readings(state(), "job", "0", 0).values) == {
        "tidegate_pipeline_records_written_total"
    }


def test_where_the_workers_are_elsewhere_only_what_the_runner_knows_is_told() -> None:
    found = readings(State(runner=""), "job", "0", 0).values
    assert set(COUNTERS.values()) <= set(found)
    assert not [name for name in found if "lag" in name or "in_flight" in name]


def test_lag_is_counted_by_topic_and_never_below_zero() -> None:
    assert value(state(), "tidegate_pipeline_consumer_lag_records", "edge.events") == 20
    assert value(state(), "tidegate_pipeline_commit_lag_records", "edge.events") == 40
    assert value(state(), "tidegate_pipeline_watermark_lag_seconds") == 4.0
    stale = state(ends=dict.fromkeys(EVENTS, 80))  # the broker was asked before the last records were read
    assert value(stale, "tidegate_pipeline_consumer_lag_records", "edge.events") == 0


def test_dead_letters_and_written_records_carry_the_rest_of_the_counters_name() -> None:
    counters = {("tidegate.split", "failed.LateData"): 3, ("tidegate.split", "failed"): 3, ("sink", "records.x.y"): 2}
    found = readings(state(counters=counters), "job", "0", 0).values
    assert found["tidegate_pipeline_dead_letters_total"] == {(r,): 3 * (r == "LateData") for r in REASONS}
    assert found["tidegate_pipeline_records_written_total"] == {("x.y",): 2}


def test_a_histogram_comes_back_from_its_counters() -> None:
    counters = {("n", "h.0"): 2, ("n", f"h.{len(LATENCY_S)}"): 1, ("n", "h.sum_us"): 2_500_000}
    found = histogram(counters, "n", "h")
    assert isinstance(found, Histogram)
    assert found.counts == [2, *[0] * (len(LATENCY_S) - 1), 1]
    assert found.sum == 2.5


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"broker": "away"}, "broker"),
        ({"runner": "being submitted"}, "runner"),
        ({"models": 0}, "models"),
        ({"ends": dict.fromkeys(EVENTS, BACKLOG)}, "backlog"),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, Any], part: str) -> None:
    assert readiness(state()).ready
    found = readiness(state(**changes))
    assert [name for name, why in found.checks.items() if why] == [part]


def test_only_a_loop_that_stands_still_is_not_alive() -> None:
    assert hanging(State(turned_s=10.0, runner=""), 40.0) == ""
    assert hanging(State(turned_s=10.0, runner=""), 41.0) == "the loop has not turned for 31 s"
    assert hanging(State(turned_s=10.0), 1000.0) == ""  # it waits for the broker; a restart would not bring it back


def test_the_ledger_tells_where_a_partition_stands_without_closing_anything() -> None:
    core = LedgerCore(["decisions"], {"fleet": 0})
    core.begin(EVENTS[0], 10)
    assert core.standing() == {EVENTS[0]: Standing(10, 10, 0)}
    core.register(EVENTS[0], 10, 20, 5)
    core.contribute("fleet", EVENTS[0], 1000, b"k", 12)
    core.watermark(EVENTS[0], 9_000)
    assert core.standing() == {EVENTS[0]: Standing(20, 10, 9_000)}
    for branch in ("decisions", "fleet"):
        core.acknowledge(branch, _receipt(10, 20))
    assert core.standing() == {EVENTS[0]: Standing(20, 12, 9_000)}  # the window still holds its first record
    assert core.open_windows() == {"fleet": 1}


def _receipt(begin: int, end: int) -> Any:
    from pipelines.io.chunk import Receipt

    return Receipt("flow", *EVENTS[0], begin, end)
