"""What the dedupe knows survives a restart: pages in a log, and laws over restarts at any moment."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dedupe import Dedupe, Last, Seen
from pipelines.io import memory
from pipelines.io.chunk import Resume
from pipelines.io.feed import Feed
from pipelines.io.feed_config import FeedConfig, Start
from pipelines.io.loop import safe_below
from pipelines.io.memory import Keeper, Remembered, entries, gathered, key_of, load, pages
from pipelines.io.partition import Partition
from schemas.codec import decode, encode
from schemas.errors import DecodeError
from schemas.ids import Identity
from schemas.records import SeenPage
from tests.doubles.log import MemoryLog
from tests.wait import until

HERE = Partition("edge.events", 1)
names = st.from_regex(r"[a-z]{1,6}", fullmatch=True)
lasts = st.builds(Last, *[st.integers(0, 2**62)] * 3, st.integers(0, 2**32 - 1))


class MemoryProducer:
    """A kafka-python producer over a log in memory; fails as long as the test says so."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log

    def send(self, topic: str, value: bytes, key: bytes) -> Future[int]:
        done: Future[int] = Future()
        done.set_result(self.log.write(topic, value, key))
        return done

    def close(self, timeout: float) -> None:
        pass


@given(st.dictionaries(names, lasts, max_size=30), st.integers(1, 5))
def test_devices_come_back_from_their_pages(devices: dict[str, Last], per_page: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "PER_PAGE", per_page)
        made = [decode(encode(page), SeenPage) for page in pages("g", HERE, 9, devices)]
    assert len({key_of(page) for page in made}) == len(made) == max(1, -(-len(devices) // per_page))
    assert gathered(made) == {HERE: Remembered(9, devices)}


def test_fewer_pages_than_before_leave_nothing_of_the_old_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PER_PAGE", 1)
    many = pages("g", HERE, 5, {name: Last(1, 1, 1, 1) for name in "abc"})
    few = pages("g", HERE, 8, {"a": Last(1, 2, 6, 1)})
    latest = {key_of(page): page for page in [*many, *few]}
    assert gathered([*(p for p in latest.values() if p.pages == 3), *few]) == {
        HERE: Remembered(8, {"a": Last(1, 2, 6, 1)})
    }


def test_a_partition_with_a_page_missing_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PER_PAGE", 1)
    assert gathered(pages("g", HERE, 5, {name: Last(1, 1, 1, 1) for name in "abc"})[1:]) == {}


@given(st.binary(max_size=80))
def test_any_bytes_are_a_page_or_raise_decode_error(data: bytes) -> None:
    page = SeenPage(group="g", source="t", partition=0, page=0, pages=1, as_of=1, devices=data)
    with contextlib.suppress(DecodeError):
        list(entries(page))


def answered(at: int, live: int, safe: int) -> dict[Partition, int]:
    """As the source tells it."""
    return safe_below({HERE: safe}, {HERE: Start(0, live, Resume())}, {HERE: at})


class Run:
    """One life of a pipeline over one partition: what it answers, what it keeps, and where it commits."""

    def __init__(self, log: list[tuple[Identity, bytes]], kept: dict[bytes, bytes], committed: int | None) -> None:
        self.log, self.kept, self.answered = log, kept, []
        found = gathered(decode(value, SeenPage) for value in kept.values())
        if committed is None:
            start = None
            self.at = self.live = 0
        else:
            feed = Feed(FeedConfig(topics=("t",), bootstrap_servers="", group_id="g", warm_up_records=2_000))
            start = feed._start(0, committed, Resume(committed), found.get(HERE))
            self.at, self.live = start.offset, start.live_from
        self.dedupe = Dedupe()
        self.dedupe.from_the_beginning = start is None or start.whole
        self.now_s = 0.0
        self.keeper = Keeper("g", "seen", lambda: None, lambda: self.now_s)
        self.keeper._start = lambda: None  # type: ignore[method-assign]  # pages are taken from it by hand
        for device, last in start.known.items() if start else ():
            self.dedupe.learn(HERE.topic, device, last)
        self.keeper.knew(HERE, start.known if start else {})

    def read(self, count: int) -> None:
        for identity, payload in self.log[self.at : self.at + count]:
            seen = self.dedupe.see(HERE.topic, identity, payload, self.at)
            if seen is Seen.NEW:
                self.keeper.saw(HERE, {identity.device_id})
                if self.at >= self.live:
                    self.answered.append((self.at, identity))
            else:
                assert seen in (Seen.RESENT, Seen.FORGOTTEN)
            self.at += 1

    def keep(self, safe: int) -> None:
        self.now_s += 1000.0
        self.keeper.turn(self.dedupe, lambda: answered(self.at, self.live, safe))
        self.kept |= self.keeper._waiting


@given(st.data())
def test_whatever_is_sent_again_after_any_restarts_is_answered_once(data: st.DataObject) -> None:
    """Devices of one life each send, and send again from any point; the pipeline dies and starts again at any time."""
    count, devices = data.draw(st.integers(1, 40)), "abcde"
    log: list[tuple[Identity, bytes]] = []
    sent = dict.fromkeys(devices, 0)
    for _ in range(count):
        device = data.draw(st.sampled_from(devices))
        back = data.draw(st.integers(0, 6)) if data.draw(st.booleans()) else 0
        begin = max(0, sent[device] - back)
        sent[device] += 1
        log += [(Identity(device, 1, seq), b"%d" % seq) for seq in range(begin, sent[device])]
    kept: dict[bytes, bytes] = {}
    committed: int | None = None
    answered: list[tuple[int, Identity]] = []  # what a reader sees: what was answered and committed
    for _ in range(data.draw(st.integers(0, 5))):
        run = Run(log, kept, committed)
        for _ in range(data.draw(st.integers(0, 6))):
            run.read(data.draw(st.integers(0, 15)))
            safe = data.draw(st.integers(run.live, max(run.live, run.at)))
            committed = safe if committed is None else max(committed, safe)
            run.keep(committed)
        answered += [one for one in run.answered if one[0] < (committed or 0)]
    last = Run(log, kept, committed)
    last.read(len(log))
    answered += last.answered
    found = [identity for _, identity in answered]
    assert sorted(found) == sorted(set(found)) == sorted({identity for identity, _ in log})


def test_what_is_kept_is_read_back_from_the_log_and_a_broker_that_is_away_only_delays_it() -> None:
    log = MemoryLog()
    log.create("seen")
    away = [True]

    def opened() -> Any:
        if away:
            away.pop()
            raise OSError("not yet")
        return MemoryProducer(log)

    now_s = [0.0]
    keeper = Keeper("g", "seen", opened, lambda: now_s[0])
    dedupe = Dedupe()
    try:
        for n in range(3):
            dedupe.see(HERE.topic, Identity("pump-7", 4, n), b"%d" % n, n)
            keeper.saw(HERE, {"pump-7"})

        def read_back() -> dict[Partition, Remembered]:
            now_s[0] += 100.0
            keeper.turn(dedupe, lambda: {HERE: 2})  # the newest one is not answered yet
            return load(log.reader(), "seen", "g")

        found = until(read_back, "a page")
        assert found == {HERE: Remembered(2, {"pump-7": dedupe.last_below(HERE.topic, "pump-7", 2)})}
        assert load(log.reader(), "seen", "another-group") == load(log.reader(), "no-such-topic", "g") == {}
        log.write("seen", b"damaged", b"g/edge.events/1/0")
        assert load(log.reader(), "seen", "g") == {}
    finally:
        keeper.close()
