"""What every outbox must do, run on the in-memory double, on files and on the real broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.partitioner import murmur2

from deploy.broker import Broker
from edge_filters.io.files import FileOutbox
from edge_filters.io.kafka import KafkaOutbox
from edge_filters.outgoing import Parcel, pack
from edge_filters.ports import Delivery, Outbox
from schemas.codec import decode_any
from schemas.container import read
from schemas.librdkafka import LIBRARIES
from schemas.records import EdgeEvent
from tests.doubles.edge_parts import MemoryOutbox
from tests.doubles.records import audit, event
from tests.wait import until


class OutboxContract:
    """The port's promises. Implementations give `outbox` and `received`."""

    @pytest.fixture
    def outbox(self) -> Any:
        raise NotImplementedError

    def received(self, outbox: Any) -> list[Any]:
        """Records that have arrived, in the order of each topic and key."""
        raise NotImplementedError

    def test_what_was_acknowledged_is_there_in_order_of_each_device(self, outbox: Outbox) -> None:
        until(lambda: outbox.ready, "the outbox is ready")
        sent = [event(f"pump-{n % 3}", seq=n) for n in range(30)] + [audit("pump-1", seq=n) for n in range(5)]
        receipts = [outbox.send(pack(record)) for record in sent]
        for receipt in receipts:
            until(lambda r=receipt: outbox.report(r).delivery is not Delivery.PENDING, "an acknowledgement")  # type: ignore[misc]
        outbox.close(5.0)
        got = self.received(outbox)
        assert len(got) == len(sent)
        for record in sent:
            assert record in got
        for device in ("pump-0", "pump-1", "pump-2"):
            mine = [r.seq for r in got if isinstance(r, EdgeEvent) and r.device_id == device]
            assert mine == sorted(mine)

    def test_it_is_well_while_all_is_well(self, outbox: Outbox) -> None:
        until(lambda: outbox.ready, "the outbox is ready")
        assert outbox.problem == ""
        outbox.close(1.0)

    def test_it_can_begin_anew_and_still_sends(self, outbox: Outbox) -> None:
        until(lambda: outbox.ready, "the outbox is ready")
        outbox.restart()
        until(lambda: outbox.ready, "the outbox is ready again")
        receipt = outbox.send(pack(event()))
        until(lambda: outbox.report(receipt).delivery is Delivery.DELIVERED, "an acknowledgement")
        outbox.close(5.0)
        assert self.received(outbox) == [event()]


class TestMemoryOutbox(OutboxContract):
    @pytest.fixture
    def outbox(self) -> MemoryOutbox:
        return MemoryOutbox()

    def received(self, outbox: MemoryOutbox) -> list[Any]:
        return [decode_any(parcel.payload) for parcel in outbox.sent]


class TestFileOutbox(OutboxContract):
    @pytest.fixture
    def outbox(self, tmp_path: Path) -> FileOutbox:
        self.folder = tmp_path / "out"
        return FileOutbox(self.folder)

    def received(self, outbox: FileOutbox) -> list[Any]:
        found: list[Any] = []
        for path in sorted(self.folder.glob("*.avro")):
            with path.open("rb") as file:
                found += read(file)
        return found


def outbox_on(library: str) -> Callable[..., Any]:
    """The outbox on one of the client libraries."""
    if library == "kafka-python":
        return KafkaOutbox
    from edge_filters.io.confluent import ConfluentOutbox

    return ConfluentOutbox


@pytest.fixture(params=LIBRARIES)
def make_outbox(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return outbox_on(request.param)


@pytest.mark.kafka
class TestKafkaOutbox(OutboxContract):
    @pytest.fixture
    def outbox(self, broker: Broker, catalogue: str, make_outbox: Callable[..., Any]) -> Iterator[Any]:
        self.servers, self.prefix = broker.bootstrap_servers, catalogue
        made = make_outbox(broker.bootstrap_servers, catalogue)
        yield made
        made.close(1.0)

    def received(self, outbox: Any) -> list[Any]:
        return [decode_any(message.value) for message in everything(self.servers, self.prefix)]

    def test_a_record_that_is_too_large_is_refused_for_good_with_a_reason(self, outbox: Any) -> None:
        until(lambda: outbox.ready, "the outbox is ready")
        whole = pack(event())
        receipt = outbox.send(Parcel(whole.priority, whole.topic, whole.key, bytes(2 << 20)))
        until(lambda: outbox.report(receipt).delivery is not Delivery.PENDING, "a verdict")
        report = outbox.report(receipt)
        assert report.delivery is Delivery.REFUSED
        assert "larger than the maximum request size" in report.why

    def test_one_device_always_goes_to_the_partition_that_kafka_itself_would_choose(self, outbox: Any) -> None:
        until(lambda: outbox.ready, "the outbox is ready")
        names = [f"plant1/line2/pump-{n}" for n in range(20)]
        for receipt in [outbox.send(pack(event(name))) for name in names]:
            until(lambda r=receipt: outbox.report(r).delivery is Delivery.DELIVERED, "an acknowledgement")  # type: ignore[misc]
        partitions = {m.key.decode(): m.partition for m in everything(self.servers, self.prefix)}
        assert partitions == {name: (murmur2(name.encode()) & 0x7FFFFFFF) % 4 for name in names}
        assert len(set(partitions.values())) > 1

    def test_a_broker_that_goes_away_is_a_sentence_and_what_was_sent_arrives_once_it_is_back(
        self, outbox: Any, broker: Broker
    ) -> None:
        until(lambda: outbox.ready, "the outbox is ready")
        broker.kill()
        receipts = [outbox.send(pack(event(seq=n))) for n in range(20)]
        until(lambda: outbox.problem, "a problem")
        assert outbox.problem == f"the broker at {broker.bootstrap_servers} acknowledges nothing"
        broker.start()
        for receipt in receipts:
            until(lambda r=receipt: outbox.report(r).delivery is Delivery.DELIVERED, "an acknowledgement", within_s=60)  # type: ignore[misc]
        assert [r.seq for r in self.received(outbox)] == list(range(20))


@pytest.mark.kafka
def test_without_a_broker_the_outbox_is_not_ready_says_why_and_gets_ready_when_it_comes(
    broker: Broker, catalogue: str, make_outbox: Callable[..., Any]
) -> None:
    broker.stop()
    outbox = make_outbox(broker.bootstrap_servers, catalogue)
    try:
        until(lambda: outbox.problem.startswith(f"cannot use the broker at {broker.bootstrap_servers}: "), "a sentence")
        assert not outbox.ready
        broker.start()
        until(lambda: outbox.ready, "the outbox is ready")
        assert outbox.problem == ""
    finally:
        outbox.close(1.0)


@pytest.mark.kafka
def test_topics_that_are_missing_are_named(broker: Broker, make_outbox: Callable[..., Any]) -> None:
    outbox = make_outbox(broker.bootstrap_servers, "nobody.")
    try:
        until(lambda: "has no topic" in outbox.problem, "a sentence that names the topic")
        assert outbox.problem == (
            f"the broker at {broker.bootstrap_servers} has no topic nobody.edge.events; `tidegate up` makes the topics"
        )
    finally:
        outbox.close(1.0)


def everything(servers: str, prefix: str) -> list[Any]:
    """All records that devices send, as they lie in the topics."""
    consumer = KafkaConsumer(bootstrap_servers=servers)
    try:
        found: list[Any] = []
        for name in ("edge.events", "edge.aggregates", "edge.samples"):
            partitions = [TopicPartition(prefix + name, n) for n in consumer.partitions_for_topic(prefix + name)]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            ends = consumer.end_offsets(partitions)
            while any(consumer.position(p) < ends[p] for p in partitions):
                for messages in consumer.poll(timeout_ms=200).values():
                    found += messages
        return found
    finally:
        consumer.close()
