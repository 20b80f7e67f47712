"""Laws of the decider: one decision per window, alarms that alternate, and nothing but the input decides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_filters.decider import Decider, Provisional
from schemas.manifest import Levels
from schemas.records import Outcome, Transition

finite = st.floats(-10, 10)
scores = st.lists(finite, max_size=60)


@st.composite
def levels(draw: st.DrawFn) -> Levels:
    clear, escalate, up = sorted(draw(st.lists(finite, min_size=3, max_size=3)))
    return Levels(clear_at=clear, escalate_at=escalate, raise_at=up)


def run(values: list[float], each: list[Levels]) -> list[Provisional]:
    decider = Decider()
    return [decider.decide(score, level) for score, level in zip(values, each, strict=False)]


@given(scores, st.lists(levels(), min_size=60, max_size=60))
def test_raised_and_cleared_alternate_starting_with_raised_whatever_the_levels_do(
    values: list[float], each: list[Levels]
) -> None:
    moved = [p.transition for p in run(values, each) if p.transition is not Transition.NONE]
    assert moved == [Transition.RAISED, Transition.CLEARED] * (len(moved) // 2) + [Transition.RAISED] * (len(moved) % 2)


@given(scores, st.lists(levels(), min_size=60, max_size=60))
def test_a_window_is_kept_here_exactly_when_it_is_normal_and_changes_nothing(
    values: list[float], each: list[Levels]
) -> None:
    for provisional in run(values, each):
        quiet = provisional.outcome is Outcome.NORMAL and provisional.transition is Transition.NONE
        assert (provisional.reason == "") == quiet


@given(scores, levels())
def test_the_same_scores_give_the_same_decisions(values: list[float], level: Levels) -> None:
    assert run(values, [level] * len(values)) == run(values, [level] * len(values))


@given(scores, levels(), levels())
def test_a_higher_escalation_level_never_sends_more(values: list[float], one: Levels, other: Levels) -> None:
    low, high = sorted((one.escalate_at, other.escalate_at))
    same = {"clear_at": min(one.clear_at, other.clear_at), "raise_at": max(one.raise_at, other.raise_at)}

    def sent(escalate_at: float) -> int:
        level = Levels(escalate_at=escalate_at, **same)
        return sum(p.reason != "" for p in run(values, [level] * len(values)))

    assert sent(high) <= sent(low)
