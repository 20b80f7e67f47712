from __future__ import annotations

from typing import Any

import pytest

from pipelines.controller import (
    MAX_EVIDENCE_IDS,
    Ceiling,
    ControllerPolicy,
    DeviceState,
    Evidence,
    ThresholdController,
    merged,
    of_audit,
    of_decisions,
)
from pipelines.decide import by_edge, by_heavy_model
from schemas.errors import ConfigError, DecodeError
from schemas.manifest import Bounds, Levels, Manifest, parse_manifest
from schemas.records import Outcome, TargetKind, ThresholdUpdate
from tests.doubles import records as make
from tests.doubles.tiny_model import manifest_bytes

POLICY = ControllerPolicy(min_escalated=10, min_audited=5, ttl_us=1_000_000)
CONTROL = ThresholdController(POLICY)
MANIFEST = parse_manifest(manifest_bytes())
TOO_MANY: dict[str, Any] = {"escalated": 10, "overridden": 10}
TOO_FEW: dict[str, Any] = {"audited": 5, "missed": 5}
FINE: dict[str, Any] = {"escalated": 10, "overridden": 5, "audited": 10, "missed": 1}


def seen(version: int = 0, at_us: int = 1_000, model: str = "tiny", **counts: Any) -> Evidence:
    return Evidence(device_id="pump-1", model_name=model, thresholds_version=version, at_us=at_us, **counts)


def with_levels(escalate_at: float, raise_at: float, clear_at: float, low: float, high: float) -> Manifest:
    levels = Levels(escalate_at=escalate_at, raise_at=raise_at, clear_at=clear_at)
    return MANIFEST.model_copy(update={"levels": levels, "bounds": Bounds(low=low, high=high)})


def issued(
    state: DeviceState, evidence: Evidence, manifest: Manifest = MANIFEST
) -> tuple[DeviceState, ThresholdUpdate]:
    state, update = CONTROL.step(state, evidence, manifest)
    assert update is not None
    return state, update


def test_too_many_overrides_escalate_less_and_say_why() -> None:
    state, update = issued(DeviceState(), seen(event_ids=("pump-1:1:1", "pump-1:1:2"), **TOO_MANY))
    assert (update.escalate_at, update.raise_at, update.clear_at) == pytest.approx((1.1, 2.2, 0.55))
    assert (update.target, update.target_kind, update.model_name) == ("pump-1", TargetKind.DEVICE, "tiny")
    assert (update.issued_at, update.expires_at) == (1_000, 1_001_000)
    assert update.reason == "the heavy model calls 10 of 10 escalated windows normal"
    assert update.evidence == ["pump-1:1:1", "pump-1:1:2"]
    assert (update.evidence_count, update.override_rate, update.missed_rate) == (10, 1.0, None)
    assert (state.version, state.gathered) == (update.version, None)


def test_too_many_missed_escalate_more() -> None:
    _, update = issued(DeviceState(), seen(**TOO_FEW))
    assert (update.escalate_at, update.raise_at, update.clear_at) == pytest.approx((0.9, 1.8, 0.45))
    assert update.reason == "the heavy model calls 5 of 5 audited windows anomalous"


def test_missed_windows_win_over_overrides() -> None:
    _, update = issued(DeviceState(), seen(**TOO_MANY, **TOO_FEW))
    assert update.escalate_at < 1.0


@pytest.mark.parametrize(
    "counts",
    [
        FINE,
        {"escalated": 10, "overridden": 5},
        {"audited": 10, "missed": 1},
        {"escalated": 9, "overridden": 9, "audited": 4, "missed": 4},  # bad, but too little to tell
        {},
    ],
)
def test_inside_of_the_dead_band_or_with_little_evidence_nothing_is_issued(counts: dict[str, int]) -> None:
    state, update = CONTROL.step(DeviceState(), seen(**counts), MANIFEST)
    assert update is None
    assert state.version == 0


def test_evidence_is_merged_per_device_model_and_version_of_thresholds() -> None:
    def told(device: str, version: int, model: str = "tiny") -> Evidence:
        return Evidence(device_id=device, model_name=model, thresholds_version=version, at_us=1, escalated=1)

    together = merged([told("a", 1), told("b", 1), told("a", 1), told("a", 2), told("a", 1, "new")])
    assert [(e.device_id, e.thresholds_version, e.model_name, e.escalated) for e in together] == [
        ("a", 1, "tiny", 2),
        ("b", 1, "tiny", 1),
        ("a", 2, "tiny", 1),
        ("a", 1, "new", 1),
    ]


def test_evidence_in_small_pieces_counts_like_one() -> None:
    state, update = DeviceState(), None
    for at_us in range(1, 11):
        state, update = CONTROL.step(state, seen(at_us=at_us, escalated=1, overridden=1), MANIFEST)
        assert (update is None) == (at_us < 10)
    assert update is not None
    assert update.issued_at == 10


def test_at_most_64_event_ids_go_along_the_newest_last() -> None:
    ids = tuple(f"pump-1:1:{i}" for i in range(100))
    first = seen(escalated=1, overridden=1, event_ids=ids[:50]).merge(seen(**TOO_MANY, event_ids=ids[50:]))
    _, update = issued(DeviceState(), first)
    assert update.evidence == list(ids[-MAX_EVIDENCE_IDS:])


def test_an_update_is_renewed_after_half_of_its_time_to_live() -> None:
    state, first = issued(DeviceState(), seen(**TOO_MANY))
    state, none = CONTROL.step(state, seen(first.version, 501_000, **FINE), MANIFEST)
    assert none is None
    state, second = issued(state, seen(first.version, 501_001, **FINE))
    assert second.reason == "the evidence still supports these thresholds"
    assert (second.escalate_at, second.raise_at, second.clear_at) == (
        first.escalate_at,
        first.raise_at,
        first.clear_at,
    )
    assert second.version > first.version
    assert second.expires_at == 1_501_001


def test_without_evidence_an_update_is_not_renewed() -> None:
    state, first = issued(DeviceState(), seen(**TOO_MANY))
    state, none = CONTROL.step(state, seen(first.version, 700_000, escalated=2), MANIFEST)
    assert none is None


def test_after_expiry_the_defaults_hold_and_the_next_step_starts_from_them() -> None:
    state, first = issued(DeviceState(), seen(**TOO_MANY))
    state, second = issued(state, seen(first.version, 2_000, **TOO_MANY))
    assert second.escalate_at == pytest.approx(1.2)
    late_us = second.expires_at
    state, none = CONTROL.step(state, seen(second.version, late_us, **TOO_MANY), MANIFEST)
    assert none is None  # made under thresholds that do not hold any more
    state, third = issued(state, seen(0, late_us, **TOO_MANY))
    assert third.escalate_at == pytest.approx(1.1)
    assert third.version > second.version


def test_at_the_edge_of_the_bounds_thresholds_are_still_renewed() -> None:
    """They would expire otherwise, fall back to the defaults, and climb up again for ever."""
    tight = with_levels(1.0, 2.0, 0.5, low=0.1, high=2.0)
    state, at_us, levels = DeviceState(), 0, []
    for _ in range(300):
        at_us += 10_000
        version = state.version if at_us < state.expires_at_us else 0
        state, update = CONTROL.step(state, seen(version, at_us, **TOO_MANY), tight)
        if update is not None:
            levels.append(round(update.escalate_at, 6))
    assert levels[:10] == [1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0]
    assert set(levels[10:]) == {2.0}
    assert len(levels) > 12


def test_clear_at_does_not_drift_away_at_the_lower_edge() -> None:
    state, at_us, last = DeviceState(), 0, None
    for _ in range(100):
        at_us += 1_000
        state, update = CONTROL.step(state, seen(state.version, at_us, **TOO_FEW), MANIFEST)
        last = update or last
    assert last is not None
    assert last.escalate_at == pytest.approx(0.1)
    assert last.raise_at == pytest.approx(0.1)
    assert 0.0 <= last.clear_at <= 0.1
    state, update = CONTROL.step(state, seen(state.version, at_us + 1, **TOO_FEW), MANIFEST)
    assert update is None


@pytest.mark.parametrize(
    ("manifest", "step"),
    [
        (with_levels(0.0, 2.0, -1.0, -10, 10), 0.2),  # of the largest default
        (with_levels(0.0, 0.0, 0.0, -5, 5), 1.0),  # of the width of the bounds
        (with_levels(-1.0, -0.5, -2.0, -10, 10), 0.1),
    ],
)
def test_levels_of_zero_and_below_can_move_too(manifest: Manifest, step: float) -> None:
    _, up = issued(DeviceState(), seen(**TOO_MANY), manifest)
    _, down = issued(DeviceState(), seen(**TOO_FEW), manifest)
    assert up.escalate_at == pytest.approx(manifest.levels.escalate_at + step)
    assert down.escalate_at == pytest.approx(manifest.levels.escalate_at - step)


def test_a_new_version_of_the_model_with_other_bounds_sends_the_controller_back_to_the_defaults_with_the_edge() -> None:
    state, first = issued(DeviceState(), seen(**TOO_MANY))
    larger = with_levels(50.0, 60.0, 40.0, low=20.0, high=100.0)  # 1.1 lies outside: the edge drops it
    _, second = issued(state, seen(0, 2_000, **TOO_MANY), larger)
    assert second.escalate_at == pytest.approx(55.0)
    assert second.version > first.version


def test_a_new_version_of_the_model_whose_bounds_fit_keeps_the_thresholds() -> None:
    state, first = issued(DeviceState(), seen(**TOO_MANY))
    _, second = issued(state, seen(first.version, 2_000, **TOO_MANY), with_levels(1.0, 3.0, 0.5, 0.1, 20.0))
    assert second.escalate_at == pytest.approx(1.2)


def test_late_evidence_of_another_model_does_not_make_it_forget_what_is_in_force() -> None:
    state, first = issued(DeviceState(), seen(model="new", **TOO_MANY))
    state, none = CONTROL.step(state, seen(77, 1_500, model="old", **TOO_MANY), MANIFEST)
    assert none is None
    _, second = issued(state, seen(first.version, 2_000, model="new", **TOO_MANY))
    assert second.escalate_at == pytest.approx(1.2)


def test_another_model_starts_from_its_defaults_with_a_newer_version() -> None:
    state, first = issued(DeviceState(), seen(model="old", at_us=10**9, **TOO_MANY))
    _, second = issued(state, seen(0, 1, model="new", **TOO_MANY))
    assert second.model_name == "new"
    assert second.version == first.version + 1
    assert second.escalate_at == pytest.approx(1.1)


def test_a_clock_that_is_set_back_gets_a_new_and_shorter_time_to_live() -> None:
    state, first = issued(DeviceState(), seen(at_us=10**15, **TOO_MANY))
    _, second = issued(state, seen(first.version, 1_000_000, **FINE))
    assert second.version == first.version + 1
    assert second.expires_at == 2_000_000
    assert second.escalate_at == first.escalate_at


def test_a_long_quiet_past_does_not_outvote_what_happens_now() -> None:
    state = DeviceState()
    for at_us in range(1, 2_000):
        state, update = CONTROL.step(state, seen(at_us=at_us, escalated=1, audited=1), MANIFEST)
        assert update is None
    for more in range(1, 200):
        state, update = CONTROL.step(state, seen(at_us=2_000 + more, escalated=1, overridden=1), MANIFEST)
        if update is not None:
            break
    assert update is not None
    assert more <= 4 * POLICY.min_escalated + POLICY.min_escalated


def test_only_what_the_heavy_model_answered_of_windows_the_edge_did_not_call_normal_is_evidence() -> None:
    normal = by_heavy_model(make.event(), 0.0, 2.0, 1, b"h" * 32, 5)
    (found,) = of_decisions([normal])
    assert found == seen(at_us=5, escalated=1, overridden=1, event_ids=("pump-1:1:0",))
    (anomaly,) = of_decisions([by_heavy_model(make.event(), 9.0, 2.0, 1, b"h" * 32, 5)])
    assert anomaly.overridden == 0
    assert of_decisions([by_edge(make.event(), "no model", 5)]) == []
    cleared = make.event(outcome=Outcome.NORMAL, reason="cleared")
    assert of_decisions([by_heavy_model(cleared, 0.0, 2.0, 1, b"h" * 32, 5)]) == []


def test_an_audited_window_is_evidence_of_what_was_missed() -> None:
    assert of_audit("pump-1", "tiny", 3, "pump-1:1:9", True, 7) == seen(
        3, 7, audited=1, missed=1, event_ids=("pump-1:1:9",)
    )


def test_state_survives_bytes_with_all_it_holds() -> None:
    state = DeviceState(
        version=5,
        model_name="tiny",
        levels=(1.0, 2.0, 0.5),
        issued_at_us=3,
        expires_at_us=9,
        gathered=seen(event_ids=("a", "b"), **FINE),
        ceiling=Ceiling(escalate_at=1.5, model_version=2, until_us=99),
    )
    assert DeviceState.from_bytes(state.to_bytes()) == state
    assert DeviceState.from_bytes(DeviceState().to_bytes()) == DeviceState()


@pytest.mark.parametrize(
    "data", [b"", b"{", b"5", b'"x"', b"[]", b"{}", b"null", b"\xff", b'{"levels":1,"gathered":2}']
)
def test_other_bytes_are_neither_state_nor_evidence(data: bytes) -> None:
    with pytest.raises(DecodeError, match="state of the controller"):
        DeviceState.from_bytes(data)
    with pytest.raises(DecodeError, match="evidence"):
        Evidence.from_bytes(data)


@pytest.mark.parametrize(
    "wrong",
    [{"step": 0.0}, {"step": 0.6}, {"override_high": 1.0}, {"missed_high": 0.0}, {"step": float("nan")}],
)
def test_rates_outside_of_their_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"controller rates must lie in \(0, 1\) and the step in \(0, 0.5\]"):
        ControllerPolicy(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"min_escalated": 0}, {"min_audited": 0}, {"ttl_us": 0}])
def test_counts_below_one_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="counts and ttl must be at least 1"):
        ControllerPolicy(**wrong)  # type: ignore[arg-type]
