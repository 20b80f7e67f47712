"""The writer of answers: records and positions together, in order, once, whatever the broker says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.io.answers import MAX_RECORDS, RENEW_S, Answers
from pipelines.io.chunk import Outgoing, Receipt, Resume
from pipelines.io.commit_note import CommitNote
from pipelines.io.committer import Ledger
from pipelines.io.ledger import LedgerCore
from pipelines.io.outcome import Step
from pipelines.io.partition import Partition
from pipelines.io.transport import Committed
from schemas.errors import PipelineError, TakenOver, UnavailableError
from tests.doubles.transactions import MemoryTransactions
from tests.wait import until

P = Partition("events", 0)
OTHER = Partition("aggregates", 0)


class Rig:
    """A source's ledger, the writer, and the broker behind it."""

    def __init__(self, broker: MemoryTransactions) -> None:
        self.broker = broker
        self.ledger = Ledger(LedgerCore(["decisions", "failed"], exact=["events"]))
        self.answers = Answers(self.ledger, broker.writer, broker.reader, ["events"], "test")  # type: ignore[arg-type]  # a reader of offsets alone
        self.answers.fence()
        found = broker.committed.get(P)
        self.answers.begins(P, found)
        self.ledger.begin(P, found.offset if found else 0, Resume())
        self.ledger.begin(OTHER, 0, Resume())

    def chunk(self, begin: int, end: int, partition: Partition = P) -> Receipt:
        """The source hands out a range."""
        self.ledger.register(partition, begin, end, 0)
        return Receipt("flow", *partition, begin, end)

    def decide(self, receipt: Receipt, *bad: int) -> None:
        """Both sinks answer for it, an answer per offset."""
        offsets = range(receipt.begin, receipt.end)
        good = [Outgoing(b"k", b"%d" % n) for n in offsets if n not in bad]
        self.answers.hand("decisions", "out", receipt, good)
        self.answers.hand("failed", "dead", receipt, [Outgoing(b"k", b"%d" % n) for n in bad])

    def settled(self) -> int:
        return self.ledger.standing()[P].safe

    def out(self, topic: str = "out") -> list[int]:
        return [int(record.value or b"") for record in self.broker.topics[topic]]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(MemoryTransactions())
    made.answers.start()
    yield made
    made.answers.abandon()


def test_what_both_branches_answered_is_written_with_its_position_and_a_signed_note(rig: Rig) -> None:
    rig.decide(rig.chunk(0, 5), 3)
    rig.answers.flush(5)
    until(lambda: rig.settled() == 5, "it is settled")
    assert (rig.out(), rig.out("dead")) == ([0, 1, 2, 4], [3])
    committed = rig.broker.committed[P]
    note = CommitNote.parse(committed.note)
    assert (committed.offset, note.position) == (5, 5)
    assert note.signed.partition(":")[2].isdigit()
    assert rig.ledger.in_flight() == 0


def test_nothing_is_written_of_a_range_that_one_branch_has_not_answered_nor_of_what_comes_after_it(rig: Rig) -> None:
    first, second = rig.chunk(0, 2), rig.chunk(2, 4)
    rig.answers.hand("decisions", "out", first, [Outgoing(b"k", b"0")])
    rig.decide(second)
    rig.answers.flush(5)
    until(lambda: rig.broker.count >= 1, "the process has signed its position")
    assert (rig.out(), rig.broker.committed[P].offset) == ([], 0)
    rig.answers.hand("failed", "dead", first, [])
    rig.answers.flush(5)
    until(lambda: rig.settled() == 4, "both are settled")
    assert rig.out() == [0, 2, 3]


def test_answers_of_other_topics_go_with_it_and_are_acknowledged_when_they_are_there(rig: Rig) -> None:
    receipt = rig.chunk(0, 3, OTHER)
    rig.answers.hand("decisions", "out", receipt, [])
    rig.answers.hand("failed", "dead", receipt, [Outgoing(b"k", b"1")])
    assert rig.ledger.commits()[OTHER].offset == 0
    rig.answers.flush(5)
    until(lambda: rig.ledger.commits()[OTHER].offset == 3, "the branch has answered")
    assert rig.out("dead") == [1]
    assert P not in rig.ledger.commits()
    assert OTHER not in rig.broker.committed


@pytest.mark.parametrize("step", [Step.BEGIN, Step.SEND, Step.OFFSETS, Step.COMMIT])
@pytest.mark.parametrize("done", [False, True])
def test_an_outcome_that_nobody_knows_is_found_out_and_nothing_is_written_twice(step: Step, done: bool) -> None:
    broker = MemoryTransactions()
    rig = Rig(broker)
    rig.decide(rig.chunk(0, 5))
    broker.trouble += [(step, "_TRANSPORT", done), (Step.OPEN, "COORDINATOR_NOT_AVAILABLE", False)]
    rig.answers.start()
    rig.answers.flush(5)
    until(lambda: rig.settled() == 5, "it is settled")
    rig.decide(rig.chunk(5, 7))
    assert rig.answers.close(10)
    assert rig.out() == list(range(7))
    assert broker.committed[P].offset == 7
    assert broker.epoch == 2


def test_whoever_lost_the_name_to_one_that_has_signed_ends_and_has_written_nothing() -> None:
    broker = MemoryTransactions()
    old = Rig(broker)
    old.answers.start()
    old.decide(old.chunk(0, 5))
    old.answers.flush(5)
    until(lambda: old.settled() == 5, "the old one works")
    new = Rig(broker)
    new.answers.start()
    until(lambda: broker.count >= 3 or broker.committed[P].note.find(new.answers._me) >= 0, "the new one has signed")
    old.decide(old.chunk(5, 9))
    old.answers.flush(5)
    failure = until(lambda: old.answers.failure, "the old one ends")
    assert isinstance(failure, TakenOver)
    assert old.out() == list(range(5))
    new.decide(new.chunk(5, 9))
    assert new.answers.close(10)
    assert old.out() == list(range(9))
    with pytest.raises(TakenOver, match="another pipeline"):
        old.answers.hand("decisions", "out", old.chunk(9, 10), [])


def test_whoever_was_shut_out_by_nobody_that_writes_takes_the_name_back() -> None:
    """The broker ends a transaction itself when its process was frozen for too long, and shuts the process out."""
    broker = MemoryTransactions()
    rig = Rig(broker)
    rig.answers.start()
    rig.decide(rig.chunk(0, 5))
    rig.answers.flush(5)
    until(lambda: rig.settled() == 5, "it works")
    broker.epoch += 1
    rig.decide(rig.chunk(5, 9))
    assert rig.answers.close(10)
    assert rig.out() == list(range(9))


def test_positions_that_moved_behind_its_back_end_it_before_it_writes() -> None:
    broker = MemoryTransactions()
    rig = Rig(broker)
    broker.trouble.append((Step.OFFSETS, "_TIMED_OUT", False))
    rig.decide(rig.chunk(0, 5))

    def meddle(step: Step) -> None:
        if step is Step.OFFSETS:
            broker.committed[P] = Committed(3, "")

    broker.at_step = meddle
    rig.answers.start()
    rig.answers.flush(5)
    assert isinstance(until(lambda: rig.answers.failure, "it ends"), TakenOver)
    assert rig.out() == []


def test_what_the_broker_refuses_for_good_ends_it_with_the_way_out(rig: Rig) -> None:
    rig.broker.trouble.append((Step.OFFSETS, "GROUP_AUTHORIZATION_FAILED", False))
    rig.decide(rig.chunk(0, 5))
    failure = until(lambda: rig.answers.failure, "it ends")
    assert isinstance(failure, PipelineError)
    assert "at-least-once" in failure.fix
    assert rig.out() == []


def test_a_bundle_that_is_tried_again_is_answered_once(rig: Rig) -> None:
    first = rig.chunk(0, 2)
    rig.answers.hand("decisions", "out", first, [Outgoing(b"k", b"0"), Outgoing(b"k", b"1")])
    rig.decide(rig.chunk(0, 2))
    rig.answers.flush(5)
    until(lambda: rig.settled() == 2, "it is settled")
    rig.ledger.begin(P, 0, Resume())
    rig.decide(rig.chunk(0, 2))
    rig.decide(rig.chunk(2, 3))
    assert rig.answers.close(10)
    assert rig.out() == [0, 1, 2]
    assert rig.broker.committed[P].offset == 3


def test_a_range_that_is_cut_anew_across_what_was_answered_is_refused(rig: Rig) -> None:
    rig.decide(rig.chunk(0, 2))
    rig.answers.flush(5)
    until(lambda: rig.settled() == 2, "it is settled")
    with pytest.raises(PipelineError, match="cut anew"):
        rig.decide(Receipt("flow", *P, 1, 3))


def test_sinks_wait_while_too_much_is_waiting() -> None:
    rig = Rig(MemoryTransactions())  # its thread does not run
    rig.decide(rig.chunk(0, MAX_RECORDS + 1))
    with pytest.raises(UnavailableError, match="could not be written in time") as late:
        rig.answers.flush(0.05)
    assert late.value.where["waiting"] == MAX_RECORDS + 1
    rig.answers.start()
    rig.answers.flush(20)
    until(lambda: rig.settled() == MAX_RECORDS + 1, "it is settled")
    rig.answers.abandon()


def test_positions_that_moved_without_an_answer_are_committed_too(rig: Rig) -> None:
    rig.ledger.acknowledge_all(rig.chunk(0, 8))  # duplicates, all of them
    until(lambda: rig.settled() == 8, "the position is committed")
    assert rig.broker.committed[P].offset == 8
    assert rig.out() == []


def test_a_position_that_does_not_move_is_committed_again_before_a_broker_forgets_it(rig: Rig) -> None:
    rig.decide(rig.chunk(0, 5))
    rig.answers.flush(5)
    until(lambda: rig.settled() == 5, "it is settled")
    before = rig.broker.committed[P]
    rig.answers._renewed_s -= RENEW_S
    until(lambda: rig.broker.committed[P] != before, "it is committed again")
    assert rig.broker.committed[P].offset == 5
    assert rig.out() == list(range(5))
