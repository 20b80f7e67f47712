"""What the inbox must do, on the real broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka import KafkaProducer

from deploy.broker import Broker
from edge_filters.io.kafka import KafkaInbox
from edge_filters.ports import Feedback
from schemas import topics
from schemas.artifacts import chunk_key, cut
from schemas.codec import encode
from schemas.records import ArtifactChunk, ModelUpdate, ThresholdUpdate
from tests.doubles.edge_parts import model_update, thresholds
from tests.wait import until

pytestmark = pytest.mark.kafka

Publish = Callable[[Any], None]


@pytest.fixture
def publish(broker: Broker, catalogue: str) -> Iterator[Publish]:
    """Publishes a feedback record, or a raw value for feedback.thresholds, and waits for its acknowledgement."""
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)

    def send(record: Any) -> None:
        if isinstance(record, ThresholdUpdate):
            topic, key = topics.THRESHOLDS, record.target.encode()
        elif isinstance(record, ModelUpdate):
            topic, key = topics.MODELS, record.model_name.encode()
        elif isinstance(record, ArtifactChunk):
            topic, key = topics.ARTIFACTS, chunk_key(record)
        else:
            producer.send(topics.THRESHOLDS.named(catalogue), value=record, key=b"raw").get(10)
            return
        producer.send(topic.named(catalogue), value=encode(record), key=key).get(10)

    yield send
    producer.close()


@pytest.fixture
def inbox(broker: Broker, catalogue: str) -> Iterator[KafkaInbox]:
    made = KafkaInbox(broker.bootstrap_servers, catalogue)
    yield made
    made.close()


def ready(inbox: KafkaInbox) -> list[Feedback | str]:
    until(lambda: inbox.ready, "the inbox has read what was there")
    return inbox.poll()


def next_of(inbox: KafkaInbox, count: int) -> list[Feedback | str]:
    found: list[Feedback | str] = []
    until(lambda: found.extend(inbox.poll()) or len(found) >= count, f"{count} messages")  # type: ignore[func-returns-value]
    return found


def test_with_nothing_there_it_is_ready_with_nothing(publish: Publish, inbox: KafkaInbox) -> None:
    assert ready(inbox) == []


def test_of_what_was_there_only_the_latest_word_on_each_key_is_given_out(
    publish: Publish, broker: Broker, catalogue: str
) -> None:
    for version in range(1, 6):
        publish(thresholds(version=version))
        publish(thresholds(target="pump-8", version=version))
    inbox = KafkaInbox(broker.bootstrap_servers, catalogue)
    try:
        found = ready(inbox)
        assert sorted(found, key=lambda u: u.target) == [  # type: ignore[union-attr]
            thresholds(version=5),
            thresholds(target="pump-8", version=5),
        ]
    finally:
        inbox.close()


def test_afterwards_every_message_comes_in_order(publish: Publish, inbox: KafkaInbox) -> None:
    ready(inbox)
    for version in range(1, 6):
        publish(thresholds(version=version))
    update, _ = model_update()
    publish(update)
    found = next_of(inbox, 6)
    assert [u.version for u in found if isinstance(u, ThresholdUpdate)] == [1, 2, 3, 4, 5]
    assert update in found


def test_chunks_are_given_out_only_of_wanted_files_however_long_ago_they_were_sent(
    publish: Publish, inbox: KafkaInbox
) -> None:
    wanted, other = cut(b"w" * 1_500_000), cut(b"o" * 1_500_000)
    for chunk in [*other, *wanted]:
        publish(chunk)
    assert ready(inbox) == []
    inbox.want({wanted[0].sha256})
    assert next_of(inbox, 3) == wanted
    inbox.want(())
    publish(thresholds())
    assert next_of(inbox, 1) == [thresholds()]


def test_a_file_larger_than_the_queue_comes_through_while_it_is_taken_out(publish: Publish, inbox: KafkaInbox) -> None:
    chunks = cut(bytes(12 * 512 * 1024))
    for chunk in chunks:
        publish(chunk)
    ready(inbox)
    inbox.want({chunks[0].sha256})
    assert next_of(inbox, 12) == chunks


def test_a_record_that_cannot_be_read_is_a_sentence_and_what_follows_is_given_out(
    publish: Publish, inbox: KafkaInbox
) -> None:
    ready(inbox)
    publish(b"\xc3\x01garbage!")
    publish(thresholds())
    sentence, update = next_of(inbox, 2)
    assert str(sentence).startswith(
        "a record of feedback.thresholds at offset 0 cannot be read and is passed over: unknown schema fingerprint"
    )
    assert update == thresholds()


def test_a_tombstone_is_nothing(publish: Publish, inbox: KafkaInbox) -> None:
    ready(inbox)
    publish(None)
    publish(thresholds())
    assert next_of(inbox, 1) == [thresholds()]


def test_a_broker_that_is_down_at_the_start_and_goes_away_later_only_delays(
    publish: Publish, broker: Broker, catalogue: str
) -> None:
    publish(thresholds(version=1))
    broker.stop()
    inbox = KafkaInbox(broker.bootstrap_servers, catalogue)
    try:
        assert inbox.poll() == []
        assert not inbox.ready
        broker.start()
        assert ready(inbox) == [thresholds(version=1)]
        broker.kill()
        broker.start()
        publish(thresholds(version=2))
        assert next_of(inbox, 1)[-1] == thresholds(version=2)
    finally:
        inbox.close()
