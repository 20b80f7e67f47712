"""What the source must find in a log, whichever it is: in memory, and on the real broker through either library."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from pipelines.io import feed as feed_module
from pipelines.io.chunk import Record
from pipelines.io.commit_note import CommitNote
from pipelines.io.feed import Feed
from pipelines.io.feed_config import FeedConfig
from pipelines.io.partition import Partition
from pipelines.io.readahead import Taken
from tests.doubles.worlds import InMemory, OnBroker, World
from tests.wait import until

ALL = 10**9


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
        made = OnBroker(request.getfixturevalue("broker"), request.param)
    yield made
    made.close()


@pytest.fixture
def topic(world: World) -> str:
    name = f"log-{uuid.uuid4().hex[:8]}"
    world.create(name)
    return name


@pytest.fixture
def open_feed(world: World) -> Iterator[Callable[..., Feed]]:
    feeds = []

    def make(*topics: str, **settings: Any) -> Feed:
        servers, library = ("-", "kafka-python") if isinstance(world, InMemory) else (world._servers, world._library)
        config = FeedConfig(
            topics=topics,
            bootstrap_servers=servers,
            library=library,  # type: ignore[arg-type]
            silence_after_s=0.1,
            **world.settings | settings,
        )
        feeds.append(world.feed(config))
        feeds[-1].start()
        return feeds[-1]

    yield make
    for feed in feeds:
        feed.close()


class Tick:
    """Takes as the source does: from where the last take ended."""

    def __init__(self, feed: Feed, topic: str, number: int = 0, most: int = ALL) -> None:
        self.feed, self.partition, self.offset, self.most = feed, Partition(topic, number), -1, most
        self.records: list[Record] = []
        self.lost: list[tuple[int, int]] = []

    def __call__(self) -> Taken:
        if self.offset < 0:
            self.offset = until(self.feed.starts, "a start")[self.partition].offset
        taken = self.feed.take(self.partition, self.offset, self.most, ALL)
        self.offset = taken.end
        self.records += taken.records
        if taken.lost_from >= 0:
            self.lost.append((taken.lost_from, taken.end))
        return taken

    def until_values(self, *values: bytes | None) -> None:
        until(lambda: self() and [r.value for r in self.records] == list(values), f"{len(values)} records")

    def until_silent(self) -> int:
        return until(lambda: self().nothing_unread_at_us, "the log says that nothing is unread") or 0


OpenFeed = Callable[..., Feed]


def test_records_come_whole_in_order_and_silence_is_told_afterwards(
    world: World, topic: str, open_feed: OpenFeed
) -> None:
    before_us = time.time_ns() // 1000
    for at, (value, key) in enumerate([(b"a", b"k"), (None, b"k"), (b"c", None)]):
        assert world.write(topic, value, key) == at
    tick = Tick(open_feed(topic), topic)
    tick.until_values(b"a", None, b"c")
    assert [(r.offset, r.key) for r in tick.records] == [(0, b"k"), (1, b"k"), (2, None)]
    assert all(before_us // 1000 <= r.append_time_ms <= time.time_ns() // 1_000_000 for r in tick.records)
    assert before_us < tick.until_silent() <= time.time_ns() // 1000


def test_what_a_tick_leaves_is_there_for_the_next_one(world: World, topic: str, open_feed: OpenFeed) -> None:
    values = [b"%d" % n for n in range(10)]
    for value in values:
        world.write(topic, value)
    tick = Tick(open_feed(topic), topic, most=3)
    tick.until_values(*values)
    assert [r.offset for r in tick.records] == list(range(10))


def test_a_tick_at_another_offset_makes_it_go_there(world: World, topic: str, open_feed: OpenFeed) -> None:
    for value in (b"a", b"b", b"c"):
        world.write(topic, value)
    tick = Tick(open_feed(topic), topic)
    tick.until_values(b"a", b"b", b"c")
    tick.offset = 1
    tick.until_values(b"a", b"b", b"c", b"b", b"c")
    world.write(topic, b"d")
    tick.until_values(b"a", b"b", b"c", b"b", b"c", b"d")


def test_deleted_records_are_named_and_skipped(
    world: World, topic: str, open_feed: OpenFeed, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(10):
        world.write(topic, b"%d" % n)
    world.commit(topic, Partition(topic, 0), 2, str(CommitNote(2)))
    world.delete_before(topic, 7)
    tick = Tick(open_feed(topic, group_id=topic), topic)
    tick.until_values(b"7", b"8", b"9")
    assert tick.lost == [(2, 7)]
    assert "5 offsets, 2 to 6, were deleted before they were read; their records are lost" in caplog.text
    assert tick.until_silent()


def test_gaps_of_a_compacted_log_are_no_loss_and_silence_is_told_behind_them(world: World, open_feed: OpenFeed) -> None:
    topic = f"log-{uuid.uuid4().hex[:8]}"
    world.create_compacted(topic)
    for n in range(6):
        world.write(topic, b"%d" % n, key=b"k%d" % (n % 2))
    world.compact(topic)
    tick = Tick(open_feed(topic), topic)
    until(lambda: tick() and tick.records and tick.records[-1].value == b"5", "the last record")
    offsets = [r.offset for r in tick.records]
    assert len(offsets) < 6
    assert offsets == sorted(offsets)
    assert all(r.value == b"%d" % r.offset for r in tick.records)
    assert tick.until_silent()
    assert tick.lost == []


def test_a_log_that_was_made_anew_is_read_from_its_beginning(world: World, topic: str, open_feed: OpenFeed) -> None:
    for n in range(5):
        world.write(topic, b"%d" % n)
    tick = Tick(open_feed(topic), topic)
    until(lambda: tick() and len(tick.records) == 5, "the old records")
    world.remake(topic)
    world.write(topic, b"new")
    until(lambda: tick() and tick.records[-1].value == b"new", "the new record", within_s=60)
    assert [r.offset for r in tick.records] == [0, 1, 2, 3, 4, 0]
    assert tick.lost == []


def test_an_open_transaction_is_not_silence(world: World, topic: str, open_feed: OpenFeed) -> None:
    world.write(topic, b"before")
    tick = Tick(open_feed(topic), topic)
    tick.until_values(b"before")
    tick.until_silent()
    commit = world.transaction(topic, b"inside")
    opened_us = time.time_ns() // 1000
    heard = []
    until(lambda: heard.append(tick()) or time.time_ns() // 1000 - opened_us > 800_000, "0.8 s pass")  # type: ignore[func-returns-value]
    assert all((t.nothing_unread_at_us or 0) <= opened_us for t in heard)
    commit()
    tick.until_values(b"before", b"inside")
    assert tick.until_silent() > opened_us


def test_the_note_of_a_commit_comes_back_and_the_warm_up_lies_before_it(
    world: World, topic: str, open_feed: OpenFeed
) -> None:
    for n in range(10):
        world.write(topic, b"%d" % n)
    world.commit(topic, Partition(topic, 0), 6, str(CommitNote(8, {"win": 5})))
    feed = open_feed(topic, group_id=topic, warm_up_records=4)
    start = until(feed.starts, "a start")[Partition(topic, 0)]
    assert (start.offset, start.live_from) == (2, 6)
    assert (start.resume.position, start.resume.horizon_us("win")) == (8, 5)
    Tick(feed, topic).until_values(*(b"%d" % n for n in range(2, 10)))


def test_what_is_read_ahead_is_bounded_and_everything_comes_in_the_end(
    world: World, topic: str, open_feed: OpenFeed
) -> None:
    for _ in range(12):
        world.write(topic, b"x" * 500_000)
    feed = open_feed(topic, buffer_bytes=1 << 20)
    until(feed.starts, "a start")
    buffer = until(lambda: feed._buffers.get(Partition(topic, 0)), "a buffer")
    until(lambda: buffer.paused or buffer.held_bytes >= 6_000_000, "the partition pauses")
    if not isinstance(world, InMemory):  # the double hands out all it has; a client reads ahead by itself
        assert buffer.held_bytes < 4 << 20
    tick = Tick(feed, topic)
    until(lambda: tick() and len(tick.records) == 12, "everything in the end")


def test_partitions_that_are_added_later_are_read_from_their_beginning(
    world: World, topic: str, open_feed: OpenFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "PARTITIONS_CHECK_S", 0.3)
    world.write(topic, b"a")
    feed = open_feed(topic)
    old = Tick(feed, topic)
    old.until_values(b"a")
    world.add_partitions(topic, 2)
    world.write(topic, b"new", partition=1)
    world.write(topic, b"b")
    until(lambda: Partition(topic, 1) in feed.starts(), "the new partition")
    Tick(feed, topic, 1).until_values(b"new")
    old.until_values(b"a", b"b")


def test_an_outage_is_told_once_is_never_silence_and_nothing_is_missing_after_it(
    world: World, topic: str, open_feed: OpenFeed, caplog: pytest.LogCaptureFixture
) -> None:
    world.write(topic, b"a")
    tick = Tick(open_feed(topic, outage_grace_s=2.0), topic)
    tick.until_values(b"a")
    tick.until_silent()
    world.stop()
    down_us = time.time_ns() // 1000
    until(lambda: "waiting for Kafka" in caplog.text, "the sentence")
    assert (tick().nothing_unread_at_us or 0) <= down_us
    assert tick().settling
    world.start()
    world.write(topic, b"b")
    tick.until_values(b"a", b"b")
    assert tick().settling
    until(lambda: not tick().settling, "the grace time is over")
    assert caplog.text.count("waiting for Kafka") == 1
    assert "Kafka is back" in caplog.text


def test_a_log_that_comes_late_is_waited_for(world: World, topic: str, open_feed: OpenFeed) -> None:
    world.write(topic, b"a")
    world.stop()
    feed = open_feed(topic)
    assert feed.starts() == {}
    world.start()
    Tick(feed, topic).until_values(b"a")


def test_a_reader_tells_the_ends_of_a_topic_that_it_has_not_heard_of_yet(world: World) -> None:
    known, new = (f"{name}-{uuid.uuid4().hex[:8]}" for name in ("known", "new"))
    world.create(known)
    reader = world.reader(known)
    try:
        assert reader.ends([Partition(known, 0)]) == {Partition(known, 0): 0}
        world.create(new)
        world.write(new, b"x")
        assert reader.ends([Partition(known, 0), Partition(new, 0)]) == {Partition(known, 0): 0, Partition(new, 0): 1}
    finally:
        reader.close()


def test_a_partition_that_was_paused_in_the_middle_of_a_fetch_is_read_on_once_it_is_resumed(world: World) -> None:
    topic = f"log-{uuid.uuid4().hex[:8]}"
    world.create(topic, 2)
    world.fill(topic, [b"%d" % n for n in range(100)], 2)
    reader = world.reader(topic)
    got = {Partition(topic, n): 0 for n in range(2)}

    def read() -> int:
        found = reader.read(0.05, 10)
        for partition, records, _ in found:
            got[partition] += len(records)
        return len(found)

    try:
        reader.assign(got)
        until(read, "a first record")
        begun = next(partition for partition, count in got.items() if count)
        (other,) = set(got) - {begun}
        reader.pause(begun)
        while got[other] < 100:
            until(read, "more of the other one")
        reader.resume(begun)
        while got[begun] < 100:
            until(read, "the rest of the first one")
    finally:
        reader.close()


@pytest.mark.parametrize("seed", range(3))
def test_however_it_is_sent_about_and_paused_records_come_in_order_from_where_it_was_sent(
    world: World, seed: int
) -> None:
    topic, random = f"log-{uuid.uuid4().hex[:8]}", Random(seed)
    world.create(topic, 3)
    world.fill(topic, [b"%d" % n for n in range(2000)], 3)
    partitions = [Partition(topic, n) for n in range(3)]
    next_one, paused = dict.fromkeys(partitions, 0), set()
    reader = world.reader(topic)
    try:
        assert reader.partitions(topic) == [0, 1, 2]
        assert reader.first(partitions) == dict.fromkeys(partitions, 0)
        assert reader.ends(partitions) == dict.fromkeys(partitions, 2000)
        reader.assign(next_one)
        for _ in range(60):
            for partition, records, size in reader.read(0.02, random.choice([1, 10, 500])):
                assert partition not in paused
                at = next_one[partition]
                assert [(r.offset, r.value) for r in records] == [(n, b"%d" % n) for n in range(at, at + len(records))]
                assert size == sum(len(r.value or b"") for r in records)
                next_one[partition] += len(records)
                assert reader.position(partition) == next_one[partition]
            partition, what = random.choice(partitions), random.random()
            if what < 0.3:
                next_one[partition] = random.randrange(2000)
                reader.seek(partition, next_one[partition])
                paused.discard(partition)
            elif what < 0.4:
                reader.pause(partition)
                paused.add(partition)
            elif what < 0.6:
                reader.resume(partition)
                paused.discard(partition)
        for partition in paused:
            reader.resume(partition)

        def everything() -> bool:
            for partition, records, _ in reader.read(0.05, 500):
                next_one[partition] += len(records)
            return set(next_one.values()) == {2000}

        until(everything, "the rest")
    finally:
        reader.close()
