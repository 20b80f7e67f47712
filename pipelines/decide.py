"""Provisional to final: what the heavy model's score makes of an event. Pure."""

from __future__ import annotations

from schemas.records import DecidedBy, Decision, EdgeEvent, Outcome, Verdict

#: Reasons for which a provisional decision stands without the heavy model; they end up in Decision.reason.
NO_MODEL = "no heavy model of that name is published"
KEPT_BACK = "the edge kept the window"
NOT_FINITE = "the window holds values that are not finite"


def by_heavy_model(
    event: EdgeEvent, score: float, threshold: float, version: int, sha256: bytes, decided_at: int
) -> Decision:
    """Final decision of an event by the heavy model's score. Times in microseconds."""
    outcome = Outcome.ANOMALY if score >= threshold else Outcome.NORMAL
    if event.outcome is Outcome.SUSPECT:
        verdict = Verdict.RESOLVED
    else:
        verdict = Verdict.CONFIRMED if event.outcome is outcome else Verdict.OVERRIDDEN
    return _decision(event, outcome, verdict, DecidedBy.HEAVY, "", decided_at, score, threshold, version, sha256)


def by_edge(event: EdgeEvent, reason: str, decided_at: int) -> Decision:
    """Final decision where the heavy model cannot answer: the provisional one stands, and the reason is on record."""
    return _decision(event, event.outcome, Verdict.CONFIRMED, DecidedBy.EDGE, reason, decided_at)


def _decision(
    event: EdgeEvent,
    outcome: Outcome,
    verdict: Verdict,
    decided_by: DecidedBy,
    reason: str,
    decided_at: int,
    heavy_score: float | None = None,
    heavy_threshold: float | None = None,
    heavy_version: int | None = None,
    heavy_sha256: bytes | None = None,
) -> Decision:
    return Decision(
        device_id=event.device_id,
        boot_epoch=event.boot_epoch,
        seq=event.seq,
        cohort=event.cohort,
        sensed_from=event.sensed_from,
        sensed_to=event.sensed_to,
        edge_decided_at=event.decided_at,
        decided_at=decided_at,
        model_name=event.model_name,
        model_version=event.model_version,
        model_sha256=event.model_sha256,
        thresholds_version=event.thresholds_version,
        policy_version=event.policy_version,
        provisional=event.outcome,
        outcome=outcome,
        verdict=verdict,
        decided_by=decided_by,
        reason=reason,
        edge_score=event.score,
        heavy_score=heavy_score,
        heavy_threshold=heavy_threshold,
        heavy_version=heavy_version,
        heavy_sha256=heavy_sha256,
    )
