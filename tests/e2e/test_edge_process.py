"""A real edge process against the real broker: what it sends, how it ends, what survives, what feedback changes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from deploy.broker import Broker
from schemas import topics
from schemas.artifacts import chunk_key, cut
from schemas.codec import decode_any, encode
from schemas.records import DeviceStatus, EdgeAggregate, EdgeEvent, Health, SensorBlock, ThresholdsSource
from tests.doubles import edge_model, recording
from tests.doubles.edge_parts import model_update, thresholds
from tests.wait import until

pytestmark = pytest.mark.kafka


class Rig:
    """A folder with a package, recordings and a configuration; the process; and eyes on the topics."""

    def __init__(self, folder: Path, broker: Broker, prefix: str) -> None:
        self.folder, self.broker, self.prefix = folder, broker, prefix
        self.process: subprocess.Popen[str] | None = None
        edge_model.write(folder / "model")

    def configure(self, *devices: str, more: str = "") -> None:
        tables = "".join(f"[[device]]\n{device}\n" for device in devices)
        (self.folder / "edge.toml").write_text(
            f"""
            [edge]
            state_dir = "state"
            [kafka]
            bootstrap_servers = "{self.broker.bootstrap_servers}"
            topic_prefix = "{self.prefix}"
            [model]
            path = "model"
            [audit]
            rate = 0.2
            [status]
            every = "500ms"
            {more}
            {tables}
            """
        )

    def start(self, *options: str) -> subprocess.Popen[str]:
        self.log = (self.folder / "log").open("a+")
        command = [sys.executable, "-m", "edge_filters", "run", str(self.folder / "edge.toml"), *options]
        self.process = subprocess.Popen(command, stderr=self.log, text=True)
        return self.process

    def said(self) -> str:
        return (self.folder / "log").read_text()

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(60)

    def records(self, *which: topics.Topic) -> list[Any]:
        """All records in these topics, as they lie there."""
        consumer = KafkaConsumer(bootstrap_servers=self.broker.bootstrap_servers)
        found: list[Any] = []
        try:
            for topic in which:
                name = topic.named(self.prefix)
                partitions = [TopicPartition(name, n) for n in consumer.partitions_for_topic(name)]
                consumer.assign(partitions)
                consumer.seek_to_beginning(*partitions)
                ends = consumer.end_offsets(partitions)
                while any(consumer.position(p) < ends[p] for p in partitions):
                    for messages in consumer.poll(timeout_ms=200).values():
                        found += [decode_any(message.value) for message in messages]
        finally:
            consumer.close()
        return found

    def statuses(self) -> list[DeviceStatus]:
        return self.records(topics.STATUS)

    def publish(self, topic: topics.Topic, key: bytes, value: bytes) -> None:
        producer = KafkaProducer(bootstrap_servers=self.broker.bootstrap_servers)
        producer.send(topic.named(self.prefix), key=key, value=value).get(10)
        producer.close()


@pytest.fixture
def rig(tmp_path: Path, broker: Broker, catalogue: str) -> Iterator[Rig]:
    made = Rig(tmp_path, broker, catalogue)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def signal_of(seconds: int, per_second: int = 100) -> list[float]:
    """Quiet, but for a burst in every second second."""
    return [5.0 if n // per_second % 2 and n % per_second < 20 else 0.1 for n in range(seconds * per_second)]


def test_everything_sensed_is_accounted_for_and_nothing_leaves_twice(rig: Rig) -> None:
    recording.write(rig.folder / "r.avro", signal_of(20), step_us=10_000, per_block=50)
    rig.configure(
        *(f'id = "plant1/pump-{n}"\nsensor = {{ path = "r.avro", kind = "recorded", speed = "10x" }}' for n in (1, 2))
    )
    assert rig.start().wait(60) == 0, rig.said()
    sent = rig.records(topics.EVENTS, topics.AGGREGATES, topics.SAMPLES)
    last = {status.device_id: status for status in rig.statuses()}
    assert set(last) == {"plant1/pump-1", "plant1/pump-2"}
    for device_id, status in last.items():
        mine = [record for record in sent if record.device_id == device_id]
        counters = status.counters
        assert status.health is Health.STOPPED
        assert counters["readings_sensed"] == 2000
        assert sum(r.readings for r in mine if isinstance(r, EdgeAggregate)) == 2000
        events = [r for r in mine if isinstance(r, EdgeEvent)]
        samples = [r for r in mine if isinstance(r, SensorBlock)]
        assert len(events) == counters["windows_escalated"] == 10 * 5 + 10
        assert len(samples) == counters["windows_sampled"] > 0
        assert counters["windows_scored"] == 500
        assert counters["records_enqueued"] == counters["records_acked"] == len(mine)
        assert len({(type(r), r.identity) for r in mine}) == len(mine)
        assert counters["alarms_raised"] == 10
    assert re.search(r"stopped: 4000 readings sensed, 1000 windows scored, 120 escalated", rig.said())


def test_a_decision_waits_for_nothing_and_the_process_is_small(rig: Rig) -> None:
    recording.write(rig.folder / "r.avro", signal_of(60), step_us=10_000, per_block=50)
    rig.configure('id = "p"\nsensor = { kind = "recorded", path = "r.avro", speed = "1x" }')
    process = rig.start()
    until(lambda: rig.statuses(), "a status")
    until(lambda: len(rig.records(topics.EVENTS)) >= 6, "events")
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident_mb = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]
    assert rig.end() == 0, rig.said()
    assert resident_mb <= 120
    event = rig.records(topics.EVENTS)[-1]
    assert 0 <= event.decided_at - event.sensed_to < 5_000_000  # live: decided when it was sensed, not when it was sent


def test_sigterm_in_the_middle_ends_with_0_and_everything_sensed_so_far_is_there(rig: Rig) -> None:
    recording.write(rig.folder / "r.avro", signal_of(60), step_us=10_000, per_block=50)
    rig.configure('id = "p"\nsensor = { kind = "recorded", path = "r.avro", speed = "2x" }')
    rig.start()
    until(lambda: len(rig.records(topics.EVENTS)) >= 6, "events")
    assert rig.end() == 0, rig.said()
    last = rig.statuses()[-1]
    assert last.health is Health.STOPPED
    assert 0 < last.counters["readings_sensed"] < 6000
    aggregates = rig.records(topics.AGGREGATES)
    assert sum(r.readings for r in aggregates) == last.counters["readings_sensed"]
    assert last.spool_records == 0


def test_without_a_broker_it_decides_and_spools_and_a_later_start_delivers_it_once(rig: Rig) -> None:
    recording.write(rig.folder / "r.avro", signal_of(20), step_us=10_000, per_block=50)
    rig.configure('id = "p"\nsensor = { kind = "recorded", path = "r.avro", speed = "10x" }')
    rig.broker.stop()
    rig.start()
    until(lambda: "deciding goes on, and records wait in the spool" in rig.said(), "the sentence about the broker")
    rig.end(signal.SIGKILL)  # while its records are in the spool only
    rig.broker.start()
    assert rig.start().wait(60) == 0, rig.said()
    said = rig.said()
    waited = int(re.search(r"(\d+) records of an earlier run wait in the spool", said)[1])  # type: ignore[index]
    sent = rig.records(topics.EVENTS, topics.AGGREGATES, topics.SAMPLES)
    first = min(record.boot_epoch for record in sent)
    assert first > 1_600_000_000_000  # without disk and broker no count of starts is known, so the time stands for it
    assert len([record for record in sent if record.boot_epoch == first]) == waited > 0
    assert len({(type(r), r.identity) for r in sent}) == len(sent)
    last = rig.statuses()[-1]
    assert last.boot_epoch == first + 1
    assert last.counters["records_enqueued"] == last.counters["records_acked"] == len(sent)
    events = [r.identity for r in sent if isinstance(r, EdgeEvent)]
    assert events == sorted(events)


def test_a_broker_that_is_killed_and_comes_back_costs_nothing(rig: Rig) -> None:
    recording.write(rig.folder / "r.avro", signal_of(120), step_us=10_000, per_block=50)
    rig.configure('id = "p"\nsensor = { kind = "recorded", path = "r.avro", speed = "10x" }')
    process = rig.start()
    until(lambda: len(rig.records(topics.EVENTS)) >= 12, "events")
    rig.broker.kill()
    until(lambda: "acknowledges nothing; deciding goes on" in rig.said(), "the sentence about the broker")
    rig.broker.start()
    assert process.wait(90) == 0, rig.said()
    assert "the broker is back" in rig.said()
    sent = rig.records(topics.EVENTS, topics.AGGREGATES, topics.SAMPLES)
    last = rig.statuses()[-1]
    assert last.counters["readings_sensed"] == 12_000
    assert sum(r.readings for r in sent if isinstance(r, EdgeAggregate)) == 12_000
    assert last.counters["records_enqueued"] == len(sent) == len({(type(r), r.identity) for r in sent})


def test_feedback_changes_what_the_edge_does_and_is_acknowledged(rig: Rig) -> None:
    recording.write(rig.folder / "r.avro", [2.5] * 6000, step_us=10_000, per_block=50)  # suspect, for ever
    rig.configure('id = "p"\nsensor = { kind = "recorded", path = "r.avro", speed = "1x" }')
    rig.start()
    until(lambda: len(rig.records(topics.EVENTS)) >= 4, "events at the default thresholds")
    now = time.time_ns() // 1000
    rig.publish(topics.THRESHOLDS, b"junk", b"no record")
    update = thresholds(target="p", version=1, issued_at=now, expires_at=now + 60_000_000)
    rig.publish(topics.THRESHOLDS, b"p", encode(update))
    until(lambda: any(s.thresholds_version == 1 for s in rig.statuses()), "the status that acknowledges them")
    status = next(s for s in rig.statuses() if s.thresholds_version == 1)
    assert (status.thresholds_source, status.raise_at) == (ThresholdsSource.FEEDBACK, 5.0)
    (applied,) = status.applied
    assert applied.accepted
    assert 0 <= applied.applied_at - applied.issued_at < 30_000_000
    events = len(rig.records(topics.EVENTS))

    bad, data = model_update(2, gain=9.0, self_test_gain=1.0, issued_at=now, expires_at=now + 60_000_000)
    good, better = model_update(3, gain=4.0, issued_at=now, expires_at=now + 60_000_000)
    for chunk in cut(data) + cut(better):
        rig.publish(topics.ARTIFACTS, chunk_key(chunk), encode(chunk))
    rig.publish(topics.MODELS, b"tiny", encode(bad))
    until(lambda: any(not a.accepted for s in rig.statuses() for a in s.applied), "the refusal")
    rig.publish(topics.MODELS, b"tiny", encode(good))
    until(lambda: any(s.model_version == 3 for s in rig.statuses()), "the new model")
    until(lambda: len(rig.records(topics.EVENTS)) > events + 3, "events by the new model")
    assert rig.end() == 0, rig.said()
    versions = [(e.model_version, e.thresholds_version) for e in rig.records(topics.EVENTS)]
    assert versions == sorted(versions)
    assert versions[0] == (1, 0)
    assert versions[-1] == (3, 1)
    last = rig.statuses()[-1]
    assert [(a.version, a.accepted) for a in last.applied] == [(1, True), (2, False), (3, True)]
    assert last.counters["feedback_refused"] == 2  # the junk and the model that fails its self-test
    assert "the model fails its self-test" in last.applied[1].reason

    # a restart without any feedback from the broker: what was accepted is still in force
    rig.broker.stop()
    rig.start()
    until(lambda: "model tiny 3 from an earlier update runs" in rig.said(), "the kept model")
    until(lambda: rig.said().count("device(s) run") == 2, "the second life")
    rig.broker.start()
    until(lambda: any(s.boot_epoch == 2 and s.thresholds_version == 1 for s in rig.statuses()), "the kept thresholds")
    assert rig.end() == 0, rig.said()


def test_a_damaged_recording_ends_its_device_only_and_the_exit_code_says_so(rig: Rig) -> None:
    recording.write(rig.folder / "r.avro", signal_of(10), step_us=10_000, per_block=50)
    recording.write(rig.folder / "d.avro", [0.1] * 30_000, step_us=100, per_block=50)
    damaged = (rig.folder / "d.avro").read_bytes()
    (rig.folder / "d.avro").write_bytes(damaged[:-3000])
    rig.configure(
        'id = "whole"\nsensor = { kind = "recorded", path = "r.avro", speed = "10x" }',
        'id = "damaged"\nsensor = { kind = "recorded", path = "d.avro", speed = "10x" }',
    )
    assert rig.start().wait(60) == 65, rig.said()
    last = {status.device_id: status for status in rig.statuses()}
    assert last["whole"].counters["readings_sensed"] == 1000
    sensed = last["damaged"].counters["readings_sensed"]
    assert 25_000 < sensed < 30_000
    assert sum(r.readings for r in rig.records(topics.AGGREGATES) if r.device_id == "damaged") == sensed
    assert "the file ends inside of a block" in str(last["damaged"].problem)
