from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_filters import outgoing
from edge_filters.device import Rules
from edge_filters.engine import Engine
from edge_filters.outgoing import pack, pack_status
from edge_filters.telemetry import HANGS_S, Meters, hanging, readiness, readings
from schemas.metrics import EDGE, Histogram
from schemas.records import EdgeEvent, Health
from schemas.tracing import HEADER, Hop, parse, trace_of
from tests.doubles import records as make
from tests.doubles.edge_parts import T0, ManualClock, block, engine, thresholds


def well() -> Meters:
    return Meters(broker="", feedback="", sensed=True)


def value(eng: Engine, meters: Meters, name: str, *labels: str) -> Any:
    return readings(eng, meters, "edge-1", "0").values[name][labels]


def test_every_metric_of_the_catalogue_has_a_value_from_the_start() -> None:
    assert set(readings(engine(), Meters(), "edge-1", "0").values) == {metric.name for metric in EDGE}


def test_decisions_are_counted_by_outcome_and_add_up_to_the_scored_windows() -> None:
    eng, meters, clock = engine("p", "q"), well(), ManualClock()
    blocks = [block([level] * 4, device) for device in ("p", "q") for level in (0.0, 2.5, 5.0)]
    for made in blocks:
        for event in eng.step([made], clock).records:
            if isinstance(event, EdgeEvent):
                meters.decided(event)
    by_outcome = {name: value(eng, meters, "tidegate_edge_decisions_total", name) for name in ("normal", "suspect")}
    assert by_outcome == {"normal": 2, "suspect": 2}
    assert value(eng, meters, "tidegate_edge_decisions_total", "anomaly") == 2
    assert value(eng, meters, "tidegate_edge_windows_scored_total") == 6
    latency = value(eng, meters, "tidegate_edge_decision_latency_seconds")
    assert isinstance(latency, Histogram)
    assert sum(latency.counts) == 4


def test_the_thresholds_of_all_devices_are_told_without_naming_one() -> None:
    eng = engine("p", "q")
    eng.apply_thresholds(thresholds(target="p", version=7), T0)
    assert value(eng, well(), "tidegate_edge_devices", "feedback") == 1
    assert value(eng, well(), "tidegate_edge_devices", "default") == 1
    assert value(eng, well(), "tidegate_edge_thresholds_version") == 7
    assert value(eng, well(), "tidegate_edge_feedback_accepted_total") == 1


def test_whoever_has_everything_is_ready() -> None:
    assert readiness(engine(), well()).ready


@pytest.mark.parametrize(
    ("change", "part", "sentence"),
    [
        ({"broker": "the broker is away"}, "broker", "the broker is away"),
        ({"feedback": "no topic"}, "feedback", "no topic"),
        ({"sensed": False}, "sensors", "no reading has come yet"),
        ({"spool": "the spool at /s has no room"}, "spool", "the spool at /s has no room"),
        ({"fullness": 0.95, "spool_records": 12}, "backlog", "the spool is 95% full with 12 records"),
    ],
)
def test_what_is_missing_is_named(change: dict[str, Any], part: str, sentence: str) -> None:
    meters = well()
    for name, changed in change.items():
        setattr(meters, name, changed)
    found = readiness(engine(), meters)
    assert not found.ready
    assert {name: why for name, why in found.checks.items() if why} == {part: sentence}


def test_a_thousand_silent_sensors_are_a_short_sentence() -> None:
    eng = engine(*(f"d{n}" for n in range(1000)))
    for device in eng.devices.values():
        device.problem = "gone"
    assert readiness(eng, well()).checks["sensors"] == "failed: d0, d1, d2, d3, d4 and 995 more"
    assert value(eng, well(), "tidegate_edge_sensors_failed") == 1000


def test_only_a_loop_that_stands_still_is_not_alive() -> None:
    meters = Meters(turned_s=100.0)
    assert hanging(meters, 100.0 + HANGS_S) == ""
    assert hanging(meters, 101.0 + HANGS_S) == "the loop has not turned for 11 s"


def test_events_and_samples_leave_with_the_trace_of_their_event_and_nothing_else_does() -> None:
    eng = engine(rules=Rules(audit_rate=1.0))
    clock = ManualClock()
    records = [*eng.step([block([0.0] * 4 + [5.0] * 4)], clock).records, *eng.flush(clock).records]
    kinds = set()
    for record in records:
        kinds.add(type(record).__name__)
        found = outgoing.headers(pack(record))
        if type(record).__name__ == "EdgeAggregate":
            assert found == []
            continue
        ((name, traceparent),) = found
        assert name == HEADER
        assert parse(traceparent) == trace_of(record.identity.event_id, Hop.EDGE)
    assert kinds == {"EdgeEvent", "SensorBlock", "EdgeAggregate"}
    status = next(iter(eng.devices.values())).status(Health.OK, T0)
    assert outgoing.headers(pack_status(status)) == []


@pytest.mark.parametrize("module", [("edge_filters",), ("deploy", "edge")])
def test_with_log_format_json_a_configuration_that_cannot_be_read_is_a_line_of_json_and_nothing_else(
    module: tuple[str, ...], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", *module, "run", str(tmp_path / "none.toml"), "--log-format=json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    (line,) = map(json.loads, done.stderr.splitlines())
    assert line["severity"] == "CRITICAL"
    assert "the configuration cannot be read" in line["body"]


@pytest.mark.parametrize("module", [("edge_filters",), ("deploy", "edge")])
def test_progress_is_shown_also_under_the_tidegate_command(module: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()  # without a manifest: the run ends after its first sentence
    config = tmp_path / "edge.toml"
    config.write_text(
        '[edge]\nstate_dir = "state"\n[kafka]\nbootstrap_servers = "127.0.0.1:1"\n[model]\npath = "model"\n'
        '[http]\nport = 0\n[[device]]\nid = "p"\nsensor = { kind = "synthetic" }\n'
    )
    command = [sys.executable, "-m", *module, "run", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "INFO metrics and probes are on http://127.0.0.1:" in done.stderr


def test_a_latency_that_cannot_be_is_counted_as_not_known_and_not_as_a_time() -> None:
    eng, meters = engine(), well()
    for sensed_to in (T0 - 250_000, T0 + 1_000, T0 + 3600_000_000, 0):
        meters.decided(make.event(sensed_to=sensed_to, decided_at=T0))
    latency = value(eng, meters, "tidegate_edge_decision_latency_seconds")
    assert isinstance(latency, Histogram)
    assert (sum(latency.counts), latency.sum) == (2, 0.25)
    assert value(eng, meters, "tidegate_edge_decision_latency_unknown_total") == 2
