"""What the inbox must do, over the log in memory and on the real broker through either library."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from kafka import KafkaProducer

from deploy.broker import Broker
from edge_filters.io.inbox import LogInbox
from edge_filters.io.kafka import KafkaInbox
from edge_filters.outgoing import pack_claim
from edge_filters.ports import Feedback
from schemas import topics
from schemas.artifacts import chunk_key, cut
from schemas.codec import encode
from schemas.records import ArtifactChunk, ClaimKind, DeviceClaim, ModelUpdate, ThresholdUpdate
from schemas.topics import CATALOGUE, Topic
from tests.doubles.edge_parts import model_update, thresholds
from tests.doubles.log import MemoryFeedbackLog, MemoryLog
from tests.wait import until

Publish = Callable[[Any], None]


class InMemory:
    """The double, with the calls of `OnBroker`."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        for topic in CATALOGUE:
            self.log.create(topic.name, topic.partitions)
        self.stop, self.start = self.log.stop, self.log.start

    def inbox(self, devices: Sequence[str] = ()) -> LogInbox:
        def opened() -> MemoryFeedbackLog:
            self.log.parts(())  # raises while the log is away
            return MemoryFeedbackLog(self.log, None, True)

        return LogInbox(opened, "the log in memory", devices=devices)

    def send(self, topic: Topic, value: bytes | None, key: bytes) -> None:
        self.log.write(topic.name, value, key)

    def close(self) -> None:
        pass


class OnBroker:
    """The real broker, read through one library; always written to through kafka-python."""

    def __init__(self, broker: Broker, prefix: str, kind: Callable[..., LogInbox]) -> None:
        self._broker, self._prefix, self._kind = broker, prefix, kind
        self._producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
        self.stop, self.start = broker.kill, broker.start

    def inbox(self, devices: Sequence[str] = ()) -> LogInbox:
        return self._kind(self._broker.bootstrap_servers, self._prefix, devices=devices)

    def send(self, topic: Topic, value: bytes | None, key: bytes) -> None:
        self._producer.send(topic.named(self._prefix), value=value, key=key).get(20)

    def close(self) -> None:
        self._broker.start()
        self._producer.close()


World = InMemory | OnBroker


@pytest.fixture(
    params=[
        "memory",
        pytest.param("kafka-python", marks=pytest.mark.kafka),
        pytest.param("confluent", marks=pytest.mark.kafka),
    ]
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "memory":
        made: World = InMemory()
    else:
        kind: Callable[..., LogInbox] = KafkaInbox
        if request.param == "confluent":
            from edge_filters.io.confluent import ConfluentInbox

            kind = ConfluentInbox
        made = OnBroker(request.getfixturevalue("broker"), request.getfixturevalue("catalogue"), kind)
    yield made
    made.close()


@pytest.fixture
def publish(world: World) -> Publish:
    """Publishes a feedback record, or a raw value for feedback.thresholds, and waits for its acknowledgement."""

    def send(record: Any) -> None:
        if isinstance(record, ThresholdUpdate):
            topic, key = topics.THRESHOLDS, record.target.encode()
        elif isinstance(record, ModelUpdate):
            topic, key = topics.MODELS, record.model_name.encode()
        elif isinstance(record, ArtifactChunk):
            topic, key = topics.ARTIFACTS, chunk_key(record)
        else:
            world.send(topics.THRESHOLDS, record, b"raw")
            return
        world.send(topic, encode(record), key)

    return send


@pytest.fixture
def inbox(world: World) -> Iterator[LogInbox]:
    made = world.inbox()
    yield made
    made.close()


def ready(inbox: LogInbox) -> list[Feedback | str]:
    until(lambda: inbox.ready, "the inbox has read what was there", within_s=60)
    return inbox.poll()


def next_of(inbox: LogInbox, count: int) -> list[Feedback | str]:
    found: list[Feedback | str] = []
    until(lambda: found.extend(inbox.poll()) or len(found) >= count, f"{count} messages", within_s=60)  # type: ignore[func-returns-value]
    return found


def test_with_nothing_there_it_is_ready_with_nothing(publish: Publish, inbox: LogInbox) -> None:
    assert ready(inbox) == []


def test_of_what_was_there_only_the_latest_word_on_each_key_is_given_out(publish: Publish, world: World) -> None:
    for version in range(1, 6):
        publish(thresholds(version=version))
        publish(thresholds(target="pump-8", version=version))
    inbox = world.inbox()
    try:
        found = ready(inbox)
        assert sorted(found, key=lambda u: u.target) == [  # type: ignore[union-attr]
            thresholds(version=5),
            thresholds(target="pump-8", version=5),
        ]
    finally:
        inbox.close()


def test_afterwards_every_message_comes_in_order(publish: Publish, inbox: LogInbox) -> None:
    ready(inbox)
    for version in range(1, 6):
        publish(thresholds(version=version))
    update, _ = model_update()
    publish(update)
    found = next_of(inbox, 6)
    assert [u.version for u in found if isinstance(u, ThresholdUpdate)] == [1, 2, 3, 4, 5]
    assert update in found


def test_chunks_are_given_out_only_of_wanted_files_however_long_ago_they_were_sent(
    publish: Publish, inbox: LogInbox
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


def test_a_file_larger_than_the_queue_comes_through_while_it_is_taken_out(publish: Publish, inbox: LogInbox) -> None:
    chunks = cut(bytes(12 * 512 * 1024))
    for chunk in chunks:
        publish(chunk)
    ready(inbox)
    inbox.want({chunks[0].sha256})
    assert next_of(inbox, 12) == chunks


def test_a_file_that_is_given_up_in_the_middle_does_not_stand_in_the_way_of_the_next(
    publish: Publish, inbox: LogInbox
) -> None:
    small = cut(b"s" * 1000)
    for n in range(120):  # more than one poll takes, so that some of a fetch is left over
        publish(cut(b"%d" % n * 100)[0])
    publish(small[0])
    ready(inbox)
    inbox.want({cut(b"0" * 100)[0].sha256})
    next_of(inbox, 1)
    inbox.want(())
    for version in range(1, 4):
        publish(thresholds(version=version))
        next_of(inbox, 1)
    inbox.want({small[0].sha256})
    assert next_of(inbox, 1) == small


def test_a_record_that_cannot_be_read_is_a_sentence_and_what_follows_is_given_out(
    publish: Publish, inbox: LogInbox
) -> None:
    ready(inbox)
    publish(b"\xc3\x01garbage!")
    publish(thresholds())
    sentence, update = next_of(inbox, 2)
    assert str(sentence).startswith(
        "a record of feedback.thresholds at offset 0 cannot be read and is passed over: unknown schema fingerprint"
    )
    assert update == thresholds()


def test_a_tombstone_is_nothing(publish: Publish, inbox: LogInbox) -> None:
    ready(inbox)
    publish(None)
    publish(thresholds())
    assert next_of(inbox, 1) == [thresholds()]


def test_a_broker_that_is_down_at_the_start_and_goes_away_later_only_delays(publish: Publish, world: World) -> None:
    publish(thresholds(version=1))
    world.stop()
    inbox = world.inbox()
    try:
        assert inbox.poll() == []
        assert not inbox.ready
        world.start()
        assert ready(inbox) == [thresholds(version=1)]
        world.stop()
        world.start()
        publish(thresholds(version=2))
        assert next_of(inbox, 1)[-1] == thresholds(version=2)
    finally:
        inbox.close()


def test_a_topic_that_is_missing_is_named(world: World) -> None:
    if isinstance(world, InMemory):
        world.log = MemoryLog()
    else:
        world._prefix = "nobody."
    inbox = world.inbox()
    try:
        until(lambda: "has no topic" in inbox.problem, "a sentence that names the topic")
        assert inbox.problem.endswith("feedback.thresholds; `tidegate up` makes the topics")
        assert not inbox.ready
    finally:
        inbox.close()


def claim(device: str, epoch: int, kind: ClaimKind = ClaimKind.CLAIM) -> DeviceClaim:
    return DeviceClaim(device_id=device, epoch=epoch, instance="i", edge_id="e", kind=kind, at=epoch)


def test_claims_on_ones_own_devices_are_heard_in_order_and_no_others(world: World) -> None:
    def send(made: DeviceClaim) -> None:
        parcel = pack_claim(made)
        world.send(topics.CLAIMS, parcel.payload, parcel.key)

    for epoch in (1, 2):
        send(claim("pump-7", epoch))
        send(claim("pump-8", epoch))
    send(claim("pump-7", 2, ClaimKind.KNOCK))
    inbox = world.inbox(["pump-7"])
    try:
        assert ready(inbox) == [claim("pump-7", 2), claim("pump-7", 2, ClaimKind.KNOCK)]
        assert inbox.hears_claims
        for epoch in (3, 4):
            send(claim("pump-70", epoch))
            send(claim("pump-7", epoch))
        assert next_of(inbox, 2) == [claim("pump-7", 3), claim("pump-7", 4)]
    finally:
        inbox.close()


def test_who_acts_for_no_device_hears_no_claims(world: World) -> None:
    world.send(topics.CLAIMS, pack_claim(claim("pump-7", 1)).payload, b"pump-7")
    inbox = world.inbox()
    try:
        assert ready(inbox) == []
        assert not inbox.hears_claims
    finally:
        inbox.close()


def test_a_broker_without_the_topic_for_claims_is_no_reason_to_be_deaf() -> None:
    made = InMemory()
    made.log = MemoryLog()
    for topic in CATALOGUE:
        if topic is not topics.CLAIMS:
            made.log.create(topic.name, topic.partitions)
    made.send(topics.THRESHOLDS, encode(thresholds()), b"pump-7")
    inbox = made.inbox(["pump-7"])
    try:
        sentence, update = ready(inbox)
        assert "has no topic edge.claims" in str(sentence)
        assert (update, inbox.hears_claims) == (thresholds(), False)
    finally:
        inbox.close()
