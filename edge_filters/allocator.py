"""Where the answer to a window is made, and what travels for it. Pure, and the one place that decides this.

Today: the edge answers what it is sure of, sends the window itself where it is not, and sends a random sample of what
it answered, because feedback that only sees hard cases is blind to what the edge misses. Features, activations or
"aggregate only" would be further values of `Lane`, chosen here by cost and sensitivity.
"""

from __future__ import annotations

from enum import Enum

from edge_filters.decider import Provisional
from schemas.ids import Identity, chosen_for_audit

#: Goes into every event, so that it can be told later by which rules a window travelled. Change it with the rules.
POLICY_VERSION = 1


class Lane(Enum):
    """What becomes of a scored window."""

    ANSWER = "answered here"
    EVENT = "sent as an event, with the window"
    SAMPLE = "answered here, and sent as an audit sample"


class Allocator:
    """Allocation by the provisional decision and an audit rate in [0, 1]."""

    def __init__(self, audit_rate: float) -> None:
        self.audit_rate = audit_rate

    def allocate(self, identity: Identity, provisional: Provisional) -> Lane:
        """Lane of one window. The same identity and decision give the same lane on every run."""
        if provisional.reason:
            return Lane.EVENT
        if self.audit_rate and chosen_for_audit(identity.event_id, self.audit_rate):
            return Lane.SAMPLE
        return Lane.ANSWER
