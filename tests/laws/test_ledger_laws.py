"""Laws of the commit ledger: whatever the order of answers and wherever the crash, nothing is lost or counted twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipelines.io.chunk import Receipt, Resume, WindowAck
from pipelines.io.commit_note import CommitNote
from pipelines.io.ledger import Commit, LedgerCore
from pipelines.io.partition import Partition

SIZE, LATENESS, DISORDER = 10, 15, 5


class World:
    """One source, one record lane `out`, one window lane `win`, an engine that forgets everything when it crashes."""

    def __init__(self, logs: list[list[int]]) -> None:
        self.logs = {Partition("t", n): log for n, log in enumerate(logs)}
        self.committed = {p: Commit(0, CommitNote(0)) for p in self.logs}
        self.answered: set[tuple[Partition, int]] = set()
        self.answers = 0
        self.final: dict[int, int] = {}
        self.too_late = 0
        self.start()

    def start(self) -> None:
        self.ledger = LedgerCore(["out"], {"win": LATENESS})
        self.resume = {p: c.note.resume(c.offset) for p, c in self.committed.items()}
        horizon = max(r.horizon_us("win") for r in self.resume.values())
        self.at = {p: (c.offset, horizon) for p, c in self.committed.items()}
        for p, commit in self.committed.items():
            self.ledger.begin(p, commit.offset, self.resume[p])
            self.ledger.watermark(p, horizon)
        self.to_answer: list[Any] = []
        self.to_contribute: list[Any] = []
        self.to_write: list[Any] = []
        self.sums: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
        self.fired: set[int] = set()

    def read(self, number: int, count: int) -> None:
        p = sorted(self.logs)[number % len(self.logs)]
        offset, watermark = self.at[p]
        end = min(len(self.logs[p]), offset + count)
        if end == offset:
            return
        chunk = (p, offset, end, watermark)
        self.ledger.register(p, offset, end, watermark)
        watermark = max(watermark, max(self.logs[p][offset:end]) - DISORDER)
        self.at[p] = end, watermark
        self.ledger.watermark(p, watermark)
        self.to_answer.append(chunk)
        self.to_contribute.append(chunk)

    def answer(self, which: int) -> None:
        if self.to_answer:
            p, begin, end, _ = self.to_answer.pop(which % len(self.to_answer))
            fresh = [(p, o) for o in range(begin, end) if o >= self.resume[p].position]
            self.answered |= set(fresh)
            self.answers += len(fresh)
            self.ledger.acknowledge("out", Receipt("f", *p, begin, end))

    def contribute(self, which: int) -> None:
        if not self.to_contribute:
            return
        p, begin, end, watermark = self.to_contribute.pop(which % len(self.to_contribute))
        counts: Counter[int] = Counter()
        first: dict[int, int] = {}
        horizon = self.resume[p].horizon_us("win")
        for offset in range(begin, end):
            window = self.logs[p][offset] // SIZE * SIZE + SIZE
            if window <= horizon and offset < self.resume[p].position:
                continue
            if window <= max(horizon, watermark - LATENESS):
                self.too_late += 1
                continue
            counts[window] += 1
            first.setdefault(window, offset)
        for window, n in counts.items():
            self.ledger.contribute("win", p, window, b"k", first[window])
            total, parts = self.sums[window]
            self.sums[window] = total + n, parts + 1
            if window in self.fired:
                self.fire(window)
        self.ledger.acknowledge("win", Receipt("f", *p, begin, end))

    def engine_watermark(self) -> int:
        return min([w for _, w in self.at.values()] + [w for _, _, _, w in self.to_contribute])

    def fire(self, window: int) -> None:
        self.fired.add(window)
        self.to_write.append((window, *self.sums[window]))

    def fire_due(self) -> None:
        for window in sorted(self.sums):
            if window not in self.fired and window <= self.engine_watermark():
                self.fire(window)

    def write(self) -> None:
        if self.to_write:
            window, total, parts = self.to_write.pop(0)
            self.final[window] = total
            self.ledger.written(WindowAck("f", "win", window, b"k", parts, cumulative=True))

    def commit(self) -> None:
        self.committed = self.ledger.commits()

    def crash_after_commit(self) -> None:
        self.commit()
        self.start()

    def settle(self) -> None:
        """Everything in flight arrives, and the windows that are due are written."""
        while self.to_contribute:
            self.contribute(0)
        while self.to_answer:
            self.answer(0)
        self.fire_due()
        while self.to_write:
            self.write()

    def finish(self) -> None:
        for number in range(len(self.logs)):
            self.read(number, 10_000)
        self.settle()
        for p, (offset, _) in self.at.items():
            self.at[p] = offset, 10**9
            self.ledger.watermark(p, 10**9)
        self.fire_due()
        while self.to_write:
            self.write()
        self.commit()


@st.composite
def logs(draw: st.DrawFn) -> list[list[int]]:
    """1 to 3 partitions whose event times go up, each at most DISORDER behind the newest before it."""
    out = []
    random = draw(st.randoms(use_true_random=False))
    for _ in range(draw(st.integers(1, 3))):
        clock, log = 0, []
        for _ in range(draw(st.integers(5, 40))):
            clock += random.randint(0, 12)
            log.append(max(0, clock - random.randint(0, DISORDER)))
        out.append(log)
    return out


NAMES = ["read", "answer", "contribute", "fire_due", "write", "commit", "start", "crash_after_commit", "settle"]


@st.composite
def scripts(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """A walk of 60 steps in which some kinds of step are common and some rare: that is where races are."""
    random = draw(st.randoms(use_true_random=False))
    weights = [1, *(random.choice([0.02, 0.2, 1]) for _ in NAMES[1:])]
    return [
        (name, random.randrange(3), random.randint(1, 9))
        if name == "read"
        else (name, random.randrange(10))
        if name in ("answer", "contribute")
        else (name,)
        for name in random.choices(NAMES, weights, k=60)
    ]


@given(logs(), scripts())
def test_wherever_it_crashes_every_record_is_answered_and_every_window_is_whole(
    log: list[list[int]], script: list[tuple[Any, ...]]
) -> None:
    world = World(log)
    for name, *args in script:
        getattr(world, name)(*args)
    world.finish()
    truth = Counter(at // SIZE * SIZE + SIZE for part in log for at in part)
    assert world.too_late == 0
    assert world.final == truth
    assert world.answered == {(p, o) for p, part in world.logs.items() for o in range(len(part))}
    assert {p: c.offset for p, c in world.committed.items()} == {p: len(part) for p, part in world.logs.items()}


@given(logs(), scripts())
def test_without_a_crash_every_record_is_answered_once(log: list[list[int]], script: list[tuple[Any, ...]]) -> None:
    world = World(log)
    for name, *args in script:
        if name not in ("start", "crash_after_commit"):
            getattr(world, name)(*args)
    world.finish()
    assert world.answers == sum(map(len, log))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.data())
def test_the_position_never_passes_a_range_that_a_branch_still_owes(sizes: list[int], data: st.DataObject) -> None:
    ledger = LedgerCore(["a", "b"])
    p = Partition("t", 0)
    ledger.begin(p, 0)
    owed: dict[tuple[str, int], Receipt] = {}
    at = 0
    for size in sizes:
        ledger.register(p, at, at + size, 0)
        for branch in "ab":
            owed[branch, at] = Receipt("f", "t", 0, at, at + size)
        at += size
    while owed:
        which = data.draw(st.sampled_from(sorted(owed)))
        ledger.acknowledge(which[0], owed.pop(which))
        oldest = min((begin for _, begin in owed), default=at)
        assert ledger.commits()[p] == Commit(oldest, CommitNote(oldest))
    assert ledger.in_flight() == 0


@given(st.integers(0, 2**62), st.dictionaries(st.text(max_size=20), st.integers(0, 2**60), max_size=4))
def test_a_commit_note_is_read_back_and_fits_the_broker(position: int, horizons: dict[str, int]) -> None:
    note = CommitNote(position, horizons)
    assert CommitNote.parse(str(note)) == note
    assert len(str(note)) < 4096
    assert note.resume(position).position == position
    assert isinstance(note.resume(position), Resume)
