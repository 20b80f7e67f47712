"""`tidegate record`, and the promise it stands for: what was recorded live replays to the same decisions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from deploy.broker import Broker
from pipelines.publish import publish, read_package
from schemas import topics
from schemas.codec import encode
from schemas.container import ContainerWriter, read
from schemas.records import Decision, EdgeEvent, SensorBlock
from schemas.topics import Topic
from tests.command import tidegate
from tests.doubles import records as make
from tests.doubles.tiny_model import write_package
from tests.wait import until

pytestmark = [pytest.mark.kafka, pytest.mark.prism]

WINDOW, WINDOWS = 8, 120


def write_recording(path: Path, device: str, seed: int) -> Path:
    """Mostly quiet, some windows loud: the edge escalates those, the heavy model overrides a part of them."""
    rng = np.random.default_rng(seed)
    level = rng.choice([0.2, 1.3, 1.7, 4.0], WINDOWS, p=[0.55, 0.15, 0.15, 0.15])
    values = (np.repeat(level, WINDOW)[:, None] + rng.normal(0, 0.2, (WINDOWS * WINDOW, 2))).astype("<f4")
    times = 1_780_000_000_000_000 + np.arange(len(values), dtype="<i8") * 100_000
    with path.open("wb") as file:
        writer = ContainerWriter(file, SensorBlock, metadata={"readings": str(len(values))})
        for seq, start in enumerate(range(0, len(values), 64)):
            rows = slice(start, start + 64)
            writer.write(
                SensorBlock(
                    device_id=device,
                    boot_epoch=1,
                    seq=seq,
                    cohort="pumps",
                    channels=["c0", "c1"],
                    event_times=times[rows].tobytes(),
                    values=values[rows].tobytes(),
                )
            )
        writer.close()
    return path


def records(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return list(read(file))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_package(tmp_path / "tiny")


@pytest.fixture
def pipeline(broker: Broker, catalogue: str, prism: Path, model: Path, tmp_path: Path) -> Iterator[str]:
    """A running pipeline on Prism; gives the topic prefix."""
    publish(read_package(str(model)), broker.bootstrap_servers, catalogue)
    command = [
        sys.executable, "-m", "pipelines", "run", "--runner=PrismRunner", f"--prism_location={prism}",
        f"--kafka_bootstrap_servers={broker.bootstrap_servers}", f"--kafka_topic_prefix={catalogue}",
        f"--kafka_group_id={catalogue}pipeline", "--fleet_window=1s",
    ]  # fmt: skip
    with (tmp_path / "pipeline.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ))
    yield catalogue
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def count(broker: Broker, topic: str, partitions: int) -> int:
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers)
    try:
        ends = consumer.end_offsets([TopicPartition(topic, p) for p in range(partitions)])
        return sum(ends.values())
    finally:
        consumer.close()


def test_what_was_recorded_live_replays_to_the_same_decisions(
    broker: Broker, pipeline: str, model: Path, tmp_path: Path
) -> None:
    servers = broker.bootstrap_servers
    recordings = [write_recording(tmp_path / f"{d}.avro", d, seed) for seed, d in enumerate(("pump-1", "pump-2"))]
    live = tidegate(
        "replay", *recordings, "--models", model, "--kafka", servers, "--prefix", pipeline, "--speed", "max",
        "--no-feedback", "--audit-rate", "0.2", "--format", "json",
    )  # fmt: skip
    assert live.returncode == 0, live.stderr
    sent = json.loads(live.stdout)
    assert sent["ledger"]["readings_sensed"] == 2 * WINDOW * WINDOWS
    assert sent["devices"] == {"pump-1": 1, "pump-2": 1}
    escalated = sent["ledger"]["windows_escalated"]
    assert escalated > 40
    decided = f"{pipeline}{topics.DECISIONS.name}"
    until(lambda: count(broker, decided, topics.DECISIONS.partitions) >= escalated, "every decision", within_s=60)

    names = [t.name for t in (topics.EVENTS, topics.SAMPLES, topics.AGGREGATES, topics.DECISIONS)]
    done = tidegate("record", *names, "-o", tmp_path / "run", "-b", servers, "--prefix", pipeline, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert {
        t["topic"].removeprefix(pipeline): t["left_out"] for t in json.loads(done.stdout)["topics"]
    } == dict.fromkeys(names, 0)
    recorded = records(tmp_path / "run" / "cloud.decisions.avro")
    assert len(recorded) == escalated

    again = tidegate("replay", tmp_path / "run", "--models", model, "-o", tmp_path / "again", "--format", "json")
    assert again.returncode == 0, again.stderr
    compared = json.loads(again.stdout)["comparison"]
    assert (compared["same"], compared["different"], compared["missing"], compared["added"]) == (escalated, 0, 0, 0)
    assert compared["largest_score_gap"] == 0.0
    told = ("outcome", "verdict", "edge_score", "heavy_score", "model_sha256", "heavy_sha256", "thresholds_version")

    def by_id(decisions: list[Decision]) -> dict[str, list[Any]]:
        return {d.identity.event_id: [getattr(d, name) for name in told] for d in decisions}

    replayed = records(tmp_path / "again" / "cloud.decisions.avro")
    assert by_id(replayed) == by_id(recorded)
    assert {d.verdict.value for d in recorded} >= {"CONFIRMED", "OVERRIDDEN", "RESOLVED"}

    offline = tidegate(
        "replay", *recordings, "--models", model, "-o", tmp_path / "offline", "--compare", tmp_path / "run",
        "--format", "json",
    )  # fmt: skip
    assert offline.returncode == 0, offline.stderr
    assert by_id(records(tmp_path / "offline" / "cloud.decisions.avro")) == by_id(recorded)

    second = tidegate(
        "replay", recordings[0], "--models", model, "--kafka", servers, "--prefix", pipeline, "--speed", "100x",
        "--to", "2s", "--format", "json",
    )  # fmt: skip
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["devices"] == {"pump-1": 2}
    assert json.loads(second.stdout)["ledger"]["readings_sensed"] == 20


def test_a_live_replay_that_is_stopped_has_sent_what_it_read(
    broker: Broker, catalogue: str, model: Path, tmp_path: Path
) -> None:
    recording = write_recording(tmp_path / "pump-1.avro", "pump-1", 0)
    command = [
        sys.executable, "-m", "deploy", "replay", str(recording), "--models", str(model), "--kafka",
        broker.bootstrap_servers, "--prefix", catalogue, "--speed", "4x", "--format", "json",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    events = f"{catalogue}{topics.EVENTS.name}"
    until(lambda: count(broker, events, topics.EVENTS.partitions) > 0, "the first event", within_s=60)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    said = json.loads(stdout)
    ledger = said["ledger"]
    assert said["stopped"] is True
    assert 0 < ledger["readings_sensed"] < WINDOW * WINDOWS
    assert ledger["readings_sensed"] == ledger["readings_aggregated"]
    assert count(broker, events, topics.EVENTS.partitions) == ledger["windows_escalated"]
    assert ledger["records_acked"] == ledger["records_enqueued"]


def test_a_model_swap_in_the_middle_replays_to_the_same_decisions_from_the_recorded_packages(
    broker: Broker, pipeline: str, model: Path, tmp_path: Path
) -> None:
    servers = broker.bootstrap_servers
    decided = f"{pipeline}{topics.DECISIONS.name}"
    sent = 0
    for seed, device in enumerate(("pump-1", "pump-2")):
        if seed:
            second = write_package(tmp_path / "second", version=2, heavy_gain=0.45)
            publish(read_package(str(second)), servers, pipeline)
            log = tmp_path / "pipeline.log"
            until(lambda: "heavy model in force: tiny version 2" in log.read_text(), "the second version")  # noqa: B023
        live = tidegate(
            "replay", write_recording(tmp_path / f"{device}.avro", device, seed), "--models", model, "--kafka", servers,
            "--prefix", pipeline, "--speed", "max", "--no-feedback", "--format", "json",
        )  # fmt: skip
        assert live.returncode == 0, live.stderr
        sent += json.loads(live.stdout)["ledger"]["windows_escalated"]
        expected = sent
        until(lambda: count(broker, decided, topics.DECISIONS.partitions) >= expected, "every decision", within_s=60)  # noqa: B023

    done = tidegate("record", "all", "-o", tmp_path / "run", "-b", servers, "--prefix", pipeline)
    assert done.returncode == 0, done.stderr
    recorded = records(tmp_path / "run" / "cloud.decisions.avro")
    assert {(d.device_id, d.heavy_version) for d in recorded} == {("pump-1", 1), ("pump-2", 2)}

    again = tidegate("replay", tmp_path / "run", "-o", tmp_path / "again", "--format", "json")
    assert again.returncode == 0, again.stderr
    compared = json.loads(again.stdout)["comparison"]
    assert (compared["same"], compared["different"], compared["other_model"]) == (sent, 0, 0)

    only_new = tidegate("replay", tmp_path / "run", "--models", second, "-o", tmp_path / "new", "--format", "json")
    assert only_new.returncode == 0, only_new.stderr
    compared = json.loads(only_new.stdout)["comparison"]
    by_first = sum(d.heavy_version == 1 for d in recorded)
    assert (compared["same"], compared["other_model"]) == (sent - by_first, by_first)

    event_id = next(d.identity.event_id for d in recorded if d.heavy_version == 2)
    told = tidegate("explain", event_id, "--in", tmp_path / "run", "-o", "json")
    assert told.returncode == 0, told.stderr
    hops = {hop["name"]: hop["at_us"] for hop in json.loads(told.stdout)["hops"]}
    assert hops["edge_decided"] // 1000 <= hops["sent"] // 1000 + 1
    assert hops["edge_decided"] <= hops["decided"]


def send(broker: Broker, topic: Topic, prefix: str, values: list[bytes | None]) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, acks="all")
    for value in values:
        producer.send(topic.named(prefix), key=b"pump-1", value=value)
    producer.flush()
    producer.close()


def test_a_followed_recording_is_whole_after_sigterm_and_has_what_came_meanwhile(
    broker: Broker, catalogue: str, tmp_path: Path
) -> None:
    out = tmp_path / "events.avro"
    send(broker, topics.EVENTS, catalogue, [encode(make.event(seq=i)) for i in range(3)])
    command = [
        sys.executable, "-m", "deploy", "record", "edge.events", "-o", str(out), "--follow", "--format", "json",
        "-b", broker.bootstrap_servers, "--prefix", catalogue,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    part = tmp_path / "events.avro.part"
    until(part.exists, "the recording began")
    big = [encode(make.event(seq=i, readings=1000, values=make.window(i, 1000))) for i in range(3, 103)]
    send(broker, topics.EVENTS, catalogue, big)
    until(lambda: part.stat().st_size > 1000, "blocks reached the file")
    assert not out.exists()
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    said = json.loads(stdout)
    assert said["stopped"] is True
    got = records(out)
    assert len(got) == said["topics"][0]["records"] > 3
    assert [e.seq for e in got] == list(range(len(got)))
    lines = (tmp_path / "events.stamps.csv").read_text().splitlines()
    assert len(lines) == len(got) + 1
    assert not list(tmp_path.glob("*.part"))


def test_a_broker_that_goes_and_comes_back_costs_no_record(broker: Broker, catalogue: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(60, 1000, 2)).astype("<f4")
    events = [encode(make.event(seq=i, readings=1000, values=noise[i].tobytes())) for i in range(60)]
    send(broker, topics.EVENTS, catalogue, events[:40])
    command = [
        sys.executable, "-m", "deploy", "record", "edge.events", "-o", str(tmp_path / "e.avro"), "--follow", "-n", "60",
        "--format", "json", "-b", broker.bootstrap_servers, "--prefix", catalogue,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    part = tmp_path / "e.avro.part"
    until(lambda: part.exists() and part.stat().st_size > 40_000, "blocks reached the file", within_s=60)
    broker.stop()
    broker.start()
    send(broker, topics.EVENTS, catalogue, events[40:])
    stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["stopped"] is False
    assert [e.seq for e in records(tmp_path / "e.avro")] == list(range(60))


def test_what_is_no_record_is_left_out_and_told_and_nothing_is_overwritten(
    broker: Broker, catalogue: str, tmp_path: Path
) -> None:
    send(broker, topics.EVENTS, catalogue, [encode(make.event()), b"junk", None, encode(make.aggregate())])
    words = ("record", "edge.events", "-o", tmp_path / "e.avro", "-b", broker.bootstrap_servers, "--prefix", catalogue)
    done = tidegate(*words)
    assert done.returncode == 0
    assert "1 records, 3 left out" in done.stdout
    assert "offset 1: " in done.stderr
    (event,) = records(tmp_path / "e.avro")
    assert isinstance(event, EdgeEvent)
    again = tidegate(*words)
    assert again.returncode == 78
    assert "there is a recording already" in again.stderr
    assert tidegate(*words, "--force", "-n", "1").returncode == 0


def test_a_topic_that_is_not_there_leaves_no_file(broker: Broker, catalogue: str, tmp_path: Path) -> None:
    done = tidegate(
        "record", "edge.evnts", "-o", tmp_path / "e.avro", "-b", broker.bootstrap_servers, "--prefix", catalogue
    )
    assert done.returncode == 69
    assert "did you mean" in done.stderr
    assert list(tmp_path.iterdir()) == []
