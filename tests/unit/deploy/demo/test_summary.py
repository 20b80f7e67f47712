"""The reckoning must turn red for each single thing that is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deploy.demo.observer import Seen
from deploy.demo.summary import percentiles, summarise
from pipelines.decide import by_heavy_model
from schemas import topics
from schemas.codec import encode
from schemas.records import (
    Applied,
    DeviceStatus,
    FeedbackKind,
    FleetWindow,
    Health,
    ModelUpdate,
    TargetKind,
    ThresholdsSource,
    ThresholdUpdate,
)
from tests.doubles import records as make

S = 1_000_000


def status(**changes: Any) -> DeviceStatus:
    fields: dict[str, Any] = {
        "device_id": "pump-1", "boot_epoch": 1, "seq": 0, "cohort": "pumps", "at": 60 * S, "health": Health.OK,
        "problem": None, "model_name": "tiny", "model_version": 1, "model_sha256": b"m" * 32, "thresholds_version": 0,
        "thresholds_source": ThresholdsSource.DEFAULT, "escalate_at": 1.0, "raise_at": 2.0, "clear_at": 0.5,
        "counters": {"readings_sensed": 4, "bytes_sensed": 64, "windows_scored": 3, "windows_escalated": 2},
        "spool_records": 0, "spool_bytes": 0,
    }  # fmt: skip
    return DeviceStatus(**fields | changes)


def thresholds(version: int, issued_at: int = 10 * S) -> ThresholdUpdate:
    return ThresholdUpdate(
        target="pump-1", target_kind=TargetKind.DEVICE, version=version, model_name="tiny", escalate_at=1.1,
        raise_at=2.2, clear_at=0.5, issued_at=issued_at, expires_at=issued_at + 600 * S, reason="",
        evidence=[], evidence_count=30,
    )  # fmt: skip


def fleet(readings: int = 4) -> FleetWindow:
    blank = [0.0, 0.0]
    return FleetWindow(
        cohort="pumps", window_start=0, window_end=S, revision=1, devices=["pump-1"], channels=["c0", "c1"],
        readings=readings, invalid=0, mean=blank, stddev=blank, min=blank, max=blank, p50=blank, p99=blank,
        windows_scored=0, windows_escalated=0, score_max=None,
    )  # fmt: skip


def see(seen: Seen, topic: topics.Topic, record: Any) -> None:
    seen.take(topic.name, encode(record), key_bytes=6, stamped_ms=0)


def balanced() -> Seen:
    """Two events, decided; four readings, aggregated and merged; one threshold update, applied."""
    seen = Seen()
    for seq in (0, 1):
        event = make.event(seq=seq, sensed_to=2 * S, decided_at=2 * S + 1000)
        see(seen, topics.EVENTS, event)
        see(seen, topics.DECISIONS, by_heavy_model(event, 5.0, 2.0, 1, b"h" * 32, 2 * S + 50_000))
    see(seen, topics.AGGREGATES, make.aggregate(rows=np.ones((4, 2), np.float32)))
    see(seen, topics.FLEET, fleet())
    see(seen, topics.THRESHOLDS, thresholds(7))
    done = Applied(
        kind=FeedbackKind.THRESHOLDS, version=7, accepted=True, reason="", issued_at=10 * S, applied_at=10 * S + 80_000
    )
    see(seen, topics.STATUS, status(applied=[done]))
    return seen


def test_balanced_books_have_no_finding_and_the_figures_add_up() -> None:
    figures = summarise(balanced(), ["pump-1"], 60.0)
    assert figures["findings"] == []
    assert (figures["lost"], figures["doubled"], figures["not_applied"], figures["dead_lettered"]) == (0, 0, 0, 0)
    assert (figures["provisional"], figures["final"], figures["events_sent"], figures["agreement"]) == (2, 2, 2, 1.0)
    assert figures["edge_latency_ms"] == {"p50": 1.0, "p99": 1.0}
    assert figures["final_latency_ms"] == {"p50": 50.0, "p99": 50.0}
    assert figures["feedback_latency_ms"] == {"p50": 80.0, "p99": 80.0}
    assert figures["models"]["pump-1"]["before"] == figures["models"]["pump-1"]["after"] == 1


def _forget_decision(seen: Seen) -> None:
    key, _ = seen.decisions.popitem()
    del seen.decided_at[key]


def _forget_event(seen: Seen) -> None:
    seen.events.popitem()


def _decide_twice(seen: Seen) -> None:
    see(seen, topics.DECISIONS, next(iter(seen.decisions.values())))


def _send_twice(seen: Seen) -> None:
    see(seen, topics.EVENTS, next(iter(seen.events.values())))


def _lose_an_aggregate(seen: Seen) -> None:
    seen.aggregated["pump-1"] -= 1


def _merge_too_little(seen: Seen) -> None:
    seen.fleet.clear()
    see(seen, topics.FLEET, fleet(readings=3))


def _ignore_thresholds(seen: Seen) -> None:
    see(seen, topics.THRESHOLDS, thresholds(8))


def _ignore_model(seen: Seen) -> None:
    update = ModelUpdate(
        model_name="tiny",
        version=2,
        cohort="pumps",
        manifest=b"{}",
        manifest_sha256=b"s" * 32,
        issued_at=0,
        expires_at=S,
    )
    see(seen, topics.MODELS, update)


def _never_report(seen: Seen) -> None:
    seen.status.clear()


@pytest.mark.parametrize(
    ("damage", "figure"),
    [
        (_forget_decision, "lost"),
        (_forget_event, "lost"),
        (_lose_an_aggregate, "lost"),
        (_merge_too_little, "lost"),
        (_never_report, "lost"),
        (_decide_twice, "doubled"),
        (_send_twice, "doubled"),
        (_ignore_thresholds, "not_applied"),
        (_ignore_model, "not_applied"),
    ],
)
def test_each_gap_in_the_books_is_found(damage: Callable[[Seen], None], figure: str) -> None:
    seen = balanced()
    damage(seen)
    figures = summarise(seen, ["pump-1"], 60.0)
    assert figures[figure] > 0
    assert figures["findings"]


def test_thresholds_issued_just_before_the_end_are_not_held_against_the_edge() -> None:
    seen = balanced()
    see(seen, topics.THRESHOLDS, thresholds(8, issued_at=59 * S))
    assert summarise(seen, ["pump-1"], 60.0)["not_applied"] == 0


def test_a_record_that_cannot_be_read_counts_as_a_dead_letter() -> None:
    seen = balanced()
    seen.take(topics.DECISIONS.name, b"junk", 0, 0)
    assert summarise(seen, ["pump-1"], 60.0)["dead_lettered"] == 1


def test_a_correction_replaces_its_window_and_an_older_revision_does_not() -> None:
    seen = balanced()
    see(seen, topics.FLEET, replace(fleet(readings=5), revision=3))
    see(seen, topics.FLEET, replace(fleet(readings=4), revision=2))
    (window,) = seen.fleet.values()
    assert window.readings == 5


def test_nothing_measured_has_no_percentile() -> None:
    assert percentiles([]) == {"p50": None, "p99": None}
