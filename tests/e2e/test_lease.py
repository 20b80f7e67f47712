"""Two live edge processes with one device id, on the real broker: one of them is left, and it is said which and why."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition

from deploy.broker import Broker
from schemas import topics
from schemas.codec import decode
from schemas.records import ClaimKind, DeviceClaim, EdgeAggregate
from tests.doubles import edge_model
from tests.wait import until

pytestmark = pytest.mark.kafka

#: What the issue allows, seconds.
DETECTED_S = 10.0


class Edge:
    """One process with a state folder of its own."""

    def __init__(self, folder: Path, broker: Broker, prefix: str, client: str) -> None:
        self.folder, self._broker, self._prefix = folder, broker, prefix
        folder.mkdir(exist_ok=True)
        edge_model.write(folder / "model")
        self._client = client
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, servers: str = "") -> Edge:
        (self.folder / "edge.toml").write_text(
            f"""
            [edge]
            id = "{self.folder.name}"
            state_dir = "state"
            [kafka]
            client = "{self._client}"
            bootstrap_servers = "{servers or self._broker.bootstrap_servers}"
            topic_prefix = "{self._prefix}"
            [model]
            path = "model"
            [[device]]
            id = "pump-7"
            sensor = {{ kind = "synthetic", rate_hz = 200, burst_every = "500ms" }}
            """
        )
        command = [sys.executable, "-m", "edge_filters", "run", str(self.folder / "edge.toml")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log)
        return self

    def said(self) -> str:
        return (self.folder / "log").read_text()

    def runs(self) -> bool:
        assert self.process is not None
        return self.process.poll() is None

    def ended(self, within_s: float = 60) -> int:
        assert self.process is not None
        return self.process.wait(within_s)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(params=["kafka-python", "confluent"])
def edge(
    request: pytest.FixtureRequest, tmp_path: Path, broker: Broker, catalogue: str
) -> Iterator[Callable[[str], Edge]]:
    made: list[Edge] = []

    def make(name: str) -> Edge:
        made.append(Edge(tmp_path / name, broker, catalogue, request.param))
        return made[-1]

    yield make
    for each in made:
        each.kill()


def values(broker: Broker, prefix: str, topic: topics.Topic) -> list[bytes]:
    """What lies in a topic."""
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers)
    try:
        name = topic.named(prefix)
        places = [TopicPartition(name, number) for number in range(topic.partitions)]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        ends, found = consumer.end_offsets(places), []
        while any(consumer.position(place) < ends[place] for place in places):
            for messages in consumer.poll(timeout_ms=200).values():
                found += [message.value for message in messages]
        return found
    finally:
        consumer.close()


def claims(broker: Broker, prefix: str) -> list[DeviceClaim]:
    return [decode(value, DeviceClaim) for value in values(broker, prefix, topics.CLAIMS)]


def claimed(broker: Broker, prefix: str, epoch: int) -> None:
    until(
        lambda: any(c.epoch == epoch and c.kind is ClaimKind.CLAIM for c in claims(broker, prefix)),
        f"a claim with epoch {epoch}",
    )


def test_the_second_of_two_is_refused_and_the_first_goes_on(
    edge: Callable[[str], Edge], broker: Broker, catalogue: str
) -> None:
    first = edge("first").start()
    claimed(broker, catalogue, 1)
    second = edge("second").start()
    assert second.ended() == 77
    assert re.search(
        r"another process acts for device pump-7: edge 'first', process '\w+' .*since='\d{4}-", second.said()
    )
    assert first.runs()
    # a service manager that starts the loser again and again changes nothing
    assert [second.start().ended() for _ in range(2)] == [77, 77]
    assert first.runs()
    first.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
    assert first.ended() == 0
    second.start()
    claimed(broker, catalogue, 2)  # the first has let go: nobody is asked, and the count goes on
    assert second.runs()
    epochs = {decode(value, EdgeAggregate).boot_epoch for value in values(broker, catalogue, topics.AGGREGATES)}
    assert epochs <= {1, 2}


def test_a_clone_that_began_without_the_broker_and_the_first_find_each_other(
    edge: Callable[[str], Edge], broker: Broker, catalogue: str
) -> None:
    """A folder copied while its process lives, and started where the broker cannot be asked: the later epoch stays."""
    first = edge("first").start()
    claimed(broker, catalogue, 1)
    clone = edge("clone")
    shutil.copytree(first.folder / "state", clone.folder / "state", dirs_exist_ok=True)
    broker.stop()
    clone.start()
    until(lambda: "device(s) run" in clone.said(), "the clone runs")
    broker.start()
    claimed(broker, catalogue, 2)
    assert first.ended(DETECTED_S) == 77
    assert "device pump-7 belongs to another process now: edge 'clone'" in first.said()
    assert clone.runs()
    # and the first, started again, does not take it back
    assert first.start().ended() == 77
    assert clone.runs()


def test_a_state_that_was_set_back_is_counted_on_from_what_was_sent(
    edge: Callable[[str], Edge], broker: Broker, catalogue: str
) -> None:
    one = edge("one").start()
    claimed(broker, catalogue, 1)
    one.kill()
    shutil.copytree(one.folder / "state", one.folder / "old")
    for epoch in (2, 3):
        one.start()
        claimed(broker, catalogue, epoch)
        one.kill()
    shutil.rmtree(one.folder / "state")
    (one.folder / "old").rename(one.folder / "state")
    one.start()
    claimed(broker, catalogue, 4)
    one.kill()
    shutil.rmtree(one.folder / "state")  # and a wiped one
    one.start()
    claimed(broker, catalogue, 5)
    assert one.runs()
