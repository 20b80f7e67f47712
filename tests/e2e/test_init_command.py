"""`tidegate init`: what it writes runs unchanged, against a real broker, and nothing is ever written over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition

from deploy import cli
from deploy.broker import Broker
from schemas import topics
from schemas.codec import decode
from schemas.records import DecidedBy, Decision, EdgeEvent
from schemas.topics import CATALOGUE, Topic
from tests.command import tidegate
from tests.doubles import recording
from tests.doubles.tiny_model import write_package
from tests.wait import until

ROOT = Path(__file__).parents[2]
COMMAND = f"{sys.executable} -m deploy"


def check(site: Path) -> list[dict[str, Any]]:
    done = tidegate("edge", "run", str(site / "edge.toml"), "--check", "-o", "json")
    assert done.returncode == 0, done.stderr + done.stdout
    devices: list[dict[str, Any]] = json.loads(done.stdout)["devices"]
    return devices


def everything(broker: Broker, prefix: str, topic: Topic) -> list[Any]:
    """All records of a topic, as they lie there; none where the topic is not there yet."""
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers)
    found: list[Any] = []
    try:
        name = topic.named(prefix)
        if name not in consumer.topics():
            return []
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


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes of a test, ended with it."""
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_without_any_wish_there_is_a_site_that_is_valid_and_says_so(tmp_path: Path) -> None:
    done = tidegate("init", str(tmp_path / "plant1"), "-o", "json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["model"], said["trained"], said["devices"]) == ("starter", False, ["plant1/machine-1"])
    assert sorted(str(p.relative_to(tmp_path / "plant1")) for p in (tmp_path / "plant1").rglob("*.*")) == said["files"]
    assert check(tmp_path / "plant1") == [
        {"id": "plant1/machine-1", "cohort": "machines", "model": "starter", "version": 1}
    ]


def test_the_topics_listed_are_those_of_the_catalogue(tmp_path: Path) -> None:
    assert tidegate("init", str(tmp_path / "s"), "--prefix", "plant1.").returncode == 0
    listed = tomllib.loads((tmp_path / "s" / "topics.toml").read_text())["topic"]
    assert [(t["name"], t["partitions"], t.get("config", {})) for t in listed] == [
        (t.named("plant1."), t.partitions, t.config) for t in CATALOGUE
    ]


def test_a_second_time_nothing_is_written_over(tmp_path: Path) -> None:
    site = tmp_path / "s"
    assert tidegate("init", str(site)).returncode == 0
    (site / "edge.toml").write_text("mine")
    for name in ("edge.sh", "pipeline.sh", "README.md", "topics.toml"):
        (site / name).unlink()
    again = tidegate("init", str(site))
    assert again.returncode == 78
    assert "nothing was written: a site is there already" in again.stderr
    assert (site / "edge.toml").read_text() == "mine"
    assert not (site / "edge.sh").exists()


def test_a_recording_gives_devices_channels_and_scaling(tmp_path: Path) -> None:
    path = recording.write(tmp_path / "r.avro", [1000.0, 1002.0, 998.0, 1000.0] * 50, device_id="hall/pump-7")
    assert tidegate("init", str(tmp_path / "s"), "--recording", str(path)).returncode == 0
    assert check(tmp_path / "s") == [{"id": "hall/pump-7", "cohort": "pumps", "model": "starter", "version": 1}]
    manifest = json.loads((tmp_path / "s" / "models" / "starter" / "manifest.json").read_text())
    assert manifest["channels"] == ["a", "b"]
    assert manifest["scaling"]["centre"] == pytest.approx([1000.0, 1000.0])
    assert manifest["scaling"]["scale"] == pytest.approx([2**0.5, 2**0.5], rel=1e-4)


def test_a_model_is_copied_whole_and_without_what_lies_beside_it(tmp_path: Path) -> None:
    model = write_package(tmp_path / "tiny")
    (model / "report.html").write_text("a report")
    words = ["--model", str(model), "--device", "hall/a", "--device", "hall/b"]
    assert tidegate("init", str(tmp_path / "s"), *words).returncode == 0
    shutil.rmtree(model)
    assert [(d["id"], d["model"], d["cohort"]) for d in check(tmp_path / "s")] == [
        ("hall/a", "tiny", "pumps"),
        ("hall/b", "tiny", "pumps"),
    ]
    assert not (tmp_path / "s" / "models" / "tiny" / "report.html").exists()


def test_several_devices_of_a_recording_are_all_there_or_chosen(tmp_path: Path) -> None:
    other = recording.write(tmp_path / "o.avro", range(20), device_id="pump-8")
    from edge_filters.io.sensors import recorded_blocks

    path = recording.write(tmp_path / "r.avro", range(20), append=list(recorded_blocks(other)))
    assert tidegate("init", str(tmp_path / "all"), "--recording", str(path)).returncode == 0
    assert [device["id"] for device in check(tmp_path / "all")] == ["pump-7", "pump-8"]
    words = ["--recording", str(path), "--device", "pump-8"]
    assert tidegate("init", str(tmp_path / "one"), *words).returncode == 0
    assert [device["id"] for device in check(tmp_path / "one")] == ["pump-8"]
    wrong = tidegate("init", str(tmp_path / "none"), "--recording", str(path), "--device", "pump-9")
    assert wrong.returncode == 78
    assert "the recording does not hold these devices (devices=['pump-9']" in wrong.stderr
    assert not (tmp_path / "none").exists()


def test_what_does_not_go_together_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_package(tmp_path / "tiny")
    path = recording.write(tmp_path / "r.avro", range(20))
    for words, code, sentence in (
        (["--model", str(model), "--recording", str(path)], 78, "the recording and the model name different channels"),
        (["--channels", "a,b", "--model", str(model)], 78, "--channels and the model name different channels"),
        (["--channels", "a,,b"], 78, "channels need names, each its own"),
        (["--device", "pump 7"], 78, "not a device id"),
        (["--prefix", "a b"], 78, "not a prefix of topic names"),
        (["--bootstrap-servers", 'x" # '], 78, "not a list of brokers"),
        (["--model", str(tmp_path)], 65, "no manifest.json in the model folder"),
        (["--recording", str(tmp_path / "none.avro")], 65, "the recording cannot be read"),
        (["--recording", str(model / "manifest.json")], 65, "not an Avro container file"),
    ):
        assert cli.main(["init", str(tmp_path / "s"), *words]) == code
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_odd_names_stay_what_they_are(tmp_path: Path) -> None:
    folder = tmp_path / 'Halle "9" $(rm) #1'
    done = tidegate("init", str(folder), "--channels", 'a"b,druck [bar],°C', "--device", "hall/p-1")
    assert done.returncode == 0, done.stderr
    assert check(folder)[0]["id"] == "hall/p-1"
    done = subprocess.run(
        ["sh", str(folder / "edge.sh"), "--check"],
        env=os.environ | {"TIDEGATE": COMMAND, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_an_edge_install_is_enough_to_make_a_site_and_to_check_it(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('apache_beam', 'jinja2', 'onnx', 'psutil', 'pyarrow', 'rich', 'sklearn'):\n"
        "            raise ModuleNotFoundError(name + ' is blocked')\n"
        "sys.meta_path.insert(0, Block())\n"
        "from deploy import cli\n"
        "site = sys.argv[1]\n"
        "sys.exit(cli.main(['init', site]) or cli.main(['edge', 'run', site + '/edge.toml', '--check']))\n"
    )
    environ = {name: value for name, value in os.environ.items() if "KAFKA" not in name} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path / "s")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "${KAFKA:-127.0.0.1:9092}" in (tmp_path / "s" / "edge.toml").read_text()


@pytest.mark.kafka
def test_a_site_without_any_wish_sends_from_the_first_start_on(tmp_path: Path, broker: Broker, catalogue: str) -> None:
    words = ["--prefix", catalogue, "--bootstrap-servers", broker.bootstrap_servers]
    assert tidegate("init", str(tmp_path / "s"), *words).returncode == 0
    command = [sys.executable, "-m", "deploy", "edge", "run", str(tmp_path / "s" / "edge.toml")]
    with (tmp_path / "log").open("wb") as log:
        edge = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=log, stderr=log)
    try:
        until(lambda: everything(broker, catalogue, topics.AGGREGATES), "an aggregate")
        edge.send_signal(signal.SIGTERM)
        assert edge.wait(30) == 0, (tmp_path / "log").read_text()
    finally:
        edge.kill()
        edge.wait()
    last = everything(broker, catalogue, topics.STATUS)[-1]
    assert last.device_id == "plant1/machine-1"
    sensed = sum(a.readings for a in everything(broker, catalogue, topics.AGGREGATES))
    assert sensed == last.counters["readings_sensed"] > 0


@pytest.mark.kafka
@pytest.mark.prism
def test_the_scripts_of_a_site_run_the_whole_loop_unchanged(
    tmp_path: Path, broker: Broker, topic_prefix: str, prism: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    values = [20.0] * 50 + [0.0, 1.0, -1.0, 0.0] * 1000
    path = recording.write(tmp_path / "r.avro", values, step_us=10_000, per_block=50)
    site = tmp_path / "site"
    words = ["--recording", str(path), "--prefix", topic_prefix, "--bootstrap-servers", broker.bootstrap_servers]
    assert tidegate("init", str(site), *words).returncode == 0
    assert check(site)[0]["id"] == "pump-7"
    environ = os.environ | {"TIDEGATE": COMMAND, "PYTHONPATH": str(ROOT), "TIDEGATE_PRISM": str(prism)}

    def start(script: str) -> subprocess.Popen[bytes]:
        log = (site / f"{script}.log").open("wb")
        process = subprocess.Popen([str(site / script)], env=environ, stdout=log, stderr=log)
        started.append(process)
        return process

    def said(script: str) -> str:
        return (site / f"{script}.log").read_text()

    pipeline, edge = start("pipeline.sh"), None
    try:
        until(lambda: "the pipeline runs on" in said("pipeline.sh"), "the pipeline", within_s=90)
        edge = start("edge.sh")
        until(lambda: everything(broker, topic_prefix, topics.DECISIONS), "a decision", within_s=60)
        edge.send_signal(signal.SIGTERM)
        assert edge.wait(60) == 0
        events = everything(broker, topic_prefix, topics.EVENTS)
        until(lambda: len(everything(broker, topic_prefix, topics.DECISIONS)) >= len(events), "all decisions")
        pipeline.send_signal(signal.SIGTERM)
        assert pipeline.wait(60) == 0
    except BaseException:
        print(said("pipeline.sh")[-4000:])
        print(said("edge.sh")[-4000:] if edge else "no edge")
        raise
    decisions = {d.identity: d for d in everything(broker, topic_prefix, topics.DECISIONS)}
    assert {e.identity for e in events} == set(decisions)
    assert all(isinstance(e, EdgeEvent) and e.model_name == "starter" for e in events)
    assert all(isinstance(d, Decision) and d.decided_by is DecidedBy.HEAVY for d in decisions.values())
