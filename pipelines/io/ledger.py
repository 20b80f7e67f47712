"""What may be committed: a pure ledger of what was handed out and what came back safe. No Kafka, no clock, no thread.

Two rules, and the lower of both wins in each partition:

* record lanes: the source registers each chunk's range with the branches that must answer for it; a range is done when
  every branch gave its receipt back (dropped and dead-lettered records included), and the position is the end of the
  unbroken run of done ranges;
* window lanes: a contribution holds its offset until its window is closed: the watermark of everything that was
  contributed has passed the window's end and its allowed lateness, and the sinks wrote as many contributions as were
  registered.

The closed horizon of a lane goes beside the offset, so that a run that starts there knows which windows not to open
again (`Resume` in chunk.py).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pipelines.io.chunk import Receipt, Resume, WindowAck
from pipelines.io.commit_note import CommitNote
from pipelines.io.partition import Partition
from schemas.errors import ConfigError, PipelineError


class Commit(NamedTuple):
    """An offset that is safe to start from, and the note that goes with it."""

    offset: int
    note: CommitNote


class Standing(NamedTuple):
    """Where a partition stands: read up to one offset, safe up to another, its watermark in us."""

    read: int
    safe: int
    watermark_us: int


@dataclass(slots=True)
class _Range:
    begin: int
    end: int
    watermark_us: int
    missing: set[str]


@dataclass(slots=True)
class _PartitionBook:
    """Ranges of one partition in order. `watermark_us` is the watermark after the last registered range.

    `settled`: up to where a transaction has written the answers, where it is transactions that commit.
    """

    position: int
    resume: Resume
    watermark_us: int = 0
    settled: int = 0
    ranges: deque[_Range] = field(default_factory=deque)
    by_begin: dict[int, _Range] = field(default_factory=dict)

    def settled_us(self, branch: str) -> int:
        """Watermark up to which this branch has answered everything."""
        return next((r.watermark_us for r in self.ranges if branch in r.missing), self.watermark_us)


@dataclass(slots=True)
class _Window:
    """Contributions to one window: how many were registered and written per key, and from which offsets."""

    registered: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    written: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    first: dict[Partition, int] = field(default_factory=dict)

    def complete(self) -> bool:
        return all(self.written[key] >= count for key, count in self.registered.items())


@dataclass(slots=True)
class _Lane:
    lateness_us: int
    horizon_us: int = 0
    windows: dict[int, _Window] = field(default_factory=dict)


class LedgerCore:
    """The two rules. Not thread-safe; `Ledger` in committer.py guards it.

    branches: names of the branches that answer for every chunk.
    lanes:    window lane -> its allowed lateness in us. A lane is a branch too: it answers for a chunk when it has
              registered the chunk's contributions.
    exact:    topics whose positions are committed by the transactions that write their answers. What a branch says of
              them means "handed over"; see Answers.
    """

    def __init__(
        self, branches: Iterable[str], lanes: Mapping[str, int] | None = None, exact: Iterable[str] = ()
    ) -> None:
        self._exact = frozenset(exact)
        self._confirmed: dict[str, int] = {}
        self._branches = frozenset(branches) | frozenset(lanes or {})
        self._lanes = {name: _Lane(lateness) for name, lateness in (lanes or {}).items()}
        self._books: dict[Partition, _PartitionBook] = {}
        if not self._branches:
            raise ConfigError("a commit ledger needs at least one branch that answers for what was read")

    # --- what the source says ---------------------------------------------------------------------------------------

    def begin(self, partition: Partition, offset: int, resume: Resume = Resume()) -> None:  # noqa: B008  # immutable
        """Reading of a partition starts at `offset`. A second beginning takes the place of the first."""
        self._books[partition] = _PartitionBook(offset, resume, settled=offset)
        for name, lane in self._lanes.items():
            lane.horizon_us = max(lane.horizon_us, resume.horizon_us(name))
            for window in lane.windows.values():
                window.first.pop(partition, None)

    def register(self, partition: Partition, begin: int, end: int, watermark_us: int) -> None:
        """A range was handed out; `watermark_us` is the watermark before it.

        A range that starts inside what was registered before (the runner tried a bundle again) takes its place and
        that of everything after it.

        Raises PipelineError: a range was left out, which would lose it.
        """
        book = self._book(partition)
        while book.ranges and book.ranges[-1].begin >= begin:
            book.by_begin.pop(book.ranges.pop().begin)
        expected = book.ranges[-1].end if book.ranges else book.position
        if begin > expected:
            raise PipelineError(
                "a range of offsets was never registered", partition=partition, want=expected, got=begin
            )
        entry = _Range(begin, end, watermark_us, set(self._branches))
        book.ranges.append(entry)
        book.by_begin[begin] = entry

    def watermark(self, partition: Partition, watermark_us: int) -> None:
        """The watermark of a partition after everything registered so far."""
        self._book(partition).watermark_us = watermark_us

    # --- what the sinks say -----------------------------------------------------------------------------------------

    def acknowledge(self, branch: str, receipt: Receipt) -> None:
        """A branch is done with a range. Saying it twice changes nothing. Raises PipelineError: unknown branch."""
        if branch not in self._branches:
            raise PipelineError("a branch answers that nobody waits for", branch=branch, known=sorted(self._branches))
        book = self._books.get(Partition(receipt.topic, receipt.partition))
        entry = book.by_begin.get(receipt.begin) if book is not None else None
        if book is None or entry is None or entry.end != receipt.end:
            return
        entry.missing.discard(branch)
        while book.ranges and not book.ranges[0].missing:
            done = book.ranges.popleft()
            del book.by_begin[done.begin]
            book.position = done.end

    def acknowledge_all(self, receipt: Receipt) -> None:
        """Every branch is done with a range: nothing in it was worth handing on."""
        for branch in self._branches:
            self.acknowledge(branch, receipt)

    def contribute(self, lane: str, partition: Partition, window_end_us: int, key: bytes, offset: int) -> None:
        """One contribution, first record at `offset`, goes into a window. Raises PipelineError: no such lane."""
        window = self._lane(lane).windows.setdefault(window_end_us, _Window())
        window.registered[key] += 1
        window.first[partition] = min(offset, window.first.get(partition, offset))

    def written(self, ack: WindowAck) -> None:
        """A sink has written contributions of a window. Raises PipelineError: no such lane."""
        window = self._lane(ack.lane).windows.get(ack.window_end_us)
        if window is None:
            return
        so_far = window.written[ack.key]
        window.written[ack.key] = max(so_far, ack.contributions) if ack.cumulative else so_far + ack.contributions

    # --- what may be committed --------------------------------------------------------------------------------------

    def commits(self) -> dict[Partition, Commit]:
        """For every partition the offset that is safe to start from, after closing what can be closed."""
        for name, lane in self._lanes.items():
            self._close(name, lane)
        horizons = {name: lane.horizon_us for name, lane in self._lanes.items()}
        out = {}
        for partition, book in self._books.items():
            if partition.topic in self._exact:
                continue
            held = [
                w.first[partition] for la in self._lanes.values() for w in la.windows.values() if partition in w.first
            ]
            offset = min([book.position, *held])
            position = max(book.position, book.resume.position)
            out[partition] = Commit(offset, CommitNote(position, horizons))
        return out

    def answered(self) -> dict[Partition, Commit]:
        """For every partition of the exact topics, up to where its answers were handed over, without a gap.

        The horizons beside it are those that are committed with the other partitions already: one that ran ahead of
        them would close windows which are open for those.
        """
        out = {}
        for partition, book in self._books.items():
            if partition.topic in self._exact:
                horizons = {**dict(book.resume.horizons), **self._confirmed}
                out[partition] = Commit(book.position, CommitNote(max(book.position, book.resume.position), horizons))
        return out

    def settled(self, offsets: Mapping[Partition, int]) -> None:
        """A transaction with these positions is committed."""
        for partition, offset in offsets.items():
            self._book(partition).settled = offset

    def confirmed(self, commits: Mapping[Partition, Commit]) -> None:
        """What commits() gave is committed."""
        for commit in commits.values():
            self._confirmed = dict(commit.note.horizons)

    def _close(self, name: str, lane: _Lane) -> None:
        settled_us = min((b.settled_us(name) for b in self._books.values()), default=0) - lane.lateness_us
        for end in [e for e, w in lane.windows.items() if e <= settled_us and w.complete()]:
            del lane.windows[end]
        open_us = min(lane.windows, default=None)
        lane.horizon_us = max(lane.horizon_us, settled_us if open_us is None else min(settled_us, open_us - 1))

    def in_flight(self) -> int:
        """How many handed-out ranges are not done (open windows are not counted)."""
        unwritten = sum(p.topic in self._exact and b.settled < b.position for p, b in self._books.items())
        return sum(len(b.ranges) for b in self._books.values()) + unwritten

    def standing(self) -> dict[Partition, Standing]:
        """Where every partition stands, without closing anything."""
        out = {}
        for partition, book in self._books.items():
            read = book.ranges[-1].end if book.ranges else book.position
            windows = [w.first for lane in self._lanes.values() for w in lane.windows.values()]
            done = book.settled if partition.topic in self._exact else book.position
            safe = min([done, *(first[partition] for first in windows if partition in first)])
            out[partition] = Standing(read, safe, book.watermark_us)
        return out

    def open_windows(self) -> dict[str, int]:
        """How many windows of each lane are open."""
        return {name: len(lane.windows) for name, lane in self._lanes.items()}

    def _book(self, partition: Partition) -> _PartitionBook:
        book = self._books.get(partition)
        if book is None:
            raise PipelineError("a partition that was never begun", partition=partition)
        return book

    def _lane(self, lane: str) -> _Lane:
        found = self._lanes.get(lane)
        if found is None:
            raise PipelineError("a window lane that the ledger does not know", lane=lane, known=sorted(self._lanes))
        return found
