"""The optional client in real processes: an edge with `client = "confluent"`, and a pipeline started with it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.broker import Broker
from pipelines.publish import publish, read_package
from schemas import topics
from schemas.codec import encode
from schemas.records import Decision, EdgeAggregate, EdgeEvent, Outcome
from tests.doubles import recording
from tests.doubles import records as make
from tests.doubles.edge_parts import thresholds
from tests.doubles.tiny_model import write_package
from tests.e2e.test_edge_process import Rig, signal_of
from tests.e2e.test_pipeline_prism import Live
from tests.wait import until

ONE = 'id = "p"\nsensor = {{ kind = "recorded", path = "r.avro", speed = "{speed}" }}'
NOT_THERE = (
    "the Python package confluent-kafka is not installed; pip install tidegate[fast], or choose the client kafka-python"
)


class FastRig(Rig):
    """The rig of the edge tests with the other client."""

    def configure(self, *devices: str, more: str = "") -> None:
        super().configure(*devices, more=more)
        file = self.folder / "edge.toml"
        file.write_text(file.read_text().replace("[kafka]", '[kafka]\nclient = "confluent"'))


@pytest.fixture
def rig(tmp_path: Path, broker: Broker, catalogue: str) -> Iterator[FastRig]:
    made = FastRig(tmp_path, broker, catalogue)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


@pytest.mark.kafka
def test_over_an_outage_of_the_broker_nothing_is_lost_doubled_or_out_of_order(rig: FastRig) -> None:
    recording.write(rig.folder / "r.avro", signal_of(300), step_us=10_000, per_block=50)
    rig.configure(ONE.format(speed="10x"))
    process = rig.start()
    until(lambda: len(rig.records(topics.EVENTS)) >= 6, "events")
    rig.broker.kill()
    until(lambda: "deciding goes on, and records wait in the spool" in rig.said(), "the sentence about the broker")
    rig.broker.start()
    assert process.wait(120) == 0, rig.said()
    last = rig.statuses()[-1]
    sent = rig.records(topics.EVENTS, topics.AGGREGATES, topics.SAMPLES)
    events = [record for record in sent if isinstance(record, EdgeEvent)]
    assert sum(r.readings for r in sent if isinstance(r, EdgeAggregate)) == last.counters["readings_sensed"] == 30_000
    assert len(events) == last.counters["windows_escalated"] > 100
    assert last.counters["records_enqueued"] == last.counters["records_acked"] == len(sent)
    assert [e.seq for e in events] == sorted(e.seq for e in events)
    assert len({(type(r), r.identity) for r in sent}) == len(sent)


@pytest.mark.kafka
def test_feedback_reaches_it_and_is_obeyed(rig: FastRig) -> None:
    recording.write(rig.folder / "r.avro", signal_of(120), step_us=10_000, per_block=50)
    rig.configure(ONE.format(speed="1x"))
    rig.start()
    until(rig.statuses, "a status")
    now = time.time_ns() // 1000
    update = thresholds(target="p", version=1, issued_at=now, expires_at=now + 600_000_000)
    rig.publish(topics.THRESHOLDS, b"p", encode(update))
    until(lambda: any(s.thresholds_version == 1 for s in rig.statuses()), "the status that acknowledges it")
    assert rig.end() == 0, rig.said()


@pytest.mark.kafka
@pytest.mark.prism
def test_a_pipeline_decides_every_event_once_and_leaves_nothing_behind(
    broker: Broker, catalogue: str, prism: Path, tmp_path: Path
) -> None:
    publish(read_package(str(write_package(tmp_path / "tiny"))), broker.bootstrap_servers, catalogue)
    live = Live(broker, catalogue, prism, tmp_path / "pipeline.log", "--kafka_client_library=confluent")
    try:
        for seq in range(20):
            live.send(topics.EVENTS, make.event(f"pump-{seq % 4}", seq, value=5.0))
        live.read(topics.DECISIONS, 20, timeout_s=60)
        assert live.stop() == 0
        # a second life goes on from the offsets that the first one committed
        live.start()
        live.send(topics.EVENTS, make.event("pump-0", 20, value=5.0))
        decisions = [d for d in live.read(topics.DECISIONS, 21, timeout_s=60) if isinstance(d, Decision)]
        assert live.stop() == 0
    finally:
        live.producer.close()
        if live.process.poll() is None:
            live.process.kill()
            live.process.wait()
    assert sorted(d.seq for d in decisions) == list(range(21))
    assert {d.outcome for d in decisions} == {Outcome.ANOMALY}


@pytest.mark.parametrize(
    "what",
    [
        "from edge_filters.config import Kafka\nfrom edge_filters.run import connect\n"
        "connect(Kafka(bootstrap_servers='127.0.0.1:9', client='confluent'))",
        "from pipelines.io.feed_config import FeedConfig\n"
        "FeedConfig(topics=('t',), bootstrap_servers='127.0.0.1:9', library='confluent')",
        "from pipelines.io.sink import WriteToKafka\nWriteToKafka('t', '127.0.0.1:9', library='confluent')",
    ],
    ids=["edge", "source", "sink"],
)
def test_without_the_package_one_sentence_says_what_to_install(what: str) -> None:
    code = (
        "import sys\nsys.modules['confluent_kafka'] = None\nfrom schemas.errors import MissingToolError, exit_code\n"
        "try:\n" + "".join(f"    {line}\n" for line in what.splitlines()) + "except MissingToolError as missing:\n"
        "    print(missing, end='')\n    sys.exit(exit_code(missing))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stdout) == (69, NOT_THERE)
