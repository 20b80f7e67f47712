"""Score to provisional decision, with hysteresis: raise once, clear once, stay silent between. Pure."""

from __future__ import annotations

from typing import NamedTuple

from schemas.manifest import Levels
from schemas.records import Outcome, Transition


class Provisional(NamedTuple):
    """What the edge makes of a window. `reason`: why the heavy model shall see it, in one word; empty: it need not."""

    outcome: Outcome
    transition: Transition
    reason: str


_NORMAL = Provisional(Outcome.NORMAL, Transition.NONE, "")
_SUSPECT = Provisional(Outcome.SUSPECT, Transition.NONE, "suspect")
_RAISED = Provisional(Outcome.ANOMALY, Transition.RAISED, "raised")
_ALARM = Provisional(Outcome.ANOMALY, Transition.NONE, "alarm")
_CLEARED = Provisional(Outcome.NORMAL, Transition.CLEARED, "cleared")


class Decider:
    """Alarm of one device. Each call to `decide` is one window, and gives exactly one decision.

    >>> levels, decider = Levels(escalate_at=2.0, raise_at=3.0, clear_at=1.0), Decider()
    >>> [decider.decide(score, levels).reason for score in (0.0, 2.5, 3.0, 1.5, 0.9, 0.9)]
    ['', 'suspect', 'raised', 'alarm', 'cleared', '']
    """

    __slots__ = ("alarm",)

    def __init__(self) -> None:
        self.alarm = False

    def decide(self, score: float, levels: Levels) -> Provisional:
        """Decision for the next window's score, which is finite; `levels` may differ from call to call."""
        if self.alarm:
            if score < levels.clear_at:
                self.alarm = False
                return _CLEARED
            return _ALARM
        if score < levels.escalate_at:
            return _NORMAL
        if score >= levels.raise_at:
            self.alarm = True
            return _RAISED
        return _SUSPECT
