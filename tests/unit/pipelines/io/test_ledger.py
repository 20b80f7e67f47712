"""Unit tests of the commit ledger; its laws are in tests/laws/test_ledger_laws.py."""

from __future__ import annotations

import pytest

from pipelines.io.chunk import Receipt, Resume, WindowAck
from pipelines.io.commit_note import CommitNote
from pipelines.io.ledger import Commit, LedgerCore
from pipelines.io.partition import Partition
from schemas.errors import ConfigError, DecodeError, PipelineError

P = Partition("t", 0)
S = 1_000_000


def receipt(begin: int, end: int) -> Receipt:
    return Receipt("f", "t", 0, begin, end)


def test_a_range_is_done_when_every_branch_has_answered() -> None:
    ledger = LedgerCore(["decisions", "failed"])
    ledger.begin(P, 10)
    ledger.register(P, 10, 20, 0)
    ledger.acknowledge("decisions", receipt(10, 20))
    ledger.acknowledge("decisions", receipt(10, 20))
    assert ledger.commits()[P].offset == 10
    ledger.acknowledge("failed", receipt(10, 20))
    assert ledger.commits()[P] == Commit(20, CommitNote(20))
    assert ledger.in_flight() == 0


def test_an_answer_from_a_branch_that_nobody_waits_for_is_refused() -> None:
    ledger = LedgerCore(["decisions"])
    with pytest.raises(PipelineError, match="a branch answers that nobody waits for"):
        ledger.acknowledge("decision", receipt(0, 1))


def test_a_ledger_without_any_branch_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one branch"):
        LedgerCore([])


def test_a_range_that_was_left_out_is_refused() -> None:
    ledger = LedgerCore(["a"])
    ledger.begin(P, 0)
    ledger.register(P, 0, 5, 0)
    with pytest.raises(PipelineError, match="never registered"):
        ledger.register(P, 6, 9, 0)


def test_a_range_that_is_handed_out_again_replaces_itself_and_what_followed() -> None:
    ledger = LedgerCore(["a"])
    ledger.begin(P, 0)
    ledger.register(P, 0, 5, 0)
    ledger.register(P, 5, 9, 0)
    ledger.register(P, 0, 4, 0)
    ledger.acknowledge("a", receipt(5, 9))
    ledger.acknowledge("a", receipt(0, 5))
    assert ledger.commits()[P].offset == 0
    ledger.acknowledge("a", receipt(0, 4))
    assert ledger.commits()[P].offset == 4


def test_an_open_window_holds_the_offset_of_its_first_contribution() -> None:
    ledger = LedgerCore(["out"], {"win": 2 * S})
    ledger.begin(P, 0)
    ledger.register(P, 0, 8, 0)
    ledger.contribute("win", P, 10 * S, b"k", 3)
    ledger.contribute("win", P, 10 * S, b"k", 5)
    for branch in ("out", "win"):
        ledger.acknowledge(branch, receipt(0, 8))
    ledger.watermark(P, 12 * S)
    ledger.written(WindowAck("f", "win", 10 * S, b"k", 1))
    assert ledger.commits()[P] == Commit(3, CommitNote(8, {"win": 10 * S - 1}))
    ledger.written(WindowAck("f", "win", 10 * S, b"k", 1))
    assert ledger.commits()[P] == Commit(8, CommitNote(8, {"win": 10 * S}))
    assert ledger.open_windows() == {"win": 0}


def test_a_cumulative_answer_counts_once_however_often_it_is_given() -> None:
    ledger = LedgerCore(["out"], {"win": 0})
    ledger.begin(P, 0)
    ledger.register(P, 0, 2, 0)
    ledger.contribute("win", P, S, b"k", 0)
    ledger.contribute("win", P, S, b"k", 1)
    for branch in ("out", "win"):
        ledger.acknowledge(branch, receipt(0, 2))
    ledger.watermark(P, 2 * S)
    for _ in range(3):
        ledger.written(WindowAck("f", "win", S, b"k", 1, cumulative=True))
    assert ledger.commits()[P].offset == 0
    ledger.written(WindowAck("f", "win", S, b"k", 2, cumulative=True))
    assert ledger.commits()[P].offset == 2


def test_a_second_restart_remembers_what_the_first_one_knew() -> None:
    ledger = LedgerCore(["out"], {"win": 2 * S})
    ledger.begin(P, 3, Resume(8, (("win", 10 * S),)))
    assert ledger.commits()[P] == Commit(3, CommitNote(8, {"win": 10 * S}))


def test_a_window_stays_open_while_a_chunk_that_may_add_to_it_is_on_its_way() -> None:
    ledger = LedgerCore(["out"], {"win": 0})
    ledger.begin(P, 0)
    ledger.register(P, 0, 1, 0)
    ledger.watermark(P, 50 * S)
    assert ledger.commits()[P].note.horizons == {"win": 0}
    ledger.acknowledge("win", receipt(0, 1))
    assert ledger.commits()[P].note.horizons == {"win": 50 * S}


def test_a_partition_without_a_watermark_keeps_every_window_open() -> None:
    ledger = LedgerCore(["out"], {"win": 0})
    ledger.begin(P, 0)
    ledger.begin(Partition("t", 1), 0)
    ledger.watermark(P, 50 * S)
    assert ledger.commits()[P].note.horizons == {"win": 0}


def test_what_was_not_worth_handing_on_is_answered_by_everyone_at_once() -> None:
    ledger = LedgerCore(["a", "b"], {"win": 0})
    ledger.begin(P, 0)
    ledger.register(P, 0, 5, 0)
    ledger.acknowledge_all(receipt(0, 5))
    assert ledger.commits()[P].offset == 5


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"v":2,"p":1,"h":{}}', '{"v":1}', '{"v":1,"p":"x","h":{}}', "[" * 9999]
)
def test_a_note_of_somebody_else_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        CommitNote.parse(text)


def test_of_exact_topics_the_answered_position_goes_to_transactions_and_not_to_the_committer() -> None:
    ledger = LedgerCore(["out"], {"win": 0}, exact=["t"])
    exact, other = Partition("t", 0), Partition("u", 0)
    for p in (exact, other):
        ledger.begin(p, 5, Resume(5, (("win", 7),)))
        ledger.register(p, 5, 9, 0)
        for branch in ("out", "win"):
            ledger.acknowledge(branch, Receipt("f", *p, 5, 9))
    assert list(ledger.commits()) == [other]
    assert list(ledger.answered()) == [exact]
    assert ledger.answered()[exact].offset == 9
    assert ledger.standing()[exact].safe == 5
    assert ledger.in_flight() == 1
    ledger.settled({exact: 9})
    assert ledger.standing()[exact].safe == 9
    assert ledger.in_flight() == 0


def test_a_transaction_names_no_horizon_that_is_not_committed_with_the_other_partitions() -> None:
    """Else a window would count as closed for which the records of those are read again."""
    ledger = LedgerCore(["out"], {"win": 0}, exact=["t"])
    exact, other = Partition("t", 0), Partition("u", 0)
    for p in (exact, other):
        ledger.begin(p, 0, Resume(0, (("win", 7),)))
        ledger.watermark(p, 100)
    commits = ledger.commits()
    assert commits[other].note.horizons == {"win": 100}
    assert ledger.answered()[exact].note.horizons == {"win": 7}
    ledger.confirmed(commits)
    assert ledger.answered()[exact].note.horizons == {"win": 100}
