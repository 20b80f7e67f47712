from __future__ import annotations

import pytest

from edge_filters.allocator import Allocator, Lane
from edge_filters.decider import Decider, Provisional
from schemas.ids import Identity
from schemas.manifest import Levels
from schemas.records import Outcome, Transition

LEVELS = Levels(escalate_at=2.0, raise_at=3.0, clear_at=1.0)


@pytest.mark.parametrize(
    ("score", "outcome", "transition", "reason"),
    [
        (1.99, Outcome.NORMAL, Transition.NONE, ""),
        (2.0, Outcome.SUSPECT, Transition.NONE, "suspect"),
        (2.99, Outcome.SUSPECT, Transition.NONE, "suspect"),
        (3.0, Outcome.ANOMALY, Transition.RAISED, "raised"),
    ],
)
def test_without_an_alarm_the_score_alone_decides(
    score: float, outcome: Outcome, transition: Transition, reason: str
) -> None:
    assert Decider().decide(score, LEVELS) == (outcome, transition, reason)


@pytest.mark.parametrize(
    ("score", "outcome", "transition", "reason"),
    [
        (0.99, Outcome.NORMAL, Transition.CLEARED, "cleared"),
        (1.0, Outcome.ANOMALY, Transition.NONE, "alarm"),
        (9.0, Outcome.ANOMALY, Transition.NONE, "alarm"),
    ],
)
def test_with_an_alarm_it_stays_until_the_score_is_below_clear_at(
    score: float, outcome: Outcome, transition: Transition, reason: str
) -> None:
    decider = Decider()
    decider.decide(3.0, LEVELS)
    assert decider.decide(score, LEVELS) == (outcome, transition, reason)


def test_levels_may_change_between_windows() -> None:
    decider = Decider()
    assert decider.decide(2.5, LEVELS).reason == "suspect"
    assert decider.decide(2.5, Levels(escalate_at=3.0, raise_at=4.0, clear_at=1.0)).reason == ""


def provisional(reason: str) -> Provisional:
    return Provisional(Outcome.NORMAL, Transition.NONE, reason)


def test_what_the_edge_is_not_sure_of_is_sent_and_never_sampled() -> None:
    assert Allocator(1.0).allocate(Identity("a", 1, 1), provisional("suspect")) is Lane.EVENT


def test_the_audit_sample_is_drawn_at_its_rate_and_the_same_on_every_run() -> None:
    lanes = [Allocator(0.1).allocate(Identity("a", 1, seq), provisional("")) for seq in range(5000)]
    assert lanes == [Allocator(0.1).allocate(Identity("a", 1, seq), provisional("")) for seq in range(5000)]
    assert 400 < lanes.count(Lane.SAMPLE) < 600
    assert lanes.count(Lane.EVENT) == 0


def test_a_rate_of_nothing_samples_nothing() -> None:
    assert {Allocator(0.0).allocate(Identity("a", 1, n), provisional("")) for n in range(100)} == {Lane.ANSWER}
