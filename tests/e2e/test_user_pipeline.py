"""What a user builds from our parts: a Beam pipeline of their own."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

import pipelines
from deploy.broker import Broker
from deploy.cluster import Cluster, TopicState
from pipelines import Batch, FleetWindows, HeavyModel, ReadRecorded, Split, WindowRule
from pipelines.options import check
from pipelines.publish import publish, read_package
from schemas import topics
from schemas.codec import decode, encode
from schemas.container import ContainerWriter
from schemas.records import Decision, FleetWindow, Outcome, ThresholdUpdate
from tests.doubles import records as make
from tests.doubles.collect import Collect
from tests.doubles.tiny_model import write_package
from tests.wait import until

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "own_pipeline.py"


def decisions(batch: Batch) -> Iterator[Decision]:
    """A user's own step."""
    for record in batch.records:
        yield decode(record.value or b"", Decision)


def test_a_pipeline_of_ones_own_gets_the_decisions_and_the_fleet(tmp_path: Path) -> None:
    for topic, records in (
        (topics.EVENTS, [make.event("a", i, value=float(i)) for i in range(5)]),
        (topics.AGGREGATES, [make.aggregate("a", i, i * 1_000_000) for i in range(5)]),
    ):
        with (tmp_path / f"{topic.name}.avro").open("wb") as file:
            writer = ContainerWriter(file, topic.record)
            for record in records:
                writer.write(record)
            writer.close()
    model = write_package(tmp_path / "tiny")
    rule = WindowRule(size_us=5_000_000, lateness_us=0)

    counted, fleet = Collect(), Collect()
    with beam.Pipeline(runner=FnApiRunner()) as p:
        routed = p | ReadRecorded(str(tmp_path), [topics.EVENTS, topics.AGGREGATES]) | Split("", rule)
        judged = routed.lanes | HeavyModel((str(model),))
        (
            judged.decisions
            | beam.FlatMap(decisions)
            | beam.Map(lambda d: (d.device_id, d.outcome.value))
            | beam.combiners.Count.PerElement()
            | "Counted" >> counted
        )
        routed.lanes | FleetWindows(rule) | "Fleet" >> fleet

    assert sorted(counted.found) == [(("a", Outcome.ANOMALY), 3), (("a", Outcome.NORMAL), 2)]
    (window,) = [decode(r.value or b"", FleetWindow) for batch in fleet.found for r in batch.records]
    assert (window.revision, window.devices) == (5, ["a"])


def test_everything_that_is_offered_is_there_and_named_as_it_is() -> None:
    for name in pipelines.__all__:
        assert getattr(pipelines, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'HeavyModle'"):
        _ = pipelines.HeavyModle  # type: ignore[attr-defined]


def test_asking_for_nothing_costs_no_beam() -> None:
    code = "import sys, pipelines; sys.exit('apache_beam' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_command_of_the_page_has_options_that_exist_and_names_the_example() -> None:
    page = (ROOT / "docs" / "own-pipeline.md").read_text()
    (command,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    python, script, *options = shlex.split(command)
    assert (python, ROOT / script) == ("python", EXAMPLE)
    check(options)
    listed = set(re.findall(r"^\| `(\w+)\(", page, re.MULTILINE))
    assert listed <= set(pipelines.__all__)


class Topics:
    """Eyes and hands on a broker's topics."""

    def __init__(self, broker: Broker, prefix: str) -> None:
        self._servers, self._prefix = broker.bootstrap_servers, prefix

    def send(self, topic: topics.Topic, *records: object) -> None:
        """Records, acknowledged."""
        producer = KafkaProducer(bootstrap_servers=self._servers, acks="all")
        for record in records:
            key = record.device_id.encode()  # type: ignore[attr-defined]
            producer.send(topic.named(self._prefix), key=key, value=encode(record)).get(30)  # type: ignore[arg-type]
        producer.close()

    def read(self, name: str) -> list[bytes]:
        """Payloads of a topic, as they lie there."""
        consumer = KafkaConsumer(bootstrap_servers=self._servers)
        found: list[bytes] = []
        try:
            full = self._prefix + name
            partitions = [TopicPartition(full, n) for n in consumer.partitions_for_topic(full)]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            ends = consumer.end_offsets(partitions)
            while any(consumer.position(p) < ends[p] for p in partitions):
                for messages in consumer.poll(timeout_ms=200).values():
                    found += [message.value for message in messages]
        finally:
            consumer.close()
        return found


@pytest.mark.kafka
@pytest.mark.prism
def test_the_example_of_the_page_runs_live_and_loses_nothing_over_a_restart(
    tmp_path: Path, broker: Broker, catalogue: str, prism: Path
) -> None:
    with Cluster(broker.bootstrap_servers) as cluster:
        cluster.create([TopicState(f"{catalogue}site.tickets", 2, {})])
    publish(read_package(str(write_package(tmp_path / "tiny"))), broker.bootstrap_servers, catalogue)
    seen = Topics(broker, catalogue)
    command = [
        sys.executable, str(EXAMPLE), "--runner=PrismRunner", f"--prism_location={prism}",
        f"--kafka_bootstrap_servers={broker.bootstrap_servers}", f"--kafka_topic_prefix={catalogue}",
        f"--kafka_group_id={catalogue}tickets", "--fleet_window=1s", "--disorder=500ms", "--idle=500ms",
        "--feedback_min_escalated=10",
    ]  # fmt: skip
    log = tmp_path / "log"

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            return subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | {"PYTHONPATH": str(ROOT)})

    def stop() -> None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0

    process = start()
    try:
        window = time.time_ns() // 1_000_000_000 * 1_000_000
        overridden = [make.event("pump-1", seq, value=1.5) for seq in range(12)]  # heavy score 1.5 < 2: normal
        seen.send(topics.EVENTS, *overridden, make.event("pump-2", 0, value=5.0))
        seen.send(topics.AGGREGATES, make.aggregate("pump-1", 0, window))
        until(lambda: len(seen.read("site.tickets")) >= 12, "tickets", within_s=90)
        until(lambda: len(seen.read("feedback.thresholds")) >= 1, "new thresholds", within_s=60)
        until(lambda: len(seen.read("cloud.aggregates")) >= 1, "a fleet window", within_s=60)
        stop()
        seen.send(topics.EVENTS, make.event("pump-1", 12, value=1.5))  # while nobody reads
        process = start()
        until(lambda: len(seen.read("site.tickets")) >= 13, "the last ticket", within_s=90)
        until(lambda: len(seen.read("cloud.decisions")) >= 14, "all decisions", within_s=60)
        stop()
        tickets = [json.loads(payload) for payload in seen.read("site.tickets")]
        decisions = [decode(payload, Decision) for payload in seen.read("cloud.decisions")]
    except BaseException:
        print(log.read_text()[-6000:])
        raise
    finally:
        process.kill()
        process.wait()
        with Cluster(broker.bootstrap_servers) as cluster:
            cluster.delete([f"{catalogue}site.tickets"])
    assert tickets == [{"event": f"pump-1:1:{seq}", "edge": "ANOMALY", "cloud": "NORMAL"} for seq in range(13)]
    assert sorted(d.identity for d in decisions if d.device_id == "pump-1") == [e.identity for e in overridden] + [
        ("pump-1", 1, 12)
    ]
    assert len(decisions) == 14
    update = decode(seen.read("feedback.thresholds")[0], ThresholdUpdate)
    assert (update.target, update.escalate_at) == ("pump-1", pytest.approx(1.1))
