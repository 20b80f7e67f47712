"""Requests of a transaction that are held up on their way, through a proxy that reads Kafka's protocol."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition

from deploy.cluster import Cluster, TopicState
from pipelines.io import kafka_python
from pipelines.io.answers import Answers
from pipelines.io.chunk import Outgoing, Receipt, Resume
from pipelines.io.committer import Ledger
from pipelines.io.feed_config import FeedConfig
from pipelines.io.ledger import LedgerCore
from pipelines.io.partition import Partition
from pipelines.io.transport import Transactions, Trouble
from tests.faults.proxy import Api, FaultBroker, Proxy, Rule
from tests.wait import until

pytestmark = pytest.mark.kafka

#: How long a request is held: longer than it takes to notice that the connection is gone and to begin anew.
HOLD_S = 2.0


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FaultBroker, Proxy]]:
    with Proxy() as proxy, FaultBroker(tmp_path_factory.mktemp("broker"), proxy=proxy) as broker:
        yield broker, proxy


class Line:
    """Writers whose connections pass the proxy, and a reader that goes around it."""

    def __init__(self, link: tuple[FaultBroker, Proxy]) -> None:
        self._broker, self.proxy = link
        self.topic = f"stray-{uuid.uuid4().hex[:8]}"
        self.at = Partition(f"{self.topic}.in", 0)
        with Cluster(self._broker.bootstrap_servers) as cluster:
            cluster.create([TopicState(self.topic, 1), TopicState(self.at.topic, 1)])
        self.config = FeedConfig(topics=(self.at.topic,), bootstrap_servers=self._broker.proxied, group_id=self.topic)

    def writer(self) -> Transactions:
        return self.config.transactions(f"{self.topic}.answers")

    def values(self) -> list[int]:
        consumer = KafkaConsumer(
            bootstrap_servers=self._broker.bootstrap_servers,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )
        part = TopicPartition(self.topic, 0)
        consumer.assign([part])
        try:
            end, out = consumer.end_offsets([part])[part], []
            while consumer.position(part) < end:
                out += [int(m.value) for messages in consumer.poll(timeout_ms=100).values() for m in messages]
            return out
        finally:
            consumer.close()


@pytest.fixture
def line(link: tuple[FaultBroker, Proxy]) -> Line:
    return Line(link)


def send(writer: Transactions, line: Line, value: int) -> None:
    writer.begin()
    writer.send(line.topic, [Outgoing(b"k", b"%d" % value)])
    writer.flush(time.monotonic() + 20)


def after_a_commit_that_was_held_up(line: Line, first: Transactions) -> None:
    """One transaction whose end is held up, then another that is never ended: is anything of that to be seen?"""
    held = line.proxy.rule(Rule(Api.END_TXN, "hold request", hold_s=HOLD_S))
    writer = first
    send(writer, line, 1)
    try:
        writer.commit(time.monotonic() + 20)
    except Trouble:
        writer.close()
        writer = line.writer()
    send(writer, line, 2)
    assert held.done.wait(20)
    time.sleep(HOLD_S + 2)  # the stray request is there by then, if it ever will be
    writer.close()
    line.writer().close()  # ends what is open


def test_a_commit_that_arrives_late_ends_nothing_of_the_next_transaction(line: Line) -> None:
    after_a_commit_that_was_held_up(line, line.writer())
    assert 2 not in line.values()


def test_a_client_that_sends_the_commit_again_by_itself_commits_what_was_never_ended(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test of the test above: kafka-python as it comes."""
    monkeypatch.setattr(kafka_python, "_never_twice", lambda manager: None)
    after_a_commit_that_was_held_up(line, line.writer())
    assert 2 in line.values()


@pytest.mark.parametrize("what", ["lose request", "lose answer", "hold request"])
@pytest.mark.parametrize(
    "api",
    [Api.ADD_PARTITIONS_TO_TXN, Api.PRODUCE, Api.ADD_OFFSETS_TO_TXN, Api.TXN_OFFSET_COMMIT, Api.END_TXN],
    ids=lambda api: api.name.lower(),
)
def test_whatever_is_lost_or_held_up_each_answer_is_there_once(line: Line, api: Api, what: Any) -> None:
    ledger = Ledger(LedgerCore(["out"], exact=[line.at.topic]))
    answers = Answers(ledger, line.writer, line.config.reader, [line.at.topic], "test")
    until(fenced(answers), "the name is taken over")
    answers.begins(line.at, None)
    ledger.begin(line.at, 0, Resume())
    answers.start()

    def answer(begin: int, end: int) -> None:
        ledger.register(line.at, begin, end, 0)
        receipt = Receipt("flow", *line.at, begin, end)
        answers.hand("out", line.topic, receipt, [Outgoing(b"k", b"%d" % n) for n in range(begin, end)])
        answers.flush(30)

    try:
        answer(0, 3)
        until(lambda: ledger.standing()[line.at].safe == 3, "it works")
        rule = line.proxy.rule(Rule(api, what, hold_s=1.0))
        answer(3, 6)
        assert rule.done.wait(20)
        until(lambda: ledger.standing()[line.at].safe == 6, "it has found out", within_s=40)
        for begin in range(6, 20, 2):
            answer(begin, begin + 2)
        until(lambda: ledger.standing()[line.at].safe == 20, "it works again")
        assert answers.failure is None
    finally:
        answers.abandon()
    assert line.values() == list(range(20))


def fenced(answers: Answers) -> Callable[[], bool]:
    def attempt() -> bool:
        answers.fence()
        return True

    return attempt
