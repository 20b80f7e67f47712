"""The checker on accounts and topics made by hand: what is right is green, and each kind of harm is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from schemas.codec import encode
from schemas.records import DecidedBy, Decision, EdgeEvent, Failure, GapMarker, GapReason, Outcome, Transition, Verdict
from tests.faults.checker import Account, Seen, check
from tests.faults.source import Key, block
from tests.faults.wire import Message

SEED = 3
FIRST_US = 1_700_000_000_000_000


def account(blocks: int = 6, acked: int | None = None) -> Account:
    """One device, `blocks` loud blocks with numbers from 0, all acknowledged unless said otherwise."""
    made = Account()
    for number in range(blocks):
        found = dataclasses.replace(block(SEED, "p", number), mean=4.0)
        made.given[Key("p", FIRST_US + number * 1000)] = found
    made.acked = {("p", number) for number in range(blocks if acked is None else acked + 1)}
    return made


def event(number: int, *, seq: int | None = None, epoch: int = 1, **changes: object) -> EdgeEvent:
    """The event of a block."""
    first = FIRST_US + number * 1000
    return dataclasses.replace(
        EdgeEvent(
            device_id="p", boot_epoch=epoch, seq=number if seq is None else seq, cohort="c", sensed_from=first,
            sensed_to=first + 3000, decided_at=first, model_name="m", model_version=1, model_sha256=bytes(32),
            thresholds_version=0, policy_version=1, score=4.0, outcome=Outcome.ANOMALY, transition=Transition.NONE,
            reason="alarm", readings=4, channels=2, values=block(SEED, "p", number).values,
        ),
        **changes,  # type: ignore[arg-type]
    )  # fmt: skip


def decision(of: EdgeEvent, **changes: object) -> Decision:
    """The decision of an event."""
    return dataclasses.replace(
        Decision(
            device_id=of.device_id, boot_epoch=of.boot_epoch, seq=of.seq, cohort="c", sensed_from=of.sensed_from,
            sensed_to=of.sensed_to, edge_decided_at=0, decided_at=0, model_name="m", model_version=1,
            model_sha256=bytes(32), thresholds_version=0, policy_version=1, provisional=Outcome.ANOMALY,
            outcome=Outcome.ANOMALY, verdict=Verdict.CONFIRMED, decided_by=DecidedBy.HEAVY, reason="", edge_score=4.0,
            heavy_score=4.0, heavy_threshold=3.0, heavy_version=1, heavy_sha256=bytes(32),
        ),
        **changes,  # type: ignore[arg-type]
    )  # fmt: skip


def gap(firsts: list[int], lasts: list[int], lane: str = "edge.events") -> GapMarker:
    """A gap marker for runs of the first life."""
    count = sum(last - first + 1 for first, last in zip(firsts, lasts, strict=True))
    return GapMarker(
        device_id="p", boot_epoch=1, seq=firsts[0], lane=lane, reason=GapReason.EVICTED, count=count, firsts=firsts,
        lasts=lasts, at=0,
    )  # fmt: skip


def messages(records: Sequence[EdgeEvent | Decision | Failure | GapMarker | bytes]) -> list[Message]:
    """As they lie in partition 0."""
    return [
        Message(0, at, b"p", record if isinstance(record, bytes) else encode(record))
        for at, record in enumerate(records)
    ]


EVENTS = [event(number) for number in range(6)]
DECISIONS = [decision(made) for made in EVENTS]


def kinds(
    events: Sequence[EdgeEvent | bytes], decisions: Sequence[Decision | bytes] | None, *, acked: int | None = None,
    letters: Sequence[Failure] = (), position: int = 0, gaps: Sequence[GapMarker] = (),
) -> dict[str, int]:  # fmt: skip
    """Which kinds are counted."""
    seen = Seen(
        messages(events), None if decisions is None else messages(decisions), messages(letters),
        positions={0: position}, gaps=messages(gaps),
    )  # fmt: skip
    return {kind: count for kind, count in check(account(acked=acked), seen).counts.items() if count}


def test_what_is_right_is_green() -> None:
    verdict = check(account(), Seen(messages(EVENTS), messages(DECISIONS), positions={0: 6}))
    assert not verdict.red, str(verdict)
    assert (verdict.given, verdict.owed, verdict.answered) == (6, 6, 6)


def test_an_event_that_was_sent_again_is_no_fault() -> None:
    assert kinds([*EVENTS, *EVENTS[2:]], DECISIONS) == {}


def test_a_missing_event_is_lost_and_unexplained_when_it_was_acknowledged() -> None:
    assert kinds(EVENTS[:5], DECISIONS[:5]) == {"lost": 1, "unexplained": 1}
    assert kinds(EVENTS[:5], None) == {"lost": 1, "unexplained": 1}
    assert kinds(EVENTS[:5], DECISIONS[:5], acked=4) == {}


def test_what_died_with_the_edge_is_owed_by_nobody_also_when_later_blocks_are_acknowledged() -> None:
    given = account()
    given.acked.remove(("p", 2))
    without = [made for made in EVENTS if made.seq != 2]
    assert not check(given, Seen(messages(without))).red
    assert not check(given, Seen(messages(EVENTS))).red


def test_a_gap_marker_explains_as_many_lost_records_as_it_names_and_that_did_not_arrive() -> None:
    five = gap([5], [5])
    assert kinds(EVENTS[:5], DECISIONS[:5], gaps=[five]) == {"lost": 1}
    assert kinds(EVENTS[:5], DECISIONS[:5], gaps=[five, five]) == {"lost": 1}
    assert kinds(EVENTS[:4], DECISIONS[:4], gaps=[five]) == {"lost": 2, "unexplained": 1}
    assert kinds(EVENTS[:5], DECISIONS[:5], gaps=[gap([0], [4])]) == {"lost": 1, "unexplained": 1}
    assert kinds(EVENTS[:5], DECISIONS[:5], gaps=[gap([5], [5], lane="edge.samples")]) == {"lost": 1, "unexplained": 1}


def test_an_event_without_an_answer_is_lost_also_when_nobody_was_told_that_it_is_safe() -> None:
    assert kinds(EVENTS, DECISIONS[:5], acked=4)["lost"] == 1


def test_a_position_behind_an_unanswered_event_is_torn() -> None:
    assert kinds(EVENTS, DECISIONS[:5], position=5) == {"lost": 1, "unexplained": 1}
    assert kinds(EVENTS, DECISIONS[:5], position=6) == {"lost": 1, "unexplained": 1, "torn": 1}


def test_a_dead_letter_is_an_answer_and_two_are_one_too_many() -> None:
    letter = Failure(
        source="x.edge.events", partition=0, offset=5, key=b"p", payload=b"", stage="s", reason="r", problem="",
        failed_at=0,
    )  # fmt: skip
    assert kinds(EVENTS, DECISIONS[:5], letters=[letter], position=6) == {}
    assert kinds(EVENTS, DECISIONS[:5], letters=[letter, letter], position=6) == {"doubled": 1}


def test_a_second_decision_is_doubled_even_when_it_says_the_same() -> None:
    assert kinds(EVENTS, [*DECISIONS, DECISIONS[5]]) == {"doubled": 1}


def test_one_window_under_two_identities_is_doubled() -> None:
    again = event(5, seq=0, epoch=2)
    assert kinds([*EVENTS, again], [*DECISIONS, decision(again)]) == {"doubled": 1}


def test_one_identity_with_two_records_is_corrupt() -> None:
    assert kinds([*EVENTS, event(5, score=5.0)], DECISIONS) == {"corrupt": 1}


def test_what_nobody_sensed_is_a_ghost() -> None:
    strange = event(9)
    assert kinds([*EVENTS, strange], DECISIONS) == {"ghost": 1}
    assert kinds(EVENTS, [*DECISIONS, decision(strange)]) == {"ghost": 1}


def test_other_values_scores_and_verdicts_are_corrupt() -> None:
    assert kinds([*EVENTS[:5], event(5, values=bytes(32))], DECISIONS) == {"corrupt": 1}
    assert kinds([*EVENTS[:5], event(5, score=4.5)], DECISIONS) == {"corrupt": 1}
    assert kinds(EVENTS, [*DECISIONS[:5], decision(EVENTS[5], edge_score=4.5)]) == {"corrupt": 1}
    assert kinds(EVENTS, [*DECISIONS[:5], decision(EVENTS[5], outcome=Outcome.NORMAL)]) == {"corrupt": 1}


def test_bytes_that_are_no_record_are_corrupt() -> None:
    assert kinds([*EVENTS, b"\xc3\x01no"], DECISIONS) == {"corrupt": 1}
    assert kinds(EVENTS, [*DECISIONS, encode(DECISIONS[0])[:-1]]) == {"corrupt": 1}


def test_decisions_and_events_in_another_order_are_named() -> None:
    swapped = [*EVENTS[:4], EVENTS[5], EVENTS[4]]
    assert kinds(swapped, DECISIONS) == {"disorder": 1}
    assert kinds(EVENTS, [*DECISIONS[:4], DECISIONS[5], DECISIONS[4]]) == {"disorder": 1}


def test_a_later_life_of_a_device_may_begin_again_at_zero() -> None:
    later = [event(number, seq=number - 3, epoch=2) for number in (3, 4, 5)]
    assert kinds([*EVENTS[:3], *later], [decision(made) for made in [*EVENTS[:3], *later]]) == {}
