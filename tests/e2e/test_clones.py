"""Clones on a broker that has no topic for claims, so that no lease keeps them apart: the pipeline tells them apart."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition

from deploy.broker import Broker
from deploy.cluster import Cluster
from schemas import topics
from schemas.codec import decode
from schemas.records import Decision, EdgeEvent, Failure
from tests.e2e.test_lease import Edge, values
from tests.e2e.test_pipeline_prism import Live
from tests.wait import until

pytestmark = [pytest.mark.kafka, pytest.mark.prism]


@pytest.fixture
def live(broker: Broker, catalogue: str, prism: Path, tmp_path: Path) -> Iterator[Live]:
    with Cluster(broker.bootstrap_servers) as cluster:
        cluster.delete([topics.CLAIMS.named(catalogue)])
    running = Live(broker, catalogue, prism, tmp_path / "pipeline.log")
    yield running
    running.producer.close()
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait()


def events(broker: Broker, prefix: str) -> list[EdgeEvent]:
    return [decode(value, EdgeEvent) for value in values(broker, prefix, topics.EVENTS)]


def test_of_a_copied_and_a_set_back_state_every_record_is_answered_or_put_away_and_no_identity_twice(
    live: Live, broker: Broker, catalogue: str, tmp_path: Path
) -> None:
    first, clone = (
        Edge(tmp_path / "first", broker, catalogue, "confluent"),
        Edge(tmp_path / "clone", broker, catalogue, "confluent"),
    )
    try:
        first.start()
        until(lambda: events(broker, catalogue), "events of the first")
        shutil.copytree(first.folder / "state", clone.folder / "state", ignore=shutil.ignore_patterns("spool"))
        shutil.copytree(clone.folder / "state", tmp_path / "old")
        epoch = events(broker, catalogue)[0].boot_epoch
        clone.start()
        until(lambda: Counter(e.boot_epoch for e in events(broker, catalogue))[epoch + 1] > 3, "events of the clone")
        seen = len(events(broker, catalogue))
        until(lambda: any(e.boot_epoch == epoch for e in events(broker, catalogue)[seen:]), "the first goes on")
        clone.kill()
        shutil.rmtree(clone.folder / "state")
        (tmp_path / "old").rename(clone.folder / "state")  # set back: its next start takes the same epoch again
        seen = len(events(broker, catalogue))
        clone.start()
        until(lambda: Counter(e.boot_epoch for e in events(broker, catalogue)[seen:])[epoch + 1] > 3, "it starts anew")
        assert "has no topic" in first.said()
        assert "two processes with one device id would not find each other" in first.said()
    finally:
        first.kill()
        clone.kill()

    sent = events(broker, catalogue)
    answers = until(lambda: _answers(broker, catalogue, len(sent)), "an answer to each record", within_s=90)
    decisions = [a.identity.event_id for a in answers if isinstance(a, Decision)]
    letters = [a for a in answers if isinstance(a, Failure)]
    assert len(decisions) == len(set(decisions))
    assert len(decisions) + len(letters) == len(sent)
    assert {letter.reason for letter in letters} == {"Diverged", "IdentityTaken"}
    assert live.stop() == 0
    put_away = {decode(letter.payload, EdgeEvent).identity.event_id for letter in letters}
    assert set(decisions) | put_away == {event.identity.event_id for event in sent}


def _answers(broker: Broker, prefix: str, enough: int) -> list[Decision | Failure] | None:
    """All decisions and dead letters of events that are committed, once there are as many as events."""
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, isolation_level="read_committed")
    found: list[Decision | Failure] = []
    try:
        for topic in (topics.DECISIONS, topics.DEAD_LETTERS):
            places = [TopicPartition(topic.named(prefix), number) for number in range(topic.partitions)]
            consumer.assign(places)
            consumer.seek_to_beginning(*places)
            ends = consumer.end_offsets(places)
            while any(consumer.position(place) < ends[place] for place in places):
                for messages in consumer.poll(timeout_ms=200).values():
                    found += [decode(message.value, topic.record) for message in messages]
    finally:
        consumer.close()
    source = topics.EVENTS.named(prefix)
    found = [answer for answer in found if isinstance(answer, Decision) or answer.source == source]
    return found if len(found) >= enough else None
