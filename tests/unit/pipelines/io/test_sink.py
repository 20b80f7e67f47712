"""The sink on a real broker: it answers for what is safe, and for nothing else."""

from __future__ import annotations

import types
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.partitioner import murmur2

from deploy.broker import Broker
from deploy.cluster import Cluster, TopicState
from pipelines.io import sink as sink_module
from pipelines.io.chunk import Batch, Outgoing, Receipt, Resume, WindowAck
from pipelines.io.committer import Ledger
from pipelines.io.ledger import LedgerCore
from pipelines.io.partition import Partition
from pipelines.io.sink import WriteToKafka, close_producers
from schemas.errors import ConfigError, UnavailableError
from schemas.librdkafka import LIBRARIES

P = Partition("in", 0)


@pytest.fixture
def topic(broker: Broker) -> str:
    name = f"sink-{uuid.uuid4().hex[:8]}"
    with Cluster(broker.bootstrap_servers) as cluster:
        cluster.create([TopicState(name, 1)])
    return name


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    found = Ledger(LedgerCore(["out"], {"win": 0}))
    found.begin(P, 0, Resume())
    found.register(P, 0, 3, 0)
    monkeypatch.setattr(sink_module.flows, "find", lambda name: types.SimpleNamespace(ledger=found))
    return found


@pytest.fixture(params=LIBRARIES)
def writer(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Makes the sink's DoFn, on each client library in turn."""

    def make(broker: Broker, topic: str, timeout_s: float = 30.0) -> Any:
        servers = broker.bootstrap_servers
        step = WriteToKafka(topic, servers, branch="out", timeout_s=timeout_s, library=request.param)._write
        step.start_bundle()
        return step

    return make


def values(broker: Broker, topic: str) -> list[tuple[bytes, bytes, Any]]:
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest")
    tp = TopicPartition(topic, 0)
    consumer.assign([tp])
    out: list[Any] = []
    while len(out) < consumer.end_offsets([tp])[tp]:
        out += [r for batch in consumer.poll(timeout_ms=200).values() for r in batch]
    consumer.close()
    return [(r.key, r.value, r.headers) for r in out]


@pytest.mark.kafka
def test_what_a_bundle_wrote_is_in_the_topic_before_it_is_answered_for(
    broker: Broker, topic: str, ledger: Ledger, writer: Callable[..., Any]
) -> None:
    ledger.contribute("win", Receipt("f", *P, 0, 3), [(10, b"k", 1)])
    step = writer(broker, topic)
    step.process(Batch([Outgoing(b"k", b"v", (("h", b"x"),))], (Receipt("f", *P, 0, 3),)))
    step.process(Batch([Outgoing(None, b"w")], windows=(WindowAck("f", "win", 10, b"k", 1),)))
    assert ledger.commits()[P].offset == 0
    step.finish_bundle()
    assert [v[:2] for v in values(broker, topic)] == [(b"k", b"v"), (None, b"w")]
    assert values(broker, topic)[0][2] == [("h", b"x")]
    ledger.watermark(P, 10)
    assert ledger.commits()[P].offset == 3


@pytest.mark.kafka
def test_a_batch_without_records_answers_too(
    broker: Broker, topic: str, ledger: Ledger, writer: Callable[..., Any]
) -> None:
    ledger.contribute("win", Receipt("f", *P, 0, 3), [])
    step = writer(broker, topic)
    step.process(Batch([], (Receipt("f", *P, 0, 3),)))
    step.finish_bundle()
    assert ledger.commits()[P].offset == 3


@pytest.mark.kafka
def test_what_the_broker_does_not_take_in_time_fails_the_bundle_and_is_not_answered_for(
    broker: Broker, topic: str, ledger: Ledger, writer: Callable[..., Any]
) -> None:
    step = writer(broker, topic, timeout_s=2.0)
    step.process(Batch([Outgoing(b"k", b"first")]))
    step.finish_bundle()
    broker.kill()
    step.process(Batch([Outgoing(b"k", b"second")], (Receipt("f", *P, 0, 3),)))
    with pytest.raises(UnavailableError, match="a batch could not be written") as failed:
        step.finish_bundle()
    assert failed.value.where["topic"] == topic
    assert ledger.in_flight() == 1
    close_producers(0.1)


def test_misspelt_client_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="does not have"):
        WriteToKafka("t", "127.0.0.1:9", client={"ack": 1})


@pytest.mark.kafka
def test_records_of_a_key_lie_in_the_partition_that_kafka_itself_would_choose_in_order(
    broker: Broker, writer: Callable[..., Any]
) -> None:
    topic = f"sink-{uuid.uuid4().hex[:8]}"
    with Cluster(broker.bootstrap_servers) as cluster:
        cluster.create([TopicState(topic, 3)])
    keys = [b"pump-%d" % n for n in range(10)]
    step = writer(broker, topic)
    step.process(Batch([Outgoing(key, b"%d" % n) for n in range(5) for key in keys]))
    step.finish_bundle()
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topic, n) for n in range(3)])
    found: list[Any] = []
    while len(found) < 50:
        found += [r for batch in consumer.poll(timeout_ms=200).values() for r in batch]
    consumer.close()
    assert {r.key: r.partition for r in found} == {key: (murmur2(key) & 0x7FFFFFFF) % 3 for key in keys}
    for key in keys:
        assert [r.value for r in found if r.key == key] == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.kafka
def test_a_record_that_is_too_large_fails_the_bundle(
    broker: Broker, topic: str, ledger: Ledger, writer: Callable[..., Any]
) -> None:
    step = writer(broker, topic)

    def bundle() -> None:
        step.process(Batch([Outgoing(b"k", bytes(2 << 20))]))
        step.finish_bundle()

    with pytest.raises(UnavailableError, match="a batch could not be written"):
        bundle()
    close_producers(0.1)


@pytest.mark.parametrize("setting", ["proxy_url", "sasl_kerberos_name"])
def test_settings_that_the_fast_client_lacks_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="confluent has no counterpart for"):
        WriteToKafka("t", "127.0.0.1:9", client={setting: "x"}, library="confluent")
