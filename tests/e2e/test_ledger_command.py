"""`tidegate ledger` on the real broker: an honest run balances, and whatever is taken away or added is named."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from deploy import records
from deploy.broker import Broker
from deploy.cluster import Cluster, TopicState
from pipelines.decide import by_edge
from schemas import topics
from schemas.codec import decode, encode
from schemas.records import EdgeAggregate, EdgeEvent, SensorBlock
from schemas.topics import CATALOGUE
from tests.command import tidegate
from tests.doubles import edge_model, recording
from tests.wait import until

pytestmark = pytest.mark.kafka

DEVICE = "plant1/pump-1"
EVENTS, AGGREGATES, SAMPLES = topics.EVENTS.name, topics.AGGREGATES.name, topics.SAMPLES.name


def signal_of(seconds: int) -> list[float]:
    """Quiet, 100 readings a second, but for a burst in every second second."""
    return [5.0 if n // 100 % 2 and n % 100 < 20 else 0.1 for n in range(seconds * 100)]


class Rig:
    def __init__(self, folder: Path, broker: Broker, prefix: str) -> None:
        self.folder, self.broker, self.prefix = folder, broker, prefix
        self.servers = broker.bootstrap_servers
        edge_model.write(folder / "model")

    def edge(self, seconds: int, *, more: str = "", speed: str = "10x") -> subprocess.Popen[str]:
        recording.write(self.folder / "r.avro", signal_of(seconds), step_us=10_000, per_block=50)
        (self.folder / "edge.toml").write_text(
            f"""
            [edge]
            state_dir = "state"
            [kafka]
            bootstrap_servers = "{self.servers}"
            topic_prefix = "{self.prefix}"
            [model]
            path = "model"
            [audit]
            rate = 0.2
            [aggregate]
            window = "100ms"
            [status]
            every = "500ms"
            {more}
            [[device]]
            id = "{DEVICE}"
            sensor = {{ path = "r.avro", kind = "recorded", speed = "{speed}" }}
            """
        )
        command = [sys.executable, "-m", "edge_filters", "run", str(self.folder / "edge.toml")]
        return subprocess.Popen(command, stderr=(self.folder / "log").open("a"), text=True)

    def said(self) -> str:
        return (self.folder / "log").read_text()

    def ledger(self, *words: str, prefix: str = "") -> tuple[int, dict[str, Any]]:
        at = ["-b", self.servers, "--prefix", prefix or self.prefix] if "--in" not in words else []
        done = tidegate("ledger", "-o", "json", *words, *at, timeout_s=90)
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads(done.stdout)

    def everything(self) -> dict[str, list[Any]]:
        names = [EVENTS, AGGREGATES, SAMPLES, topics.STATUS.name]
        out: dict[str, list[Any]] = {name: [] for name in names}
        for message in records.messages(self.servers, [self.prefix + name for name in names]):
            out[message.topic.removeprefix(self.prefix)].append(message)
        return out

    def commit(self, message: Any) -> None:
        """As a pipeline that has answered everything before this record."""
        where = {"bootstrap_servers": self.servers, "group_id": "some-pipeline", "enable_auto_commit": False}
        consumer = KafkaConsumer(**where)
        partition = TopicPartition(message.topic, message.partition)
        consumer.assign([partition])
        consumer.commit({partition: OffsetAndMetadata(message.offset, "", -1)})
        consumer.close()

    def decide(self, prefix: str, events: list[bytes]) -> None:
        producer = KafkaProducer(bootstrap_servers=self.servers)
        for payload in events:
            event = decode(payload, EdgeEvent)
            producer.send(topics.DECISIONS.named(prefix), encode(by_edge(event, "test", 1)), key=b"k")
        producer.flush()
        producer.close()


@pytest.fixture
def rig(tmp_path: Path, broker: Broker, catalogue: str) -> Rig:
    return Rig(tmp_path, broker, catalogue)


@pytest.fixture
def second(broker: Broker) -> Iterator[str]:
    """Another set of topics, for a copy that is tampered with."""
    prefix = f"t{uuid.uuid4().hex[:10]}."
    with Cluster(broker.bootstrap_servers) as cluster:
        cluster.create(TopicState(t.named(prefix), t.partitions, t.config) for t in CATALOGUE)
    yield prefix
    broker.start()
    with Cluster(broker.bootstrap_servers) as cluster:
        cluster.delete(t.named(prefix) for t in CATALOGUE)


def copy(rig: Rig, found: dict[str, list[Any]], prefix: str) -> None:
    producer = KafkaProducer(bootstrap_servers=rig.servers)
    for name, messages in found.items():
        for message in messages:
            producer.send(prefix + name, message.value, key=message.key, partition=message.partition)
    producer.flush()
    producer.close()


def test_an_honest_run_balances_and_what_is_tampered_with_is_named(rig: Rig, second: str, tmp_path: Path) -> None:
    assert rig.edge(20).wait(60) == 0, rig.said()
    found = rig.everything()
    events = [decode(message.value, EdgeEvent) for message in found[EVENTS]]
    seqs = [event.seq for event in events]

    code, undecided = rig.ledger("--settle", "0s")
    assert code == 1
    assert [(f["kind"], f["count"]) for f in undecided["findings"]] == [("undecided", len(events))]
    assert rig.ledger("--edge-only")[0] == 0
    assert rig.ledger()[0] == 0  # they came just now

    rig.commit(found[EVENTS][5])
    code, behind = rig.ledger("--group", "some-pipeline")
    assert code == 1
    expected = [("undecided", 5, None), ("waiting", len(events) - 5, "the pipeline has not committed that far")]
    assert [(f["kind"], f["count"], f["explained"]) for f in behind["findings"]] == expected

    rig.decide(rig.prefix, [message.value for message in found[EVENTS]])
    code, balanced = rig.ledger("--settle", "0s")
    assert (code, balanced["balanced"], balanced["findings"]) == (0, True, [])
    (row,) = balanced["devices"]
    assert (row["sensed"], row["aggregated"], row["health"]) == (2000, 2000, "STOPPED")
    assert row["windows"] == row["answered"] + len(events)
    assert row["evicted"] == row["in_spool"] == row["missing"] == row["unexplained"] == 0
    lanes = {lane["lane"]: lane for lane in balanced["lanes"]}
    assert lanes[EVENTS]["made"] == lanes[EVENTS]["there"] == lanes[EVENTS]["decided"] == len(events)

    # a recording of it says the same
    done = tidegate("record", "all", "-o", tmp_path / "run", "-b", rig.servers, "--prefix", rig.prefix, "--quiet")
    assert done.returncode == 0, done.stderr
    code, recorded = rig.ledger("--in", str(tmp_path / "run"), "--settle", "0s")
    assert code == 0
    assert (recorded["devices"], recorded["lanes"]) == (balanced["devices"], balanced["lanes"])

    # the copy: two events gone (one of them decided), an aggregate and a sample gone, an event there twice, one
    # decided twice, and one not decided
    gone, decided_gone, twice, doubled, silent = seqs[3], seqs[7], seqs[9], seqs[11], seqs[13]
    tampered = {name: list(messages) for name, messages in found.items()}
    tampered[EVENTS] = [
        m for m in found[EVENTS] for _ in range(1 + (decode(m.value, EdgeEvent).seq == twice))
        if decode(m.value, EdgeEvent).seq not in (gone, decided_gone)
    ]  # fmt: skip
    aggregate_gone = records.Line.of(tampered[AGGREGATES].pop(4)).record
    sample_gone = records.Line.of(tampered[SAMPLES].pop(2)).record
    assert isinstance(aggregate_gone, EdgeAggregate)
    assert isinstance(sample_gone, SensorBlock)
    copy(rig, tampered, second)
    rig.decide(
        second,
        [
            m.value
            for m, event in zip(found[EVENTS], events, strict=True)
            for _ in range(2 if event.seq == doubled else event.seq not in (gone, silent))
        ],
    )
    code, ledger = rig.ledger("--settle", "0s", prefix=second)
    assert code == 1
    named = {(f["kind"], f["lane"]): (f["count"], f["ranges"]) for f in ledger["findings"] if f["ranges"]}
    assert named == {
        ("missing", EVENTS): (1, [[decided_gone, decided_gone]]),
        ("missing", AGGREGATES): (1, [[aggregate_gone.seq] * 2]),
        ("missing", SAMPLES): (1, [[sample_gone.seq] * 2]),
        ("repeated", EVENTS): (1, [[twice, twice]]),
        ("undecided", topics.DECISIONS.name): (1, [[silent, silent]]),
        ("doubled", topics.DECISIONS.name): (1, [[doubled, doubled]]),
    }
    (other,) = [f for f in ledger["findings"] if f["kind"] == "missing" and f["lane"] == EVENTS and not f["ranges"]]
    assert other["count"] == 1
    low, high = map(int, re.search(r"in seq (\d+)\.\.(\d+)", other["what"]).groups())  # type: ignore[union-attr]
    assert low <= gone <= high
    assert [f["kind"] for f in ledger["findings"] if f["explained"]] == ["repeated"]
    assert ledger["devices"][0]["unexplained"] == ledger["devices"][0]["missing"] == 4


def test_what_a_full_spool_throws_out_is_named_by_gap_markers_to_the_record(rig: Rig) -> None:
    rig.broker.stop()
    process = rig.edge(4000, more='[spool]\nmax_bytes = "1MiB"', speed="500x")
    until(lambda: "oldest records were dropped" in rig.said(), "an eviction")
    rig.broker.start()
    assert process.wait(90) == 0, rig.said()
    code, ledger = rig.ledger("--edge-only")
    (row,) = ledger["devices"]
    assert row["evicted"] > 0
    assert row["missing"] > 0
    assert row["unexplained"] == 0
    assert code == 0, ledger["findings"]
    assert {f["kind"] for f in ledger["findings"]} == {"missing"}
    assert all("its gap markers name them" in f["explained"] and f["ranges"] for f in ledger["findings"])
    assert sum(lane["evicted"] for lane in ledger["lanes"]) == row["missing"] == row["evicted"]


def test_a_life_that_was_killed_balances_with_the_one_that_sent_the_rest(rig: Rig) -> None:
    process = rig.edge(60, speed="10x")
    until(lambda: len(rig.everything()[EVENTS]) >= 4, "events")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert rig.edge(20).wait(60) == 0, rig.said()
    code, ledger = rig.ledger("--edge-only")
    assert code == 0, ledger["findings"]
    assert ledger["devices"][0]["lives"] == 2
    assert {lane["boot_epoch"] for lane in ledger["lanes"]} == {1, 2}
