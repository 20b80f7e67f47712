"""The pipeline on a real cluster of two TaskManagers: decisions, windows, thresholds; a kill -9; a savepoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.broker import Broker
from deploy.flink.cluster import FlinkCluster
from pipelines.publish import publish, read_package
from schemas import topics
from schemas.records import Decision, Failure, FleetWindow, Outcome, ThresholdUpdate, Verdict
from tests.doubles import records as make
from tests.doubles.tiny_model import write_package
from tests.e2e.flink_rig import OnFlink

pytestmark = [pytest.mark.kafka, pytest.mark.flink, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    made = FlinkCluster(tmp_path_factory.mktemp("flink"))
    made.start(timeout_s=240)
    yield made
    made.stop()


@pytest.fixture
def on_flink(broker: Broker, catalogue: str, cluster: FlinkCluster, tmp_path: Path) -> Iterator[OnFlink]:
    publish(read_package(str(write_package(tmp_path / "tiny"))), broker.bootstrap_servers, catalogue)
    running = OnFlink(broker, catalogue, cluster.start(timeout_s=240), tmp_path / "pipeline.log")
    yield running
    running.close()


def decisions(found: list[object]) -> list[Decision]:
    return [one for one in found if isinstance(one, Decision)]


def windows(found: list[object]) -> dict[tuple[int, int], set[tuple[object, ...]]]:
    """(Start, revision) of each fleet window -> what was written for it, without when."""
    out: dict[tuple[int, int], set[tuple[object, ...]]] = {}
    for one in found:
        assert isinstance(one, FleetWindow)
        out.setdefault((one.window_start, one.revision), set()).add((tuple(one.devices), one.readings))
    return out


def test_the_graph_runs_on_two_taskmanagers_and_a_killed_one_loses_nothing(on_flink: OnFlink) -> None:
    job = on_flink.submit()
    assert on_flink.cluster.rest.hosts(job) == {"taskmanager-1", "taskmanager-2"}

    now_us = time.time_ns() // 1000
    window = now_us - now_us % 1_000_000
    on_flink.send(topics.EVENTS, [make.event("pump-1", seq, value=1.5) for seq in range(12)])
    on_flink.send(topics.EVENTS, [make.event("pump-2", 0, value=5.0)] * 2 + [b"\xc3\x01 not a record"])
    on_flink.send(topics.AGGREGATES, [make.aggregate(device, 0, window) for device in ("pump-1", "pump-2")])
    found = decisions(on_flink.read(topics.DECISIONS, 13))
    assert sorted((d.device_id, d.seq) for d in found) == sorted([("pump-1", n) for n in range(12)] + [("pump-2", 0)])
    by_device = {d.device_id: d for d in found}
    assert (by_device["pump-1"].outcome, by_device["pump-1"].verdict) == (Outcome.NORMAL, Verdict.OVERRIDDEN)
    assert (by_device["pump-2"].outcome, by_device["pump-2"].verdict) == (Outcome.ANOMALY, Verdict.CONFIRMED)
    (failure,) = on_flink.read(topics.DEAD_LETTERS, 1)
    assert isinstance(failure, Failure)
    both = (("pump-1", "pump-2"), 8)
    assert on_flink.window(window) == both
    (update,) = on_flink.read(topics.THRESHOLDS, 1)
    assert isinstance(update, ThresholdUpdate)
    assert update.target == "pump-1"

    # all of that is in a checkpoint; what follows is decided, and lost with the process before the next one or not
    on_flink.checkpoint_after(job, time.time())
    on_flink.send(topics.EVENTS, [make.event("pump-1", seq) for seq in range(12, 60)])
    on_flink.cluster.taskmanagers[0].kill()
    on_flink.send(topics.EVENTS, [make.event("pump-1", seq) for seq in range(60, 100)])
    on_flink.cluster.taskmanagers[0].start()
    again = decisions(on_flink.read(topics.DECISIONS, 101, distinct=True))
    said: dict[object, set[tuple[object, ...]]] = {}
    for one in again:
        said.setdefault(one.identity, set()).add((one.outcome, one.verdict, one.heavy_score, one.model_sha256))
    assert {(i.device_id, i.seq) for i in said} == {("pump-2", 0)} | {("pump-1", n) for n in range(100)}  # type: ignore[attr-defined]
    assert all(len(what) == 1 for what in said.values()), "a duplicate says something else"

    # windows go on after the recovery, and what was written before is written again with the same value or not at all
    now_us = time.time_ns() // 1000
    later = now_us - now_us % 1_000_000
    on_flink.send(topics.AGGREGATES, [make.aggregate(device, 1, later) for device in ("pump-1", "pump-2")])
    assert on_flink.window(later) == both
    written = windows(on_flink.read(topics.FLEET, 2))
    assert all(len(values) == 1 for values in written.values()), "a window written again says something else"
    assert {start for start, _ in written} == {window, later}


def test_stopped_with_a_savepoint_and_handed_in_again_nothing_is_lost_and_nothing_decided_twice(
    on_flink: OnFlink, tmp_path: Path
) -> None:
    job = on_flink.submit()
    on_flink.send(topics.EVENTS, [make.event("pump-1", seq) for seq in range(50)])
    on_flink.read(topics.DECISIONS, 50)
    savepoint = on_flink.stop(job, tmp_path / "savepoints")
    assert on_flink.cluster.rest.jobs()[job] == "FINISHED"

    # while it is down: new ones, and some of the old ones sent again, which the dedupe in the savepoint knows
    on_flink.send(topics.EVENTS, [make.event("pump-1", seq) for seq in (47, 48, 49, *range(50, 80))])
    on_flink.submit(f"--savepoint_path={savepoint}")
    found = decisions(on_flink.read(topics.DECISIONS, 80))
    on_flink.send(topics.EVENTS, [make.event("pump-1", 80)])
    found = decisions(on_flink.read(topics.DECISIONS, 81))
    assert sorted(d.seq for d in found) == list(range(81))
