"""What the feed does beside reading; tests/contracts/test_log.py holds it to the rest on every log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipelines.io.feed import Feed
from pipelines.io.feed_config import FeedConfig
from pipelines.io.partition import Partition
from pipelines.io.transport import LogAway
from schemas.errors import ConfigError, TidegateError, UnavailableError
from tests.doubles.log import MemoryLog
from tests.wait import until


@pytest.fixture
def open_feed() -> Iterator[Callable[..., Feed]]:
    feeds = []

    def make(servers: str, *topics: str, reader: Any = None, **settings: Any) -> Feed:
        config = FeedConfig(topics=topics, bootstrap_servers=servers, silence_after_s=0.1, **settings)
        feeds.append(Feed(config, reader))
        feeds[-1].start()
        return feeds[-1]

    yield make
    for feed in feeds:
        feed.close()


def failure_of(feed: Feed) -> TidegateError:
    """What the feed gives up with."""

    def failed() -> TidegateError | None:
        try:
            feed.starts()
        except TidegateError as error:
            return error
        return None

    error = until(failed, "the feed gives up")
    assert error is not None
    return error


@pytest.mark.parametrize("library", ["kafka-python", "confluent"])
def test_a_start_deadline_ends_the_waiting_with_a_sentence(open_feed: Callable[..., Feed], library: str) -> None:
    feed = open_feed("127.0.0.1:9", "t", start_deadline_s=0.5, client={"bootstrap_timeout_ms": 300}, library=library)
    error = failure_of(feed)
    assert isinstance(error, UnavailableError)
    assert "found no way to start within 0.5 s" in str(error)
    assert "127.0.0.1:9" in str(error)
    with pytest.raises(UnavailableError):
        feed.take(Partition("t", 0), 0, 1, 1)


def test_missing_topics_are_named_when_the_deadline_has_passed(open_feed: Callable[..., Feed]) -> None:
    log = MemoryLog()
    log.create("here")
    error = failure_of(open_feed("-", "here", "gone", reader=log.reader_for(None), start_deadline_s=0.2))
    assert "topics are missing: gone" in str(error)


def test_what_nobody_expected_ends_the_feed_with_its_name(open_feed: Callable[..., Feed]) -> None:
    def broken(*, read_committed: bool = True) -> Any:
        raise ZeroDivisionError("somewhere")

    error = failure_of(open_feed("-", "t", reader=broken))
    assert str(error) == "the Kafka feed failed: ZeroDivisionError: somewhere"


def test_a_jump_that_gets_no_answer_is_tried_again(open_feed: Callable[..., Feed]) -> None:
    log = MemoryLog()
    log.create("t")
    for n in range(6):
        log.write("t", b"%d" % n)
    asked = []

    def opened(*, read_committed: bool = True) -> Any:
        reader = log.reader(read_committed=read_committed)
        first = reader.first

        def sometimes(partitions: Any) -> Any:
            asked.append(partitions)
            if len(asked) in (2, 3):
                raise LogAway("not now")
            return first(partitions)

        reader.first = sometimes  # type: ignore[method-assign]
        return reader

    feed = open_feed("-", "t", reader=opened)
    partition = Partition("t", 0)
    until(lambda: len(feed.take(partition, 0, 100, 100_000).records) == 6, "the records")
    log.delete_before("t", 4)
    feed.take(partition, 1, 1, 1)  # a bundle that is tried again asks for what is gone by now
    found = []
    until(lambda: found.append(feed.take(partition, 1, 100, 100_000)) or found[-1].lost_from >= 0, "the gap")  # type: ignore[func-returns-value]
    assert (found[-1].lost_from, found[-1].end) == (1, 4)
    assert len(asked) == 4


def test_settings_that_the_source_decides_by_itself_are_refused() -> None:
    with pytest.raises(ConfigError, match="decides by itself"):
        FeedConfig(topics=("t",), bootstrap_servers="-", client={"group_id": "mine"})
