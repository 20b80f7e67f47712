"""Decisions and dead letters, written together with the offsets of what they answer: one transaction after another.

The sinks hand their records over and go on; one thread per source takes whatever the ledger says is answered without a
gap, and writes records and positions in one transaction. While one is being written the next ones gather, so under
load a transaction spans many bundles. A reader of committed records sees an answer exactly when its event's position
has moved past it, whatever is killed when.

The name of the producer (its transactional id) belongs to the consumer group. Whoever opens it shuts out everybody who
had it before; only then are the committed offsets read, so what a zombie writes later can never land. After an outcome
that nobody knows the name is taken anew and the committed offsets are read again: they tell whether the transaction is
there. Where they stand at neither end of it, somebody else has been at work, and this process ends.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from pipelines.io.chunk import Outgoing, Receipt
from pipelines.io.commit_note import CommitNote
from pipelines.io.committer import Ledger
from pipelines.io.outcome import FENCED, Move
from pipelines.io.partition import Partition
from pipelines.io.trail import innocent
from pipelines.io.transport import ATTEMPT_S, Committed, LogAway, LogReader, Transactions, Trouble
from schemas.errors import PipelineError, TakenOver, TidegateError, UnavailableError
from schemas.failpoints import reach

log = logging.getLogger(__name__)

#: How often positions are committed that moved without an answer: duplicates were dropped.
IDLE_COMMIT_S = 0.2
#: How often positions are committed that have not moved: a broker forgets what nobody has committed for days, and then
#: the next start would answer everything again.
RENEW_S = 60.0
RETRY_S = 0.2
#: What may wait to be written before the sinks wait, too.
MAX_RECORDS = 20_000
MAX_BYTES = 32 << 20


@dataclass(slots=True)
class _Lot:
    """Records of one topic that answer for one range. `branch`: whom to tell afterwards, when positions do not."""

    topic: str
    receipt: Receipt
    records: Sequence[Outgoing]
    size: int
    branch: str | None = None


@dataclass(slots=True)
class _Transaction:
    records: dict[str, list[Outgoing]] = field(default_factory=lambda: defaultdict(list))
    offsets: dict[Partition, Committed] = field(default_factory=dict)
    lots: list[_Lot] = field(default_factory=list)


class Answers:
    """Takes answers from the sinks of a process and writes them. Thread-safe."""

    def __init__(
        self,
        ledger: Ledger,
        open_writer: Callable[[], Transactions],
        open_reader: Callable[[], LogReader],
        exact: Sequence[str],
        name: str,
    ) -> None:
        """`exact`: topics whose positions are committed here, and nowhere else. `name`: for the log and the thread.

        `open_writer` takes the transactional id over; `open_reader` is asked for committed offsets.
        """
        self._ledger, self._open_writer, self._open_reader = ledger, open_writer, open_reader
        self._exact = frozenset(exact)
        self._me, self._number = uuid.uuid4().hex[:12], 0
        self._changed = threading.Condition()
        self._waiting: dict[Partition, deque[_Lot]] = defaultdict(deque)
        self._records = self._bytes = 0
        self._taken: dict[Partition, int] = {}
        self._renewed_s = 0.0
        self._stands: dict[Partition, Committed | None] = {}
        self._failure: TidegateError | None = None
        self._fenced = self._stop = self._drop = False
        self._writer: Transactions | None = None
        self._writing = threading.Lock()  # of the writer: the feed opens it, the thread uses it
        self._thread = threading.Thread(target=self._run, name=f"answers-{name}", daemon=True)

    def start(self) -> None:
        """Start writing."""
        self._thread.start()

    # --- the feed ---------------------------------------------------------------------------------------------------

    def fence(self) -> None:
        """Shut out everybody who writes under this name. Call before committed offsets are read; does it once.

        Raises LogAway: ask again. TidegateError: it can never work.
        """
        if self._fenced:
            return
        with self._writing:
            if not self._fenced:
                try:
                    self._writer = self._open_writer()
                    self._fenced = True
                except Trouble as trouble:
                    if trouble.move is Move.STOP and trouble.name not in FENCED:
                        raise _refused(trouble) from trouble
                    raise LogAway(str(trouble)) from trouble

    def begins(self, partition: Partition, committed: Committed | None) -> None:
        """What was read of a partition after fence(), and reading starts from."""
        if partition.topic in self._exact:
            with self._changed:
                self._stands[partition] = committed

    # --- the sinks --------------------------------------------------------------------------------------------------

    def hand(self, branch: str, topic: str, receipt: Receipt, records: Sequence[Outgoing]) -> None:
        """What `branch` answers for a range, to be written to `topic`; later batches for a range replace earlier ones.

        Raises TidegateError: what was handed over before cannot be written.
        """
        partition = Partition(receipt.topic, receipt.partition)
        exact = receipt.topic in self._exact
        with self._changed:
            self._check()
            taken = self._taken.get(partition, 0) if exact else 0
            if receipt.begin < taken < receipt.end:
                raise PipelineError(
                    "a range was cut anew after a part of it was answered", partition=partition, answered_to=taken
                )
            if exact:
                self._forget(partition, topic, receipt.begin)
            if records and receipt.end > taken:
                size = sum(len(record.value or b"") for record in records)
                self._waiting[partition].append(_Lot(topic, receipt, records, size, None if exact else branch))
                self._records += len(records)
                self._bytes += size
        if exact or not records:
            self._ledger.acknowledge(branch, [receipt])

    def _forget(self, partition: Partition, topic: str, begin: int) -> None:
        """The runner tries a bundle again: what its first attempt handed over goes."""
        lots = self._waiting[partition]
        newest = takewhile(lambda lot: lot.receipt.begin >= begin, reversed(lots))
        for gone in [lot for lot in newest if lot.topic == topic]:
            lots.remove(gone)
            self._records -= len(gone.records)
            self._bytes -= gone.size

    def flush(self, timeout_s: float) -> None:
        """Have it written now; wait while too much is waiting. Raises TidegateError, UnavailableError: not in time."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            self._changed.notify_all()
            while self._records > MAX_RECORDS or self._bytes > MAX_BYTES:
                self._check()
                if self._stop or (left_s := deadline_s - time.monotonic()) <= 0:
                    raise UnavailableError(
                        "answers could not be written in time",
                        fix="their records are read and answered again after a restart",
                        waiting=self._records,
                    )
                self._changed.wait(left_s)
            self._check()

    @property
    def failure(self) -> TidegateError | None:
        """Why nothing more is written, if that is so."""
        return self._failure

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self, timeout_s: float) -> bool:
        """Write what is there and end. True when all of it was written."""
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.abandon()
            return False
        return self._failure is None and not self._records

    def abandon(self) -> None:
        """End; a transaction that is open ends with nothing."""
        with self._changed:
            self._stop = self._drop = True
            self._changed.notify_all()
        self._thread.join(2.0)

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            ended = False
            while not ended:
                with self._changed:
                    ended = self._stop
                    if not ended:
                        self._changed.wait(IDLE_COMMIT_S)
                while (transaction := self._take()) is not None and self._write(transaction):
                    self._settle(transaction)
        except TidegateError as error:
            self._fail(error)
        except Exception as cause:  # the boundary of the thread: whoever hands over is told
            log.exception("the writer of answers hit an unexpected error")
            self._fail(PipelineError(f"answers cannot be written: {type(cause).__name__}: {cause}"))
        finally:
            with self._writing:
                if self._writer is not None:
                    self._writer.close()
                    self._writer = None

    def _fail(self, error: TidegateError) -> None:
        innocent()  # no record is to blame when the job ends for this
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def _take(self) -> _Transaction | None:
        """Everything that is answered without a gap; None when nothing is, or nothing more shall be written."""
        if self._drop:
            return None
        answered = self._ledger.answered()  # first: what stands below was handed over before it was answered for
        out = _Transaction()
        with self._changed:
            ready = {}
            if renew := (now_s := time.monotonic()) - self._renewed_s >= RENEW_S:
                self._renewed_s = now_s
            for partition, commit in answered.items():
                if partition not in self._stands:
                    continue
                to = max(commit.offset, self._taken.get(partition, 0))
                if renew or to != self._taken.get(
                    partition
                ):  # also at the start: to sign is to say who has the name now
                    ready[partition] = commit._replace(offset=to)
            for partition, lots in self._waiting.items():
                while lots and (
                    partition.topic not in self._exact
                    or (partition in ready and lots[0].receipt.end <= ready[partition].offset)
                ):
                    lot = lots.popleft()
                    out.records[lot.topic] += lot.records
                    out.lots.append(lot)
            if not ready and not out.lots:
                return None
            if not ready:  # a transaction is known by the positions that it moves, so it moves one by nothing
                known = [p for p in answered if p in self._taken]
                ready = {p: answered[p]._replace(offset=self._taken[p]) for p in known[:1]}
            self._number += 1
            for partition, commit in ready.items():
                note = CommitNote(max(commit.note.position, commit.offset), commit.note.horizons, self._signed())
                out.offsets[partition] = Committed(commit.offset, str(note))
                self._taken[partition] = commit.offset
        return out

    def _signed(self) -> str:
        return f"{self._me}:{self._number}"

    def _settle(self, transaction: _Transaction) -> None:
        """It is safe: tell the ledger, and make room."""
        with self._changed:
            self._stands.update(transaction.offsets)
            self._records -= sum(len(lot.records) for lot in transaction.lots)
            self._bytes -= sum(lot.size for lot in transaction.lots)
            self._changed.notify_all()
        self._ledger.settled({p: c.offset for p, c in transaction.offsets.items()})
        for lot in transaction.lots:
            if lot.branch is not None:
                self._ledger.acknowledge(lot.branch, [lot.receipt])
        reach("answers.settled")

    def _write(self, transaction: _Transaction) -> bool:
        """Until it is there; False when the process gives up before.

        Raises TakenOver: another process writes under this name. TidegateError: the broker refuses for good.
        """
        away = False
        while not self._drop:
            try:
                with self._writing:
                    if self._writer is None:
                        self._writer = self._open_writer()
                        if self._landed(transaction):
                            return True
                    self._attempt(self._writer, transaction)
                if away:
                    log.warning("answers are written again")
                return True
            except (Trouble, LogAway) as trouble:
                self._throw_away()
                if isinstance(trouble, Trouble) and trouble.move is Move.STOP:
                    if trouble.name not in FENCED:
                        raise _refused(trouble) from trouble
                    self._still_ours(trouble)
                if not away:
                    log.warning("answers wait, a new producer will find out what became of them: %s", trouble)
                away = True
                with self._changed:
                    self._changed.wait(RETRY_S)
        return False

    def _attempt(self, writer: Transactions, transaction: _Transaction) -> None:
        deadline_s = time.monotonic() + ATTEMPT_S
        writer.begin()
        reach("answers.begun")
        for topic, records in transaction.records.items():
            writer.send(topic, records)
        writer.flush(deadline_s)
        reach("answers.sent")
        if transaction.offsets:
            writer.offsets(transaction.offsets, deadline_s)
        reach("answers.offsets")
        writer.commit(deadline_s)
        reach("answers.committed")

    def _throw_away(self) -> None:
        with self._writing:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def _landed(self, transaction: _Transaction) -> bool:
        """Whether an earlier attempt is there. Call with the name taken over: nothing can change behind the answer.

        Raises TakenOver: the positions are where nobody here has put them. LogAway: ask again.
        """
        stands, found = self._committed()
        if found == {**stands, **transaction.offsets} and transaction.offsets:
            return True
        if found == stands:
            return False
        moved = {f"{p.topic}[{p.number}]": (found[p], stands[p]) for p in found if found[p] != stands[p]}
        raise _taken_over(f"a position is not where it was left: {moved}"[:300])

    def _still_ours(self, trouble: Trouble) -> None:
        """After being shut out: by another process, or by the broker because we were frozen for too long?

        Raises TakenOver: another process has signed a position. Before it has, the name is taken back, and whoever has
        lost it then finds the positions moved.
        """
        try:
            stands, found = self._committed()
        except LogAway:
            return  # the next attempt finds out, before it writes
        for partition, committed in found.items():
            if committed != stands[partition] and _signature(committed) not in ("", self._me):
                raise _taken_over(str(trouble)[:300]) from trouble

    def _committed(self) -> tuple[dict[Partition, Committed | None], dict[Partition, Committed | None]]:
        """What was committed as far as we know, and what is."""
        with self._changed:
            stands = dict(self._stands)
        reader = self._open_reader()
        try:
            return stands, {p: reader.committed(p) for p in stands}
        finally:
            reader.close()


def _signature(committed: Committed | None) -> str:
    if committed is None:
        return ""
    try:
        return CommitNote.parse(committed.note).signed.partition(":")[0]
    except TidegateError:
        return ""


def _taken_over(cause: str) -> TakenOver:
    return TakenOver(
        "another pipeline has taken over this consumer group",
        fix="only one may run per group and topic prefix; this one ends and has written nothing twice",
        cause=cause,
    )


def _refused(trouble: Trouble) -> PipelineError:
    return PipelineError(
        f"the broker refuses to take answers in transactions: {trouble}",
        fix="give the pipeline the rights to its transactional id, group and topics, or run it with "
        "--delivery at-least-once",
    )
