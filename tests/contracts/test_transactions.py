"""What the writer of answers promises against the real broker."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition

from deploy.broker import Broker
from deploy.cluster import Cluster, TopicState
from pipelines.io.chunk import Outgoing
from pipelines.io.feed_config import FeedConfig
from pipelines.io.outcome import FENCED, Move
from pipelines.io.partition import Partition
from pipelines.io.transport import Committed, Transactions, Trouble
from tests.wait import until

pytestmark = pytest.mark.kafka


class World:
    """A topic to write to, a group with positions in it, and writers that share one name."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._opened: list[Any] = []
        self.topic = f"tx-{uuid.uuid4().hex[:8]}"
        self.at = Partition(self.topic, 0)
        self._config = FeedConfig(topics=(self.topic,), bootstrap_servers=broker.bootstrap_servers, group_id=self.topic)
        with Cluster(broker.bootstrap_servers) as cluster:
            cluster.create([TopicState(self.topic, 2)])

    def warm(self) -> bool:
        """A transaction with the position of the other partition alone."""
        writer = opened(self.writer)
        if writer is None:
            return False
        try:
            writer.begin()
            writer.offsets({Partition(self.topic, 1): Committed(0, "")}, time.monotonic() + 10)
            writer.commit(time.monotonic() + 10)
        except Trouble as trouble:
            if trouble.move is Move.STOP:
                raise
            return False
        return True

    def writer(self) -> Transactions:
        """Takes the name over."""
        made = self._config.transactions(f"{self.topic}.answers")
        self._opened.append(made)
        return made

    def committed(self) -> Committed | None:
        """The position of the group."""
        reader = self._config.reader()
        self._opened.append(reader)
        return reader.committed(self.at)

    def values(self) -> list[bytes]:
        """What a reader of committed records finds."""
        consumer = KafkaConsumer(
            bootstrap_servers=self._broker.bootstrap_servers,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )
        parts = [TopicPartition(self.topic, n) for n in (0, 1)]
        consumer.assign(parts)
        try:
            ends, out = consumer.end_offsets(parts), []
            while any(consumer.position(part) < end for part, end in ends.items()):
                out += [m.value for messages in consumer.poll(timeout_ms=100).values() for m in messages]
            return sorted(out)
        finally:
            consumer.close()

    def close(self) -> None:
        """Close everything that was opened."""
        for each in self._opened:
            each.close()


@pytest.fixture
def world(broker: Broker) -> Iterator[World]:
    made = World(broker)
    until(made.warm, "a first transaction; a broker that has just started makes its offsets topic for it", within_s=60)
    yield made
    made.close()


def write(writer: Transactions, world: World, values: list[bytes], position: int, note: str = "n") -> None:
    """One whole transaction."""
    deadline_s = time.monotonic() + 20
    writer.begin()
    writer.send(world.topic, [Outgoing(value, value) for value in values])
    finish(writer, world, position, deadline_s, note)


def finish(writer: Transactions, world: World, position: int, deadline_s: float, note: str = "n") -> None:
    """The rest of a transaction whose records were sent."""
    writer.flush(deadline_s)
    writer.offsets({world.at: Committed(position, note)}, deadline_s)
    writer.commit(deadline_s)


def test_records_and_position_come_together_with_the_note(world: World) -> None:
    writer = world.writer()
    write(writer, world, [b"a", b"b"], 2, "two")
    assert world.values() == [b"a", b"b"]
    assert world.committed() == Committed(2, "two")


def test_notes_of_any_length_come_back_as_they_were(world: World) -> None:
    writer = world.writer()
    for size in (1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 120, 400):
        note = ("0123456789abcdef" * 30)[:size]
        write(writer, world, [b"%d" % size], size, note)
        assert world.committed() == Committed(size, note)


def test_transactions_follow_each_other_and_one_may_hold_a_position_alone(world: World) -> None:
    writer = world.writer()
    for number in range(5):
        write(writer, world, [b"%d" % number] if number % 2 else [], number)
    assert world.values() == [b"1", b"3"]
    assert world.committed() == Committed(4, "n")


@pytest.mark.parametrize("upto", ["send", "flush", "offsets"])
def test_what_is_not_committed_is_not_there_and_ends_when_the_name_is_taken_over(world: World, upto: str) -> None:
    old = world.writer()
    write(old, world, [b"a"], 1)
    deadline_s = time.monotonic() + 20
    old.begin()
    old.send(world.topic, [Outgoing(b"b", b"b")])
    if upto != "send":
        old.flush(deadline_s)
    if upto == "offsets":
        old.offsets({world.at: Committed(2, "n")}, deadline_s)
    new = world.writer()
    assert world.committed() == Committed(1, "n")
    assert world.values() == [b"a"]
    write(new, world, [b"c"], 3)
    with pytest.raises(Trouble) as shut_out:
        finish(old, world, 2, deadline_s)
    assert shut_out.value.name in FENCED
    assert shut_out.value.move is Move.STOP
    assert world.values() == [b"a", b"c"]
    assert world.committed() == Committed(3, "n")


def test_a_writer_that_lost_its_name_between_two_transactions_cannot_begin_another(world: World) -> None:
    old = world.writer()
    write(old, world, [b"a"], 1)
    world.writer()
    with pytest.raises(Trouble) as shut_out:
        write(old, world, [b"b"], 2)
    assert shut_out.value.name in FENCED
    assert (world.values(), world.committed()) == ([b"a"], Committed(1, "n"))


def test_a_record_that_is_too_large_is_refused_for_good(world: World) -> None:
    writer = world.writer()
    writer.begin()
    with pytest.raises(Trouble) as refused:
        writer.send(world.topic, [Outgoing(b"k", b"x" * (2 << 20))])
    assert refused.value.move is Move.STOP


def test_a_broker_that_dies_in_the_middle_is_trouble_and_a_new_writer_goes_on(world: World, broker: Broker) -> None:
    writer = world.writer()
    write(writer, world, [b"a"], 1)
    deadline_s = time.monotonic() + 4
    writer.begin()
    writer.send(world.topic, [Outgoing(b"b", b"b")])
    writer.flush(deadline_s)
    broker.kill()
    with pytest.raises(Trouble) as trouble:
        finish(writer, world, 2, deadline_s)
    assert trouble.value.move is Move.REBUILD
    broker.start()
    new = until(lambda: opened(world.writer), "the name is taken over", within_s=60)
    assert new is not None
    assert world.committed() == Committed(1, "n")
    write(new, world, [b"b"], 2)
    assert world.values() == [b"a", b"b"]


def opened(make: Callable[[], Transactions]) -> Transactions | None:
    try:
        return make()
    except Trouble as trouble:
        if trouble.move is Move.STOP:
            raise
        return None
