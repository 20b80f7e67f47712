"""Dead letters and the ledger beside a real pipeline: what is sent again is decided, once, and the books say so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from deploy import records
from deploy.broker import Broker
from schemas import topics
from schemas.codec import decode_any, encode
from schemas.records import Decision, Failure
from tests import command
from tests.doubles import records as make
from tests.wait import until

pytestmark = [pytest.mark.kafka, pytest.mark.prism]


@pytest.fixture
def pipeline(broker: Broker, catalogue: str, prism: Path, tmp_path: Path) -> Iterator[str]:
    """A running pipeline on Prism, without a heavy model; gives the topic prefix."""
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


def test_a_letter_that_is_sent_again_is_decided_and_the_ledger_balances(broker: Broker, pipeline: str) -> None:
    servers = broker.bootstrap_servers

    def tidegate(*words: str) -> subprocess.CompletedProcess[str]:
        return command.tidegate(*words, "-b", servers, "--prefix", pipeline, timeout_s=90)

    def read(topic: topics.Topic) -> list[Any]:
        return [decode_any(m.value) for m in records.messages(servers, [topic.named(pipeline)]) if m.value is not None]

    producer = KafkaProducer(bootstrap_servers=servers)
    events = [make.event("pump-1", seq) for seq in range(6)]
    for event in events[:2]:
        producer.send(topics.EVENTS.named(pipeline), encode(event), key=b"pump-1", partition=1)
    producer.send(topics.EVENTS.named(pipeline), encode(events[2])[:-1], key=b"pump-1", partition=1)
    for event in events[4:]:  # the device goes on: what is sent again later is older than these
        producer.send(topics.EVENTS.named(pipeline), encode(event), key=b"pump-1", partition=1)
    producer.flush()
    until(lambda: read(topics.DEAD_LETTERS), "the dead letter of the damaged event", within_s=60)
    until(lambda: len(read(topics.DECISIONS)) == 4, "the decisions of the whole ones", within_s=60)

    # it was refused as damaged; here is the same letter with the bytes that its reader could not take then
    (damaged,) = read(topics.DEAD_LETTERS)
    assert isinstance(damaged, Failure)
    assert (damaged.source, damaged.partition, damaged.offset) == (topics.EVENTS.named(pipeline), 1, 2)
    refused = tidegate("dlq", "retry", "--all")
    assert refused.returncode == 1
    assert "it would be refused again: payload does not fit its schema" in refused.stdout
    good = Failure(**{name: getattr(damaged, name) for name in Failure.__slots__} | {"payload": encode(events[3])})
    producer.send(topics.DEAD_LETTERS.named(pipeline), encode(good), key=b"k").get(10)
    producer.close()
    listed = tidegate("dlq", "list", "-o", "json")
    (group,) = json.loads(listed.stdout)
    assert (group["count"], group["source"], group["stage"]) == (2, "edge.events", "split")
    place = group["newest"].partition("/")[2]
    sent = tidegate("dlq", "retry", place)
    assert sent.returncode == 0, sent.stderr + sent.stdout
    until(lambda: len(read(topics.DECISIONS)) == 5, "the decision of the event that was sent again", within_s=60)
    decided = [record.seq for record in read(topics.DECISIONS) if isinstance(record, Decision)]
    assert sorted(decided) == [0, 1, 3, 4, 5]

    # the transaction leaves a marker behind the record: the pipeline's position gets past it all the same
    partition = TopicPartition(topics.EVENTS.named(pipeline), 1)
    consumer = KafkaConsumer(bootstrap_servers=servers, group_id=f"{pipeline}pipeline", enable_auto_commit=False)
    try:
        until(lambda: (consumer.committed(partition) or 0) >= 6, "the commit behind the event", within_s=60)
    finally:
        consumer.close()

    ledger = tidegate("ledger", "--group", f"{pipeline}pipeline", "-o", "json")
    found = json.loads(ledger.stdout)
    assert ledger.returncode == 0, found["findings"]
    assert [(f["kind"], f["explained"]) for f in found["findings"]] == [("unreadable", "dead letter, DecodeError")]
