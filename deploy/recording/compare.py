"""Two sets of decisions about the same events: are they the same, and where do they first part? Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from schemas.records import Decision

#: Scores of one window may differ by this share: another kind of processor rounds otherwise. On the same kind, none do.
SCORE_TOLERANCE = 1e-5
_EXACT = ("provisional", "outcome", "verdict", "decided_by", "model_sha256", "thresholds_version", "policy_version")
_SCORES = ("edge_score", "heavy_score", "heavy_threshold")
_SHOWN = 20


@dataclass(slots=True)
class Comparison:
    """What came out. `other_model`: decided by another heavy model than was recorded, so not comparable."""

    recorded: int = 0
    replayed: int = 0
    same: int = 0
    different: int = 0
    other_model: int = 0
    missing: int = 0  # recorded, not replayed
    added: int = 0  # replayed, not recorded
    largest_score_gap: float = 0.0
    differences: list[dict[str, Any]] = field(default_factory=list)  # the first ones, by event time

    @property
    def is_same(self) -> bool:
        """Whether every recorded decision was made again."""
        return not (self.different or self.missing or self.other_model)

    def text(self) -> str:
        """In one sentence."""
        parts = [f"{self.same} of {self.recorded} recorded decisions are the same"]
        for count, what in (
            (self.different, "differ"),
            (self.other_model, "were decided by another heavy model than now"),
            (self.missing, "were not decided again"),
            (self.added, "are new"),
        ):
            parts += [f"{count} {what}"] if count else []
        first = self.differences[0] if self.differences else None
        told = f"; the first to differ is {first['event_id']}: {first['differs']}" if first else ""
        return ", ".join(parts) + told


def compare(recorded: Iterable[Decision], replayed: Iterable[Decision], *, in_part: bool = False) -> Comparison:
    """Decision by decision, by event id; of an event decided twice the first decision counts.

    Args:
        in_part: only part of the recording was replayed, so that a missing decision says nothing.
    """
    before, after = _first_each(recorded), _first_each(replayed)
    out = Comparison(recorded=len(before), replayed=len(after), added=len(after.keys() - before.keys()))
    for identity, old in sorted(before.items(), key=lambda item: (item[1].sensed_to, item[0])):
        new = after.get(identity)
        if new is None:
            out.missing += not in_part
            out.recorded -= in_part
        elif old.heavy_sha256 != new.heavy_sha256:
            out.other_model += 1
        else:
            _one(out, old, new)
    return out


def _one(out: Comparison, old: Decision, new: Decision) -> None:
    differs = {
        n: [_plain(getattr(old, n)), _plain(getattr(new, n))] for n in _EXACT if getattr(old, n) != getattr(new, n)
    }
    for name in _SCORES:
        a, b = getattr(old, name), getattr(new, name)
        if a is not None and b is not None:
            out.largest_score_gap = max(out.largest_score_gap, abs(a - b))
        if a != b and (a is None or b is None or not math.isclose(a, b, rel_tol=SCORE_TOLERANCE, abs_tol=1e-9)):
            differs[name] = [a, b]
    if not differs:
        out.same += 1
        return
    out.different += 1
    if len(out.differences) < _SHOWN:
        out.differences.append({"event_id": old.identity.event_id, "differs": differs})


def _first_each(decisions: Iterable[Decision]) -> dict[Any, Decision]:
    found: dict[Any, Decision] = {}
    for decision in decisions:
        found.setdefault(decision.identity, decision)
    return found


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value
