"""Exactly one final decision per event for a plain read_committed consumer, whatever is killed when."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from deploy.broker import Broker
from deploy.cluster import Cluster, TopicState
from pipelines.publish import publish, read_package
from schemas import failpoints, topics
from schemas.codec import decode, encode
from schemas.errors import EXIT_CODES, LeaseError
from schemas.records import Decision, Failure
from tests.doubles import records as make
from tests.doubles.tiny_model import write_package
from tests.wait import until

pytestmark = [pytest.mark.kafka, pytest.mark.prism]

BAD = b"\xc3\x01 not a record"


class Plant:
    """Topics of one test, events that are sent to it, and the pipelines that read them, one life after another."""

    def __init__(self, broker: Broker, prefix: str, prism: Path, folder: Path) -> None:
        self.broker, self.prefix, self._prism, self.log = broker, prefix, prism, folder / "pipeline.log"
        with Cluster(broker.bootstrap_servers) as cluster:
            cluster.create(TopicState(t.named(prefix), t.partitions, t.config) for t in topics.CATALOGUE)
        publish(read_package(str(write_package(folder / "tiny"))), broker.bootstrap_servers, prefix)
        self._producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, acks="all", linger_ms=2)
        self._lives: list[subprocess.Popen[bytes]] = []
        self._sending = threading.Lock()
        self.events = self.bad = 0

    def live(self, *options: str, command: str = "job", failpoint: str = "") -> subprocess.Popen[bytes]:
        """Start a pipeline; with its Prism it has a process group of its own."""
        servers = self.broker.bootstrap_servers
        argv = [
            sys.executable, "-m", "pipelines", command, "--runner=PrismRunner", f"--prism_location={self._prism}",
            f"--kafka_bootstrap_servers={servers}", f"--kafka_topic_prefix={self.prefix}",
            f"--kafka_group_id={self.prefix}pipeline", "--fleet_window=1s", "--disorder=500ms", "--idle=500ms",
            *options,
        ]  # fmt: skip
        env = {**os.environ, failpoints.VARIABLE: failpoint}
        with self.log.open("ab") as out:
            process = subprocess.Popen(argv, stdout=out, stderr=out, env=env, start_new_session=True)
        self._lives.append(process)
        return process

    def send(self, count: int) -> None:
        """Events of a few devices; one in twenty is a record that nobody can read."""
        with self._sending:
            for _ in range(count):
                if self.events % 20 == 19 and self.bad * 20 < self.events:
                    self._producer.send(topics.EVENTS.named(self.prefix), key=b"x%d" % self.bad, value=BAD)
                    self.bad += 1
                device = f"pump-{self.events % 7}"
                event = make.event(device, self.events // 7)
                self._producer.send(topics.EVENTS.named(self.prefix), key=device.encode(), value=encode(event))
                self.events += 1
            self._producer.flush(60)

    def found(self) -> tuple[Counter[str], Counter[tuple[int, int]]]:
        """Copies of each decision by event id, and of each dead letter by partition and offset: what is committed."""
        decisions = Counter(decode(value, Decision).identity.event_id for value in self._values(topics.DECISIONS))
        letters = (decode(value, Failure) for value in self._values(topics.DEAD_LETTERS))
        return decisions, Counter((letter.partition, letter.offset) for letter in letters)

    def _values(self, topic: topics.Topic) -> list[bytes]:
        consumer = KafkaConsumer(
            bootstrap_servers=self.broker.bootstrap_servers,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )
        parts = [TopicPartition(topic.named(self.prefix), p) for p in range(topic.partitions)]
        consumer.assign(parts)
        try:
            ends, out = consumer.end_offsets(parts), []
            while any(consumer.position(part) < end for part, end in ends.items()):
                out += [m.value for messages in consumer.poll(timeout_ms=100).values() for m in messages]
            return out
        finally:
            consumer.close()

    def doubled(self) -> list[object]:
        """What is there more than once."""
        decisions, letters = self.found()
        return [name for name, copies in [*decisions.items(), *letters.items()] if copies > 1]

    def complete(self, within_s: float = 150.0) -> None:
        """Wait until everything is answered; fail when anything is answered twice or is not of here."""

        def all_there() -> bool:
            decisions, letters = self.found()
            return len(decisions) >= self.events and len(letters) >= self.bad

        try:
            until(all_there, "every event is decided, every bad record put away", within_s=within_s)
        except AssertionError as missing:
            decisions, letters = self.found()
            counts = f"{len(decisions)} of {self.events} decided, {len(letters)} of {self.bad} put away"
            raise AssertionError(f"{missing}; {counts}; log:\n{self.log.read_text()[-4000:]}") from None
        decisions, letters = self.found()
        assert (len(decisions), len(letters)) == (self.events, self.bad)
        assert self.doubled() == []

    def end(self, process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> None:
        """End a pipeline and everything it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(process.pid).children(recursive=True)
            for each in below:  # a supervisor's job has a group of its own
                each.send_signal(number)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.wait(60)

    def close(self) -> None:
        """End all of them."""
        for process in self._lives:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGCONT)
            self.end(process)
        self._producer.close(1)


@pytest.fixture
def plant(broker: Broker, topic_prefix: str, prism: Path, tmp_path: Path) -> Iterator[Plant]:
    made = Plant(broker, topic_prefix, prism, tmp_path)
    yield made
    made.close()
    broker.start()
    with Cluster(broker.bootstrap_servers) as cluster:
        cluster.delete(t.named(topic_prefix) for t in topics.CATALOGUE)


@pytest.mark.timeout(500)
@pytest.mark.parametrize(
    ("library", "steps"),
    [
        ("kafka-python", ["begun:2", "sent:1", "offsets:2", "committed:1", "settled:2"]),
        ("confluent", ["sent:2", "committed:2"]),
    ],
)
def test_killed_at_every_step_of_a_transaction_it_decides_each_event_once(
    plant: Plant, library: str, steps: list[str]
) -> None:
    option = f"--kafka_client_library={library}"
    for at in steps:
        process = plant.live(option, failpoint=f"answers.{at}")
        plant.send(20)
        deadline_s = time.monotonic() + 120
        while process.poll() is None:
            assert time.monotonic() < deadline_s, f"not dead at {at}; log:\n{plant.log.read_text()[-3000:]}"
            plant.send(2)
            time.sleep(0.05)  # more than one transaction
        assert process.returncode == failpoints.KILLED, plant.log.read_text()[-3000:]
        plant.end(process)
        assert plant.doubled() == [], at
    plant.live(option)
    plant.complete()


def test_where_positions_are_committed_apart_from_answers_the_same_kill_doubles_them(plant: Plant) -> None:
    """The test of the test above: it sees what it looks for."""
    plant.send(50)
    process = plant.live("--delivery=at-least-once", failpoint="sink.sent:1")
    until(lambda: process.poll() is not None, "the pipeline dies", within_s=120)
    plant.live("--delivery=at-least-once")
    until(plant.doubled, "something is answered twice", within_s=120)


@pytest.mark.timeout(400)
def test_a_pipeline_that_was_frozen_while_another_took_over_writes_nothing_and_says_why_it_ends(plant: Plant) -> None:
    old = plant.live()
    plant.send(50)
    plant.complete()
    stop = threading.Event()
    feeder = threading.Thread(target=_feed, args=(plant, stop))
    feeder.start()
    try:
        until(lambda: len(plant.found()[0]) > 100, "it works while events come")
        os.kill(old.pid, signal.SIGSTOP)
        new = plant.live()
        until(lambda: len(plant.found()[0]) > 1000, "the new one decides", within_s=120)
        os.kill(old.pid, signal.SIGCONT)
        assert old.wait(30) == EXIT_CODES[LeaseError], plant.log.read_text()[-3000:]
    finally:
        stop.set()
        feeder.join()
    plant.complete()
    assert new.poll() is None
    assert "another pipeline has taken over" in plant.log.read_text()


def _feed(plant: Plant, stop: threading.Event) -> None:
    while not stop.is_set():
        plant.send(20)
        stop.wait(0.05)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("library", ["kafka-python", "confluent"])
def test_a_broker_that_is_killed_again_and_again_costs_no_decision_and_doubles_none(plant: Plant, library: str) -> None:
    process = plant.live(f"--kafka_client_library={library}", command="run")
    plant.send(20)
    plant.complete()
    dice = random.Random(7)
    for _ in range(4):
        plant.send(300)
        time.sleep(dice.uniform(0.0, 0.4))  # the moment of the kill is left to chance
        plant.broker.kill()
        plant.broker.start()
    plant.complete()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert "starting again" not in plant.log.read_text()


@pytest.mark.timeout(500)
def test_killed_at_random_moments_it_decides_each_event_once(plant: Plant) -> None:
    dice = random.Random(int(os.environ.get("TIDEGATE_KILLS_SEED", "11")))
    plant.live(command="run")
    plant.send(20)
    plant.complete()
    stop = threading.Event()
    feeder = threading.Thread(target=_feed, args=(plant, stop))
    feeder.start()
    try:
        for _ in range(int(os.environ.get("TIDEGATE_KILLS", "6"))):
            time.sleep(dice.uniform(0.2, 1.5))  # as above
            supervisor = psutil.Process(plant._lives[0].pid)
            dice.choice(until(lambda: supervisor.children(recursive=True), "a worker")).kill()  # noqa: B023  # at once
            decided = len(plant.found()[0])
            until(lambda: len(plant.found()[0]) > decided + 100, "it goes on", within_s=120)  # noqa: B023  # at once
            assert plant.doubled() == []
    finally:
        stop.set()
        feeder.join()
    plant.complete()
