"""The feed on a real broker: gaps, transactions, seeks, bounded memory, outages, partitions that appear later."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.structs import OffsetAndMetadata

from deploy.broker import Broker
from deploy.cluster import Cluster, TopicState
from pipelines.io import feed as feed_module
from pipelines.io.chunk import Record
from pipelines.io.commit_note import CommitNote
from pipelines.io.feed import Feed
from pipelines.io.feed_config import FeedConfig
from pipelines.io.partition import Partition
from pipelines.io.readahead import Taken
from schemas.errors import UnavailableError
from tests.wait import until

pytestmark = pytest.mark.kafka

ALL = 10**9


@pytest.fixture
def topic(broker: Broker) -> str:
    name = f"feed-{uuid.uuid4().hex[:8]}"
    with Cluster(broker.bootstrap_servers) as cluster:
        cluster.create([TopicState(name, 1)])
    return name


@pytest.fixture
def open_feed() -> Iterator[Callable[..., Feed]]:
    feeds = []

    def make(servers: str, *topics: str, **settings: Any) -> Feed:
        feeds.append(Feed(FeedConfig(topics=topics, bootstrap_servers=servers, silence_after_s=0.1, **settings)))
        feeds[-1].start()
        return feeds[-1]

    yield make
    for feed in feeds:
        feed.close()


def write(broker: Broker, topic: str, *values: bytes, **settings: Any) -> None:
    out = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, **settings)
    for value in values:
        out.send(topic, value)
    out.flush()
    out.close()


class Tick:
    """Takes as the source does: from where the last take ended."""

    def __init__(self, feed: Feed, partition: Partition) -> None:
        self.feed, self.partition, self.offset = feed, partition, -1
        self.records: list[Record] = []

    def __call__(self) -> Taken:
        if self.offset < 0:
            self.offset = until(self.feed.starts, "a start")[self.partition].offset
        taken = self.feed.take(self.partition, self.offset, ALL, ALL)
        self.offset = taken.end
        self.records += taken.records
        return taken

    def until_values(self, *values: bytes) -> None:
        until(lambda: self() and [r.value for r in self.records] == list(values), f"{len(values)} records")

    def until_silent(self) -> int:
        return until(lambda: self().nothing_unread_at_us, "the broker says that nothing is unread") or 0


def test_it_hands_out_in_order_and_tells_of_silence_afterwards(
    broker: Broker, topic: str, open_feed: Callable[..., Feed]
) -> None:
    write(broker, topic, b"a", b"b")
    before_us = time.time_ns() // 1000
    tick = Tick(open_feed(broker.bootstrap_servers, topic), Partition(topic, 0))
    tick.until_values(b"a", b"b")
    assert before_us < tick.until_silent() <= time.time_ns() // 1000


def test_a_tick_at_another_offset_makes_it_go_there(broker: Broker, topic: str, open_feed: Callable[..., Feed]) -> None:
    write(broker, topic, b"a", b"b", b"c")
    tick = Tick(open_feed(broker.bootstrap_servers, topic), Partition(topic, 0))
    tick.until_values(b"a", b"b", b"c")
    tick.offset = 1
    tick.until_values(b"a", b"b", b"c", b"b", b"c")


def test_deleted_records_are_named_and_skipped(
    broker: Broker, topic: str, open_feed: Callable[..., Feed], caplog: pytest.LogCaptureFixture
) -> None:
    write(broker, topic, *(b"%d" % n for n in range(10)))
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, group_id=topic)
    consumer.commit({TopicPartition(topic, 0): OffsetAndMetadata(2, str(CommitNote(2)), -1)})
    consumer.close()
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    admin.delete_records({TopicPartition(topic, 0): 7})
    admin.close()
    feed = open_feed(broker.bootstrap_servers, topic, group_id=topic)
    tick = Tick(feed, Partition(topic, 0))
    gaps = []
    until(lambda: gaps.append(tick()) or len(tick.records) == 3, "what is left")
    assert [(g.lost_from, g.end) for g in gaps if g.lost_from >= 0] == [(2, 7)]
    assert "5 offsets, 2 to 6, were deleted before they were read; their records are lost" in caplog.text


def test_an_open_transaction_is_not_silence(broker: Broker, topic: str, open_feed: Callable[..., Feed]) -> None:
    write(broker, topic, b"before")
    tick = Tick(open_feed(broker.bootstrap_servers, topic), Partition(topic, 0))
    tick.until_values(b"before")
    tick.until_silent()
    out = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, transactional_id=topic)
    out.init_transactions()
    out.begin_transaction()
    out.send(topic, b"inside").get(10)
    opened_us = time.time_ns() // 1000
    heard = []
    until(lambda: heard.append(tick()) or time.time_ns() // 1000 - opened_us > 800_000, "0.8 s pass")
    assert all((t.nothing_unread_at_us or 0) <= opened_us for t in heard)
    out.commit_transaction()
    tick.until_values(b"before", b"inside")
    assert tick.until_silent() > opened_us
    out.close()


def test_the_note_of_a_commit_comes_back_and_the_warm_up_lies_before_it(
    broker: Broker, topic: str, open_feed: Callable[..., Feed]
) -> None:
    write(broker, topic, *(b"%d" % n for n in range(10)))
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, group_id=topic)
    consumer.commit({TopicPartition(topic, 0): OffsetAndMetadata(6, str(CommitNote(8, {"win": 5})), -1)})
    consumer.close()
    feed = open_feed(broker.bootstrap_servers, topic, group_id=topic, warm_up_records=4)
    start = until(feed.starts, "a start")[Partition(topic, 0)]
    assert (start.offset, start.live_from) == (2, 6)
    assert (start.resume.position, start.resume.horizon_us("win")) == (8, 5)


def test_what_is_read_ahead_is_bounded(broker: Broker, topic: str, open_feed: Callable[..., Feed]) -> None:
    write(broker, topic, *[b"x" * 50_000] * 200)
    feed = open_feed(broker.bootstrap_servers, topic, buffer_bytes=1 << 20)
    tick = Tick(feed, Partition(topic, 0))
    until(feed.starts, "a start")
    buffer = until(lambda: feed._buffers.get(Partition(topic, 0)), "a buffer")
    until(lambda: buffer.paused, "the partition pauses")
    assert buffer.held_bytes < 4 << 20
    until(lambda: tick() and len(tick.records) == 200, "everything in the end")


def test_an_outage_is_told_once_and_is_never_silence(
    broker: Broker, topic: str, open_feed: Callable[..., Feed], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    write(broker, topic, b"a")
    tick = Tick(open_feed(broker.bootstrap_servers, topic, outage_grace_s=2.0), Partition(topic, 0))
    tick.until_values(b"a")
    tick.until_silent()
    broker.kill()
    down_us = time.time_ns() // 1000
    until(lambda: "waiting for Kafka" in caplog.text, "the sentence")
    assert (tick().nothing_unread_at_us or 0) <= down_us
    assert tick().settling
    broker.start()
    write(broker, topic, b"b")
    tick.until_values(b"a", b"b")
    assert tick().settling
    until(lambda: not tick().settling, "the grace time is over")
    assert caplog.text.count("waiting for Kafka") == 1
    assert "Kafka is back" in caplog.text


def test_a_broker_that_comes_late_is_waited_for(broker: Broker, topic: str, open_feed: Callable[..., Feed]) -> None:
    write(broker, topic, b"a")
    broker.stop()
    feed = open_feed(broker.bootstrap_servers, topic)
    assert feed.starts() == {}
    broker.start()
    Tick(feed, Partition(topic, 0)).until_values(b"a")


def test_a_start_deadline_ends_the_waiting_with_a_sentence(open_feed: Callable[..., Feed]) -> None:
    feed = open_feed("127.0.0.1:9", "t", start_deadline_s=0.5, client={"bootstrap_timeout_ms": 300})

    def failed() -> UnavailableError | None:
        try:
            feed.starts()
        except UnavailableError as error:
            return error
        return None

    error = until(failed, "the feed gives up")
    assert "found no way to start within 0.5 s" in str(error)
    assert "127.0.0.1:9" in str(error)


def test_partitions_that_appear_later_are_read_from_their_beginning(
    broker: Broker, topic: str, open_feed: Callable[..., Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "PARTITIONS_CHECK_S", 0.3)
    write(broker, topic, b"a")
    feed = open_feed(broker.bootstrap_servers, topic, client={"metadata_max_age_ms": 300})
    old = Tick(feed, Partition(topic, 0))
    old.until_values(b"a")
    with Cluster(broker.bootstrap_servers) as cluster:
        cluster.add_partitions(topic, 2)
    out = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    out.send(topic, b"new", partition=1).get(10)
    out.send(topic, b"b", partition=0).get(10)
    out.close()
    until(lambda: Partition(topic, 1) in feed.starts(), "the new partition")
    Tick(feed, Partition(topic, 1)).until_values(b"new")
    old.until_values(b"a", b"b")
