"""Edges whose clocks are wrong, real processes all, beside one whose clock is right: who pays, what is said."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition

from deploy.broker import Broker
from pipelines.publish import publish, read_package
from schemas import topics
from schemas.codec import decode
from schemas.records import Decision, EdgeAggregate, EdgeEvent, Failure, FleetWindow
from schemas.topics import Topic
from tests.doubles import edge_model, recording, scrape
from tests.e2e.test_pipeline_prism import Live
from tests.wait import until

pytestmark = [pytest.mark.kafka, pytest.mark.prism]

DAY_S, HOUR_S = 86_400, 3_600
READINGS = 600
#: Runs an edge whose wall clock is another one from before its first import; the steady clock stays as it is.
WRONG_CLOCK = """
import runpy, sys, time
real_s, real_ns, began_s, began_real_s = time.time, time.time_ns, time.monotonic(), time.time()
def off_s():
    return {off}
time.time = lambda: real_s() + off_s()
time.time_ns = lambda: real_ns() + int(off_s() * 1_000_000_000)
sys.argv = ["edge_filters", "run", {config!r}]
runpy.run_module("edge_filters", run_name="__main__")
"""
#: How far off the clocks of the sick devices are, as an expression in the edge process.
SICK = {
    "ahead": f"{DAY_S}",
    "unset": "30 - began_real_s",
    "back": f"-{HOUR_S} if time.monotonic() - began_s > 3 else 0",
}


class Plant:
    """One pipeline, one edge with right clocks, and one for each way in which a clock can be wrong."""

    def __init__(self, folder: Path, broker: Broker, prefix: str, prism: Path) -> None:
        self.folder, self.broker, self.prefix = folder, broker, prefix
        edge_model.write(folder / "model")
        publish(read_package(str(folder / "model")), broker.bootstrap_servers, prefix)
        self.log = folder / "pipeline.log"
        self.live = Live(broker, prefix, prism, self.log, "--metrics_port=0")
        self.edges: dict[str, subprocess.Popen[bytes]] = {}

    def edge(self, name: str, devices: dict[str, str], off: str = "0") -> None:
        """Start an edge: device id -> its sensor."""
        tables = "".join(
            f'[[device]]\nid = "{device}"\ncohort = "{device.split("-")[0]}"\nsensor = {{ {sensor} }}\n'
            for device, sensor in devices.items()
        )
        config = self.folder / f"{name}.toml"
        config.write_text(
            f'[edge]\nid = "{name}"\nstate_dir = "state-{name}"\n'
            f'[kafka]\nbootstrap_servers = "{self.broker.bootstrap_servers}"\ntopic_prefix = "{self.prefix}"\n'
            f'[model]\npath = "model"\n[audit]\nrate = 0.0\n{tables}'
        )
        code = WRONG_CLOCK.format(off=off, config=str(config))
        with (self.folder / f"{name}.log").open("wb") as out:
            self.edges[name] = subprocess.Popen([sys.executable, "-c", code], stdout=out, stderr=out)

    def read(self, topic: Topic) -> list[Any]:
        """All records that lie in a topic now."""
        consumer = KafkaConsumer(bootstrap_servers=self.broker.bootstrap_servers, isolation_level="read_committed")
        found: list[Any] = []
        try:
            name = topic.named(self.prefix)
            partitions = [TopicPartition(name, n) for n in range(topic.partitions)]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            ends = consumer.end_offsets(partitions)
            while any(consumer.position(p) < ends[p] for p in partitions):
                for messages in consumer.poll(timeout_ms=200).values():
                    found += [decode(message.value, topic.record) for message in messages]
        finally:
            consumer.close()
        return found

    def close(self) -> None:
        """End all that still runs."""
        self.live.producer.close()
        for process in (self.live.process, *self.edges.values()):
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
def plant(broker: Broker, catalogue: str, prism: Path, tmp_path: Path) -> Iterator[Plant]:
    made = Plant(tmp_path, broker, catalogue, prism)
    yield made
    made.close()


def by_window(aggregates: list[EdgeAggregate]) -> dict[int, Counter[str]]:
    """What each fleet window of a second has to hold, added up in plain Python."""
    out: dict[int, Counter[str]] = defaultdict(Counter)
    for each in aggregates:
        out[each.window_start].update(readings=each.readings, scored=each.windows_scored)
    return out


def test_wrong_clocks_are_told_of_and_nobody_else_pays_for_them(plant: Plant) -> None:
    base = scrape.address(plant.log)
    until(lambda: scrape.get(f"{base}/readyz")[0] == 200, "the pipeline to be ready", within_s=90)
    synthetic = f'kind = "synthetic", readings = {READINGS}, burst_every = "2s"'
    half = READINGS // 2
    jumping = [*range(half), *range(half - HOUR_S * 100, READINGS - HOUR_S * 100)]  # an hour back in the middle
    recording.write(
        plant.folder / "back.avro",
        [5.0 if n // 100 % 2 else 0.1 for n in range(READINGS)],
        times=[recording.T0 + n * 10_000 for n in jumping],
    )
    plant.edge("right", {f"right-{n}": f"{synthetic}, seed = {n}" for n in range(6)})
    plant.edge("ahead", {"ahead-1": synthetic}, SICK["ahead"])
    plant.edge("unset", {"unset-1": synthetic}, SICK["unset"])
    plant.edge("back", {"back-1": 'kind = "recorded", path = "back.avro", max_pause = "2h"'}, SICK["back"])
    for name, process in plant.edges.items():
        assert process.wait(90) == 0, (plant.folder / f"{name}.log").read_text()

    events = [e for e in plant.read(topics.EVENTS) if isinstance(e, EdgeEvent)]
    aggregates = [a for a in plant.read(topics.AGGREGATES) if isinstance(a, EdgeAggregate)]
    devices = {f"right-{n}" for n in range(6)} | {"ahead-1", "unset-1", "back-1"}
    assert {e.device_id for e in events} == devices
    readings = Counter[str]()
    for each in aggregates:
        readings[each.device_id] += each.readings
    assert readings == dict.fromkeys(devices, READINGS)  # no clock costs a reading at the edge
    # one aggregate for each second, before the step and after it, and not one for each block
    assert sum(a.device_id == "back-1" for a in aggregates) <= 12

    # every event is decided once, whatever its clock says
    until(lambda: len(plant.read(topics.DECISIONS)) >= len(events), "all decisions", within_s=60)
    decisions = [d for d in plant.read(topics.DECISIONS) if isinstance(d, Decision)]
    assert sorted(d.identity for d in decisions) == sorted(e.identity for e in events)

    # the fleet windows of the right clocks are whole, and none of their records came too late
    wanted = by_window([a for a in aggregates if a.cohort == "right"])
    until(lambda: windows(plant, "right") == wanted, "the windows of the right clocks", within_s=60)
    letters = [f for f in plant.read(topics.DEAD_LETTERS) if isinstance(f, Failure)]
    blamed = {decode(f.payload, EdgeAggregate).device_id for f in letters}
    assert blamed <= {"ahead-1", "unset-1", "back-1"}
    assert "ahead-1" in blamed  # put away, with a sentence, instead of holding its window open until tomorrow
    assert {f.problem.split(" (")[0] for f in letters} <= {
        "its window ends in the future",
        "its window is closed for good",
    }

    # what is said of it: who, by how much, and no latency that is none
    mine = Counter(e.device_id.split("-")[0] for e in events)
    until(
        lambda: scrape.metrics(base)["tidegate_pipeline_decided_total"][()] == len(events),
        "the runner to tell of all that was counted",
    )
    found = scrape.metrics(base)
    suspect = found["tidegate_pipeline_clock_suspect_total"]
    total = {dict(key)["clock"]: count for key, count in suspect.items()}
    assert total == {"ahead": mine["ahead"], "unset": mine["unset"]}
    assert found["tidegate_pipeline_decision_latency_unknown_total"][()] >= mine["unset"]
    text = plant.log.read_text()
    assert "the clock of ahead-1 is ahead (+8" in text
    assert "the clock of unset-1 was never set" in text
    count = found["tidegate_pipeline_decision_latency_seconds_count"][()]
    assert count >= mine["right"] + mine["ahead"]
    assert found["tidegate_pipeline_decision_latency_seconds_sum"][()] / count < 2 * HOUR_S


def windows(plant: Plant, cohort: str) -> dict[int, Counter[str]]:
    """The published windows of a cohort, each in its last revision."""
    newest: dict[int, FleetWindow] = {}
    for each in plant.read(topics.FLEET):
        if each.cohort == cohort and each.revision > getattr(newest.get(each.window_start), "revision", 0):
            newest[each.window_start] = each
    return {at: Counter(readings=w.readings, scored=w.windows_scored) for at, w in newest.items()}
