"""The book balanced: every way in which what a device made and what is there can differ, named and explained or not."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.ledger.balance import Balance, Finding, balance
from deploy.ledger.book import LANES, Book, Place
from schemas import topics
from schemas.codec import encode
from schemas.records import LEDGER, DeviceStatus, Failure, GapMarker, GapReason, Health
from tests.doubles import records as make
from tests.doubles.life import AGGREGATES, EVENTS, SAMPLES, Run


def balanced(
    *runs: Run, report: DeviceStatus | None = None, settled_ms: int = 10_000, cut: frozenset[str] = frozenset()
) -> Balance:
    book = Book()
    book.cut |= cut
    for run in runs:
        run.into(book, report if report is not None and run is runs[-1] else run.report())
    return balance(book, settled_ms=settled_ms)


def kinds(result: Balance) -> list[tuple[str, str, int]]:
    return [(f.kind, f.lane, f.count) for f in result.findings]


def test_a_whole_run_balances() -> None:
    result = balanced(Run())
    assert result.findings == []
    (row,) = result.devices
    assert (row.windows, row.answered, row.sent) == (100, 66, 34 + len(Run().samples) + 25)


@given(st.integers(0, 2**32), st.integers(0, 12))
def test_whatever_is_taken_away_is_counted_to_the_record(seed: int, share: int) -> None:
    """Unless a decision names it, a missing event is one of a range that holds it; aggregates and samples are exact."""
    draw = random.Random(seed)
    run = Run()
    report = run.report()
    gone = {
        lane: draw.sample(sorted(records)[:-1], min(share, len(records) - 1))
        for lane, records in ((EVENTS, run.events), (AGGREGATES, run.aggregates), (SAMPLES, run.samples))
    }
    for lane, records in ((EVENTS, run.events), (AGGREGATES, run.aggregates), (SAMPLES, run.samples)):
        for seq in gone[lane]:
            del records[seq]
    result = balanced(run, report=report)
    for lane in LANES:
        lost = [f for f in result.findings if f.kind == "missing" and f.lane == lane]
        assert sum(f.count for f in lost) == len(gone[lane])
        if lane in (EVENTS, AGGREGATES):
            assert [seq for f in lost for a, b in f.ranges for seq in range(a, b + 1)] == sorted(gone[lane])
    assert result.devices[0].unexplained == sum(map(len, gone.values()))
    assert bool(result.unexplained) == any(gone.values())


def test_an_event_that_nobody_decided_either_is_placed_by_the_aggregates() -> None:
    run = Run()
    report = run.report()
    del run.events[30], run.decided[30]
    (found,) = balanced(run, report=report).findings
    assert (found.kind, found.lane, found.count) == ("missing", EVENTS, 1)
    assert "escalated windows that ended between 1970-01-01T00:00:07.000Z and 1970-01-01T00:00:08.000Z" in found.what
    assert "in seq 28..32" in found.what


def test_without_any_witness_the_counters_still_tell_how_many() -> None:
    run = Run()
    report = run.report()
    run.events.clear()
    run.decided.clear()
    run.aggregates = {}
    result = balanced(run, report=report)
    assert ("missing", EVENTS, 34) in kinds(result)
    assert ("missing", AGGREGATES, 1) in kinds(result)  # at least


@pytest.mark.parametrize(
    ("changes", "explained"),
    [
        ({"records_acked": -3, "records_dropped": 3}, "3 dropped without a marker cover the 3 missing"),
        ({"records_acked": -3, "spool_records": 3}, "3 in the spool cover the 3 missing"),
        (
            {"records_acked": -3, "records_dropped": 1, "spool_records": 9},
            "1 dropped without a marker + 2 in the spool cover",
        ),
        ({"records_acked": -2, "records_dropped": 2}, ""),
    ],
)
def test_eviction_and_the_spool_explain_as_many_as_they_count(changes: dict[str, int], explained: str) -> None:
    run = Run()
    whole = run.report().counters["records_acked"]
    report = run.report(**{k: whole + v if k == "records_acked" else v for k, v in changes.items()})
    for seq in (3, 4, 9):
        del run.aggregates[seq]
    (found,) = balanced(run, report=report).findings
    assert found.ranges == ((3, 4), (9, 9))
    assert found.what == "seq 3..4, 9"
    assert explained in found.explained
    assert bool(found.explained) == bool(explained)


def marker(run: Run, lane: str, runs: list[tuple[int, int]]) -> GapMarker:
    return GapMarker(
        device_id=run.device, boot_epoch=run.epoch, seq=runs[0][0], lane=lane, reason=GapReason.EVICTED,
        count=sum(last - first + 1 for first, last in runs), firsts=[a for a, _ in runs], lasts=[b for _, b in runs],
        at=1,
    )  # fmt: skip


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_a_gap_marker_explains_exactly_the_records_that_it_names(seed: int, share: int) -> None:
    """Named and gone is explained by number; gone and not named is not; named and there all the same is there."""
    draw = random.Random(seed)
    run = Run()
    gone, book = {}, Book()
    for lane, records in ((EVENTS, run.events), (AGGREGATES, run.aggregates), (SAMPLES, run.samples)):
        gone[lane] = draw.sample(sorted(records), min(share, len(records) - 1))
    dropped = sum(map(len, gone.values()))
    acked = run.report().counters["records_acked"] - dropped
    report = run.report(records_acked=acked, records_dropped=dropped)
    there = {}
    for lane, records in ((EVENTS, run.events), (AGGREGATES, run.aggregates), (SAMPLES, run.samples)):
        there[lane] = draw.choice(sorted(set(records) - set(gone[lane])))
        for seq in gone[lane]:
            del records[seq]
        if lane == EVENTS:
            run.decided = dict.fromkeys(run.events, 1)
        for seq in draw.sample([*gone[lane], there[lane]], len(gone[lane]) + 1):
            for _ in range(draw.randrange(1, 3)):  # a marker may come twice
                book.take(Place(topics.GAPS.name), marker(run, lane, [(seq, seq)]))
    run.into(book, report)
    result = balance(book, settled_ms=10_000)
    assert result.unexplained == []
    for lane in LANES:
        named = [f for f in result.findings if f.kind == "missing" and f.lane == lane]
        assert [seq for f in named for a, b in f.ranges for seq in range(a, b + 1)] == sorted(gone[lane])
        (row,) = [row for row in result.lanes if row.lane == lane]
        assert row.missing == row.evicted == len(gone[lane])
    lane = draw.choice(LANES)
    records = {EVENTS: run.events, AGGREGATES: run.aggregates, SAMPLES: run.samples}[lane]
    if len(records) > 1:
        del records[draw.choice(sorted(records)[:-1])]  # nobody names this one
        run.decided = dict.fromkeys(run.events, 1)
        run.into(other := Book(), report)
        for one in LANES:
            for seq in gone[one]:
                other.take(Place(topics.GAPS.name), marker(run, one, [(seq, seq)]))
        assert sum(f.count for f in balance(other, settled_ms=10_000).unexplained) == 1


def test_a_marker_that_claims_everything_costs_nothing() -> None:
    run = Run()
    book = Book()
    book.take(Place(topics.GAPS.name), marker(run, EVENTS, [(0, 2**62)]))
    book.take(Place(topics.GAPS.name), marker(run, AGGREGATES, [(n, n) for n in range(0, 20_000, 2)]))
    run.into(book, run.report())
    assert balance(book, settled_ms=10_000).devices[0].missing > 2**61


def test_the_same_record_twice_is_a_resend_and_two_different_ones_are_not() -> None:
    book = Book()
    run = Run()
    run.into(book, run.report())
    book.take(Place(EVENTS, 0, 90, 1000), run.events[3])
    book.take(Place(EVENTS, 0, 91, 1000), replace(run.events[6], score=9.0))
    same, differing = balance(book, settled_ms=0).findings
    assert (same.kind, same.ranges, same.explained) == ("repeated", ((3, 3),), "the same bytes, sent again")
    assert (differing.kind, differing.ranges, differing.explained) == ("differing", ((6, 6),), "")


def test_each_event_has_exactly_one_decision_or_a_reason() -> None:
    book = Book()
    run = Run()
    run.decided |= {3: 0, 6: 2, 9: 0}
    run.into(book, run.report())
    offset = list(run.events).index(9)
    letter = Failure(
        source=f"plant.{EVENTS}", partition=0, offset=offset, key=None, payload=b"", stage="split",
        reason="DecodeError", problem="x", failed_at=1,
    )  # fmt: skip
    book.take(Place(topics.DEAD_LETTERS.name, 0, 0, 0), letter)
    found = {f.kind: (f.ranges, f.explained) for f in balance(book, settled_ms=10_000).findings}
    assert found == {
        "undecided": (((3, 3),), ""),
        "refused": (((9, 9),), "dead letter, DecodeError"),
        "doubled": (((6, 6),), ""),
    }
    found = {f.kind: (f.ranges, f.explained) for f in balance(book, settled_ms=500).findings}
    assert found["waiting"] == (((3, 3),), "they came just now")


def test_where_the_pipeline_has_a_position_the_clock_is_not_asked() -> None:
    book = Book()
    run = Run()
    run.decided |= {3: 0, 30: 0}
    run.into(book, run.report())
    book.committed[EVENTS, 0] = list(run.events).index(30)
    for settled_ms in (0, 10_000):
        found = {f.kind: (f.ranges, f.explained) for f in balance(book, settled_ms=settled_ms).findings}
        assert found == {
            "undecided": (((3, 3),), ""),
            "waiting": (((30, 30),), "the pipeline has not committed that far"),
        }


def test_a_report_whose_own_sums_do_not_hold_is_named() -> None:
    run = Run()
    for change, part in (
        ({"readings_sensed": 101}, "101 readings sensed are not"),
        ({"windows_scored": 101}, "101 windows scored are not"),
        ({"records_acked": 3}, "records enqueued are not 3 acknowledged"),
    ):
        found = balanced(run, report=run.report(**change)).unexplained
        assert any(f.kind == "counters" and part in f.what for f in found), (change, found)
    running = run.report(readings_sensed=101, health=Health.OK)
    assert balanced(run, report=running).findings == []  # a reading of an open window


def test_a_life_that_goes_on_after_its_last_report_is_no_difference() -> None:
    run, later = Run(60), Run(100)
    result = balanced(later, report=run.report(health=Health.OK))
    assert result.findings == []


def test_a_life_whose_report_is_gone_is_held_against_its_aggregates() -> None:
    old, new = Run(epoch=1), Run(epoch=2)
    del old.events[30], old.decided[30], old.aggregates[20]
    book = Book()
    old.into(book, None)
    new.into(book, new.report())
    found = balance(book, settled_ms=10_000).unexplained
    assert [(f.boot_epoch, f.lane, f.count) for f in found] == [(1, AGGREGATES, 1), (1, EVENTS, 1)]


def test_where_the_beginning_was_not_read_nothing_before_is_missed() -> None:
    run = Run()
    report = run.report()
    for seq in range(0, 40, 3):
        del run.events[seq]
    for seq in range(9):
        del run.aggregates[seq]
    for seq in [seq for seq in run.samples if seq < 40]:
        del run.samples[seq]
    assert balanced(run, report=report, cut=frozenset(LANES)).findings == []
    del run.events[60], run.aggregates[17]
    result = balanced(run, report=report, cut=frozenset(LANES))
    assert [(f.lane, f.ranges) for f in result.unexplained] == [(AGGREGATES, ((17, 17),)), (EVENTS, ((60, 60),))]


def test_a_partition_that_does_not_begin_at_0_says_so_itself() -> None:
    book = Book()
    book.take(Place(EVENTS, 1, 0, 0), make.event(seq=0))
    assert book.cut == set()
    book.take(Place(EVENTS, 2, 5, 0), make.event(seq=1))
    book.take(Place(EVENTS, 2, 6, 0), make.event(seq=2))
    assert book.cut == {EVENTS}


def test_a_foreign_record_is_named_and_blamed_on_nobody() -> None:
    book = Book()
    run = Run()
    run.into(book, run.report())
    book.take(Place(EVENTS, 0, 70, 0), make.aggregate())
    book.take_unreadable(Place(EVENTS, 0, 71, 0), b"junk", "not a record")
    found = balance(book, settled_ms=10_000)
    assert [f.kind for f in found.findings] == ["unreadable", "unreadable"]
    assert found.unexplained == []


def test_a_damaged_record_that_tells_its_identity_has_arrived() -> None:
    book = Book()
    run = Run()
    report = run.report()
    damaged = encode(run.events.pop(30))[:-1]
    run.into(book, report)
    book.take_unreadable(Place(EVENTS, 0, 71, 0), damaged, "payload does not fit its schema")
    found: list[Finding] = balance(book, settled_ms=10_000).findings
    assert [f.kind for f in found] == ["unreadable"]


def test_a_forged_number_costs_nothing_and_is_named() -> None:
    run = Run()
    report = run.report(windows_scored=2**60, windows_answered=2**60 - len(run.events), windows_sampled=2**59)
    run.aggregates[2**62] = make.aggregate("pump-1", 2**62, windows_escalated=2**40)
    result = balanced(run, report=report)
    gap = next(f for f in result.findings if f.lane == AGGREGATES)
    assert gap.ranges == ((25, 2**62 - 1),)
    assert result.devices[0].unexplained > 2**59


@given(
    st.lists(st.tuples(st.sampled_from(LANES), st.integers(-(2**63), 2**63 - 1), st.integers(0, 3)), max_size=12),
    st.dictionaries(st.sampled_from(LEDGER), st.integers(-(2**63), 2**63 - 1)),
)
def test_whatever_devices_claim_it_is_balanced_or_named(
    sent: list[tuple[str, int, int]], claims: dict[str, int]
) -> None:
    book = Book()
    book.take(Place(topics.STATUS.name), Run().report(**claims))
    for lane, seq, epoch in sent:
        made: Any = {EVENTS: make.event, AGGREGATES: make.aggregate, SAMPLES: make.audit}[lane]
        book.take(Place(lane, 0, 0, 0), made("pump-1", seq, boot_epoch=epoch))
    result = balance(book, settled_ms=0)
    assert all(finding.count > 0 for finding in result.findings)
