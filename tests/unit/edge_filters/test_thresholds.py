from __future__ import annotations

import math
from typing import Any

import pytest

from edge_filters.thresholds import Thresholds
from schemas.errors import UpdateRefused
from schemas.records import TargetKind, ThresholdsSource
from tests.doubles import edge_model
from tests.doubles.edge_parts import T0, thresholds

HOUR = 3_600_000_000


@pytest.fixture
def held() -> Thresholds:
    return Thresholds("pump-7", "pumps", edge_model.package().manifest)


def test_before_any_feedback_the_package_defaults_are_in_force(held: Thresholds) -> None:
    assert held.at(T0)[:3] == (edge_model.package().manifest.levels, 0, ThresholdsSource.DEFAULT)


def test_an_update_for_the_device_is_in_force_at_once(held: Thresholds) -> None:
    assert held.offer(thresholds(version=3), T0)
    in_force = held.at(T0)
    assert (in_force.levels.raise_at, in_force.version, in_force.source) == (5.0, 3, ThresholdsSource.FEEDBACK)


def test_an_update_for_others_is_none_of_our_business(held: Thresholds) -> None:
    assert not held.offer(thresholds(target="pump-8"), T0)
    assert not held.offer(thresholds(target="pump-7", target_kind=TargetKind.COHORT), T0)
    assert held.at(T0).version == 0


def test_the_same_update_twice_is_applied_once_and_not_refused(held: Thresholds) -> None:
    assert held.offer(thresholds(), T0)
    assert not held.offer(thresholds(), T0)


def test_what_is_for_the_device_goes_before_what_is_for_the_cohort(held: Thresholds) -> None:
    cohort = thresholds(target="pumps", target_kind=TargetKind.COHORT, version=9, raise_at=7.0)
    assert held.offer(thresholds(version=1, expires_at=T0 + HOUR), T0)
    assert held.offer(cohort, T0)
    assert held.at(T0).version == 1
    assert held.at(T0 + HOUR).source is ThresholdsSource.EXPIRED


def test_versions_are_counted_per_target(held: Thresholds) -> None:
    assert held.offer(thresholds(version=9), T0)
    assert held.offer(thresholds(target="pumps", target_kind=TargetKind.COHORT, version=2), T0)


def test_after_the_time_to_live_the_defaults_are_back(held: Thresholds) -> None:
    held.offer(thresholds(), T0)
    assert held.at(T0 + HOUR - 1).source is ThresholdsSource.FEEDBACK
    assert held.at(T0 + HOUR)[:3] == (edge_model.package().manifest.levels, 0, ThresholdsSource.EXPIRED)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"model_name": "other"},
            "thresholds are for another model (target='pump-7', version=5, got='other', running='tiny')",
        ),
        (
            {"version": 4, "raise_at": 6.0},
            "thresholds are not newer than those in force (target='pump-7', version=4, have=4)",
        ),
        ({"expires_at": T0}, "thresholds are expired (target='pump-7', version=5, late_by_s=0.0)"),
        (
            {"clear_at": 4.5},
            "thresholds must be finite and satisfy clear_at <= escalate_at <= raise_at "
            "(target='pump-7', version=5, clear_at=4.5, escalate_at=4.0, raise_at=5.0)",
        ),
        (
            {"raise_at": math.nan},
            "thresholds must be finite and satisfy clear_at <= escalate_at <= raise_at "
            "(target='pump-7', version=5, clear_at=3.0, escalate_at=4.0, raise_at=nan)",
        ),
        (
            {"raise_at": 101.0},
            "thresholds lie outside of the model's bounds "
            "(target='pump-7', version=5, escalate_at=4.0, raise_at=101.0, low=0.5, high=100.0)",
        ),
    ],
)
def test_a_broken_rule_is_refused_with_a_sentence_and_nothing_changes(
    held: Thresholds, changes: dict[str, Any], sentence: str
) -> None:
    held.offer(thresholds(version=4), T0)
    before = held.at(T0)
    with pytest.raises(UpdateRefused) as refused:
        held.offer(thresholds(**{"version": 5} | changes), T0)
    assert str(refused.value) == sentence
    assert held.at(T0) == before


def test_another_model_drops_what_its_bounds_forbid(held: Thresholds) -> None:
    held.offer(thresholds(), T0)
    held.adopt(edge_model.package(version=2, bounds=(0.5, 4.5)).manifest, T0)
    assert held.at(T0).source is ThresholdsSource.DEFAULT


def test_another_model_keeps_what_its_bounds_allow(held: Thresholds) -> None:
    held.offer(thresholds(), T0)
    held.adopt(edge_model.package(version=2).manifest, T0)
    assert held.at(T0).source is ThresholdsSource.FEEDBACK
