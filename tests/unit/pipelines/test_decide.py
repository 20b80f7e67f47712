from __future__ import annotations

import pytest

from pipelines import decide
from schemas.records import DecidedBy, Outcome, Verdict
from tests.doubles import records as make

SHA = b"h" * 32


@pytest.mark.parametrize(
    ("provisional", "score", "outcome", "verdict"),
    [
        (Outcome.ANOMALY, 2.5, Outcome.ANOMALY, Verdict.CONFIRMED),
        (Outcome.ANOMALY, 2.0, Outcome.ANOMALY, Verdict.CONFIRMED),  # at the threshold is an anomaly
        (Outcome.ANOMALY, 1.9, Outcome.NORMAL, Verdict.OVERRIDDEN),
        (Outcome.NORMAL, 2.5, Outcome.ANOMALY, Verdict.OVERRIDDEN),
        (Outcome.NORMAL, 1.9, Outcome.NORMAL, Verdict.CONFIRMED),
        (Outcome.SUSPECT, 2.5, Outcome.ANOMALY, Verdict.RESOLVED),
        (Outcome.SUSPECT, 1.9, Outcome.NORMAL, Verdict.RESOLVED),
        (Outcome.UNKNOWN, 2.5, Outcome.ANOMALY, Verdict.OVERRIDDEN),
        (Outcome.UNKNOWN, 1.9, Outcome.NORMAL, Verdict.OVERRIDDEN),
    ],
)
def test_what_the_heavy_score_makes_of_a_provisional_decision(
    provisional: Outcome, score: float, outcome: Outcome, verdict: Verdict
) -> None:
    made = decide.by_heavy_model(make.event(outcome=provisional), score, 2.0, 7, SHA, decided_at=9)
    assert (made.provisional, made.outcome, made.verdict) == (provisional, outcome, verdict)
    assert (made.decided_by, made.reason) == (DecidedBy.HEAVY, "")
    assert (made.heavy_score, made.heavy_threshold, made.heavy_version, made.heavy_sha256) == (score, 2.0, 7, SHA)


@pytest.mark.parametrize("provisional", list(Outcome))
def test_without_the_heavy_model_the_provisional_decision_stands_with_the_reason(provisional: Outcome) -> None:
    made = decide.by_edge(make.event(outcome=provisional), decide.KEPT_BACK, decided_at=9)
    assert (made.outcome, made.verdict, made.decided_by) == (provisional, Verdict.CONFIRMED, DecidedBy.EDGE)
    assert made.reason == "the edge kept the window"
    assert (made.heavy_score, made.heavy_threshold, made.heavy_version, made.heavy_sha256) == (None,) * 4


def test_a_decision_carries_identity_and_provenance_of_its_event() -> None:
    event = make.event("plant/pump-9", 41, thresholds_version=5, policy_version=3, model_version=4)
    made = decide.by_heavy_model(event, 1.0, 2.0, 7, SHA, decided_at=9)
    assert made.identity == event.identity
    for same in ("cohort", "sensed_from", "sensed_to", "model_name", "model_version", "model_sha256"):
        assert getattr(made, same) == getattr(event, same)
    assert (made.thresholds_version, made.policy_version) == (5, 3)
    assert (made.edge_decided_at, made.edge_score, made.decided_at) == (event.decided_at, event.score, 9)
