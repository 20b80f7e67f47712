"""The live pipeline as a user runs it: `python -m pipelines run` against a real broker, on Prism."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from deploy.broker import Broker
from pipelines.publish import publish, read_package
from schemas import topics
from schemas.codec import decode, encode
from schemas.records import DecidedBy, Decision, Failure, FleetWindow, Outcome, ThresholdUpdate, Verdict
from schemas.topics import Topic
from tests.doubles import records as make
from tests.doubles.tiny_model import write_package

pytestmark = [pytest.mark.kafka, pytest.mark.prism]


class Live:
    """A running pipeline and what a user sees of it: topics in, topics out."""

    def __init__(self, broker: Broker, prefix: str, prism: Path, log: Path, *options: str) -> None:
        self._servers, self._prefix, self._log = broker.bootstrap_servers, prefix, log
        self.command = [
            sys.executable, "-m", "pipelines", "run", "--runner=PrismRunner", f"--prism_location={prism}",
            f"--kafka_bootstrap_servers={broker.bootstrap_servers}", f"--kafka_topic_prefix={prefix}",
            f"--kafka_group_id={prefix}pipeline", "--fleet_window=1s", "--disorder=500ms", "--idle=500ms", *options,
        ]  # fmt: skip
        self.producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, acks="all")
        self.start()

    def start(self) -> None:
        """Start the process."""
        with self._log.open("ab") as out:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=out, env=dict(os.environ))

    def send(self, topic: Topic, record: object, partition: int | None = None) -> None:
        """One record, acknowledged."""
        payload = record if isinstance(record, bytes) else encode(record)  # type: ignore[arg-type]
        key = getattr(record, "device_id", "x").encode()
        self.producer.send(topic.named(self._prefix), key=key, value=payload, partition=partition).get(30)

    def read(self, topic: Topic, enough: int, timeout_s: float = 40.0) -> list[object]:
        """Everything in a topic, as soon as it is `enough`; fails with the pipeline's log otherwise."""
        consumer = KafkaConsumer(
            bootstrap_servers=self._servers, isolation_level="read_committed", auto_offset_reset="earliest"
        )
        name = topic.named(self._prefix)
        consumer.assign([TopicPartition(name, p) for p in range(topic.partitions)])
        found: list[object] = []
        deadline_s = time.monotonic() + timeout_s
        try:
            while len(found) < enough and time.monotonic() < deadline_s:
                for messages in consumer.poll(timeout_ms=200).values():
                    found += [decode(m.value, topic.record) for m in messages]
        finally:
            consumer.close()
        assert len(found) >= enough, f"{len(found)} of {enough} in {name}; log:\n{self._log.read_text()[-4000:]}"
        return found

    def family(self) -> list[psutil.Process]:
        """The process and everything below it."""
        me = psutil.Process(self.process.pid)
        return [me, *me.children(recursive=True)]

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


@pytest.fixture
def live(broker: Broker, catalogue: str, prism: Path, tmp_path: Path) -> Iterator[Live]:
    publish(read_package(str(write_package(tmp_path / "tiny"))), broker.bootstrap_servers, catalogue)
    running = Live(broker, catalogue, prism, tmp_path / "pipeline.log", "--feedback_min_escalated=10")
    yield running
    running.producer.close()
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait()


def test_events_are_decided_windows_merged_failures_kept_and_thresholds_fed_back(live: Live) -> None:
    now_us = time.time_ns() // 1000
    window = now_us - now_us % 1_000_000
    for seq in range(12):
        live.send(topics.EVENTS, make.event("pump-1", seq, value=1.5))  # heavy score 1.5 < 2: normal
    live.send(topics.EVENTS, make.event("pump-2", 0, value=5.0))
    live.send(topics.EVENTS, make.event("pump-2", 0, value=5.0))  # sent twice: one identity, one decision
    live.send(topics.EVENTS, make.event("pump-3", 0, model_name="unheard-of"))
    live.send(topics.EVENTS, b"\xc3\x01 not a record")
    for device in ("pump-1", "pump-2"):
        live.send(topics.AGGREGATES, make.aggregate(device, 0, window))

    decisions = [d for d in live.read(topics.DECISIONS, 14) if isinstance(d, Decision)]
    by_device = {d.device_id: d for d in decisions}
    assert len(decisions) == 14
    assert (by_device["pump-1"].outcome, by_device["pump-1"].verdict) == (Outcome.NORMAL, Verdict.OVERRIDDEN)
    assert (by_device["pump-2"].outcome, by_device["pump-2"].verdict) == (Outcome.ANOMALY, Verdict.CONFIRMED)
    assert by_device["pump-2"].heavy_score == pytest.approx(5.0)
    assert by_device["pump-3"].decided_by is DecidedBy.EDGE
    (failure,) = live.read(topics.DEAD_LETTERS, 1)
    assert isinstance(failure, Failure)
    assert failure.payload == b"\xc3\x01 not a record"
    assert "unknown schema fingerprint" in failure.problem
    (fleet,) = live.read(topics.FLEET, 1)
    assert isinstance(fleet, FleetWindow)
    assert (fleet.window_start, fleet.devices, fleet.readings) == (window, ["pump-1", "pump-2"], 8)
    (update,) = live.read(topics.THRESHOLDS, 1)
    assert isinstance(update, ThresholdUpdate)
    assert update.target == "pump-1"
    assert update.escalate_at == pytest.approx(1.1)
    assert set(update.evidence) <= {f"pump-1:1:{seq}" for seq in range(12)}
    assert live.stop() == 0
    assert len(live.read(topics.DECISIONS, 14)) == 14


def test_late_data_writes_the_whole_window_again(live: Live) -> None:
    now_us = time.time_ns() // 1000
    window = now_us - now_us % 1_000_000
    live.send(topics.AGGREGATES, make.aggregate("pump-1", 0, window))
    (first,) = live.read(topics.FLEET, 1)
    live.send(topics.AGGREGATES, make.aggregate("pump-1", 1, window))
    live.send(topics.AGGREGATES, make.aggregate("pump-2", 0, window))
    written = live.read(topics.FLEET, 2)
    while written[-1].revision < 3:  # type: ignore[attr-defined]
        written = live.read(topics.FLEET, len(written) + 1)
    assert isinstance(first, FleetWindow)
    newest = written[-1]
    assert isinstance(newest, FleetWindow)
    assert (first.revision, first.readings) == (1, 4)
    assert (newest.window_start, newest.revision, newest.readings) == (window, 3, 12)
    assert newest.devices == ["pump-1", "pump-2"]
    assert live.stop() == 0


@pytest.mark.parametrize("victim", ["prism", "worker"])
def test_after_kill_9_the_pipeline_is_back_by_itself_and_every_event_is_decided(live: Live, victim: str) -> None:
    live.send(topics.EVENTS, make.event("pump-1", 0))
    live.read(topics.DECISIONS, 1)
    family = live.family()
    wanted = [p for p in family[1:] if ("prism" in p.name()) == (victim == "prism")]
    for seq in range(1, 50):
        live.send(topics.EVENTS, make.event("pump-1", seq))
    wanted[0].kill()
    for seq in range(50, 100):
        live.send(topics.EVENTS, make.event("pump-1", seq))
    decided: set[int] = set()
    deadline_s = time.monotonic() + 60
    enough = 1
    while len(decided) < 100 and time.monotonic() < deadline_s:
        decided = {d.seq for d in live.read(topics.DECISIONS, enough) if isinstance(d, Decision)}
    assert decided == set(range(100))
    assert live.stop() == 0
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
