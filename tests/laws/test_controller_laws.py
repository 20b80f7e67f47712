"""Laws of the threshold controller: bounded, ordered, monotone in its versions, and at rest in the end."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipelines.controller import ControllerPolicy, DeviceState, Evidence, ThresholdController, merged, of_decisions
from pipelines.decide import by_heavy_model
from schemas.manifest import Bounds, Levels, Manifest, parse_manifest
from schemas.records import ThresholdUpdate
from tests.doubles import records as make
from tests.doubles.tiny_model import manifest_bytes

POLICY = ControllerPolicy(min_escalated=10, min_audited=5, ttl_us=1_000_000)
BASE = parse_manifest(manifest_bytes())


def manifest_of(levels: Levels = BASE.levels, bounds: Bounds = BASE.bounds, **changes: Any) -> Manifest:
    return BASE.model_copy(update={"levels": levels, "bounds": bounds} | changes)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    value = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))
    clear_at, escalate_at, raise_at = sorted([draw(value), draw(value), draw(value)])
    low = escalate_at - draw(st.floats(0, 50))
    high = raise_at + draw(st.floats(0, 50))
    return manifest_of(
        Levels(escalate_at=escalate_at, raise_at=raise_at, clear_at=clear_at), Bounds(low=low, high=high)
    )


@st.composite
def counts(draw: st.DrawFn) -> dict[str, int]:
    escalated, audited = draw(st.integers(0, 40)), draw(st.integers(0, 40))
    return {
        "escalated": escalated,
        "overridden": draw(st.integers(0, escalated)),
        "audited": audited,
        "missed": draw(st.integers(0, audited)),
    }


def evidence(version: int, at_us: int, **changes: Any) -> Evidence:
    return Evidence(device_id="pump-1", model_name="tiny", thresholds_version=version, at_us=at_us, **changes)


class Device:
    """Obeys as an edge does: the last update until it expires, then the defaults."""

    def __init__(self, manifest: Manifest, policy: ControllerPolicy = POLICY) -> None:
        self.manifest, self.controller, self.state = manifest, ThresholdController(policy), DeviceState()
        self.updates: list[ThresholdUpdate] = []

    def in_force(self, at_us: int) -> tuple[int, Levels]:
        if self.updates and at_us < self.updates[-1].expires_at:
            last = self.updates[-1]
            levels = Levels(escalate_at=last.escalate_at, raise_at=last.raise_at, clear_at=last.clear_at)
            return last.version, levels
        return 0, self.manifest.levels_of("pump-1")

    def tell(self, at_us: int, **seen: Any) -> ThresholdUpdate | None:
        version, _ = self.in_force(at_us)
        return self.hear(evidence(version, at_us, **seen))

    def hear(self, new: Evidence) -> ThresholdUpdate | None:
        self.state, update = self.controller.step(self.state, new, self.manifest)
        if update is not None:
            self.updates.append(update)
        return update


Histories = st.lists(st.tuples(st.integers(0, 700_000), counts()), max_size=40)


@given(manifests(), Histories)
def test_every_step_is_bounded_ordered_and_inside_of_the_models_bounds(manifest: Manifest, history: Any) -> None:
    device, at_us = Device(manifest), 1
    d = manifest.levels
    unit = max(abs(d.escalate_at), abs(d.raise_at), abs(d.clear_at)) or manifest.bounds.high - manifest.bounds.low
    for pause_us, seen in history:
        at_us += pause_us
        _, before = device.in_force(at_us)
        update = device.tell(at_us, **seen)
        if update is None:
            continue
        assert update.clear_at <= update.escalate_at <= update.raise_at
        assert manifest.bounds.low <= update.escalate_at
        assert update.raise_at <= manifest.bounds.high
        for level in ("escalate_at", "raise_at", "clear_at"):
            assert abs(getattr(update, level) - getattr(before, level)) <= POLICY.step * unit * (1 + 1e-6) + 1e-9


@given(st.lists(st.tuples(st.integers(-5_000_000, 5_000_000), counts()), max_size=40))
def test_versions_only_grow_even_when_the_clock_jumps(history: Any) -> None:
    device, at_us = Device(BASE), 10_000_000
    for jump_us, seen in history:
        at_us = max(1, at_us + jump_us)
        device.tell(at_us, **seen)
    versions = [update.version for update in device.updates]
    assert all(a < b for a, b in itertools.pairwise(versions))
    assert all(v > 0 for v in versions)


@given(counts(), st.integers(1, 2**40), st.integers(1, 100))
def test_evidence_made_under_other_thresholds_says_nothing(seen: dict[str, int], at_us: int, other: int) -> None:
    device = Device(BASE)
    before = device.state
    assert device.hear(evidence(other, at_us, **seen)) is None
    assert device.state == before


@given(manifests(), Histories)
def test_the_same_evidence_gives_the_same_updates_also_through_bytes(manifest: Manifest, history: Any) -> None:
    plain, saved, at_us = Device(manifest), Device(manifest), 1
    for pause_us, seen in history:
        at_us += pause_us
        told = evidence(plain.in_force(at_us)[0], at_us, event_ids=(f"pump-1:1:{at_us}",), **seen)
        assert Evidence.from_bytes(told.to_bytes()) == told
        saved.state = DeviceState.from_bytes(saved.state.to_bytes())
        assert saved.state == plain.state
        assert plain.hear(told) == saved.hear(Evidence.from_bytes(told.to_bytes()))


@given(counts(), counts())
def test_evidence_adds_up(a: dict[str, int], b: dict[str, int]) -> None:
    both = evidence(0, 1, event_ids=("a",), **a).merge(evidence(0, 5, event_ids=("b",), **b))
    assert (both.at_us, both.event_ids) == (5, ("a", "b"))
    assert {key: getattr(both, key) for key in a} == {key: a[key] + b[key] for key in a}


def windows(seed: int, share: float, audit_rate: float, heavy_limit: float) -> Iterator[tuple[float, bool, bool]]:
    """Edge score, whether the heavy model calls it anomalous, whether it is audited when not escalated."""
    draw = random.Random(seed)
    while True:
        anomalous = draw.random() < share
        score = draw.gauss(heavy_limit + 0.8, 0.6) if anomalous else draw.gauss(heavy_limit - 0.8, 0.6)
        yield score, anomalous, draw.random() < audit_rate


@given(
    seed=st.integers(0, 2**32),
    share=st.floats(0.0, 0.9),
    audit_rate=st.floats(0.05, 1.0),
    heavy_limit=st.floats(0.2, 8.0),
)
def test_a_device_whose_scores_do_not_change_comes_to_rest(
    seed: int, share: float, audit_rate: float, heavy_limit: float
) -> None:
    """However the edge's scores overlap, also where no level satisfies both limits: no level is left twice upwards."""
    policy = ControllerPolicy(min_escalated=30, min_audited=20, ttl_us=600_000_000)
    device, at_us = Device(BASE, policy), 0
    draws = windows(seed, share, audit_rate, heavy_limit)
    moves: list[int] = []  # +1 and -1
    for _ in range(6_000):
        at_us += 100_000
        _, levels = device.in_force(at_us)
        score, anomalous, audited = next(draws)
        if score >= levels.escalate_at:
            update = device.tell(at_us, escalated=1, overridden=int(not anomalous))
        elif audited:
            update = device.tell(at_us, audited=1, missed=int(anomalous))
        else:
            continue
        if update is not None and update.escalate_at != levels.escalate_at:
            moves.append(1 if update.escalate_at > levels.escalate_at else -1)
    turns_up = sum((a, b) == (-1, 1) for a, b in itertools.pairwise(moves))
    # Up again only to below what missed too much: with steps of 0.1 of a default of 1 in bounds of 0.1 to 10 that is
    # at most once per level. An oscillation would turn every 30 windows, 100 times here and more.
    assert turns_up <= 5, moves
    assert len(moves) <= 105, moves


def test_where_no_level_satisfies_both_limits_it_settles_below_the_one_that_missed() -> None:
    """At 1.0 half of the audited windows are missed, below it all that is escalated is normal: a controller without
    memory would go up and down between them for ever."""
    device = Device(BASE)
    at_us = 0
    moves = []
    for _ in range(200):
        at_us += 1_000
        _, levels = device.in_force(at_us)
        if levels.escalate_at > 0.95:
            update = device.tell(at_us, audited=5, missed=3)
        else:
            update = device.tell(at_us, escalated=10, overridden=10)
        if update is not None:
            moves.append(round(update.escalate_at, 6))
    assert moves == [0.9]


def test_a_level_that_missed_too_much_is_tried_again_after_a_while() -> None:
    device = Device(BASE)
    assert device.tell(1, audited=5, missed=3) is not None
    assert device.state.ceiling is not None
    later_us = device.state.ceiling.until_us
    assert device.tell(2, escalated=10, overridden=10) is None
    while device.tell(later_us, escalated=10, overridden=10) is None:
        later_us += 1
    assert device.updates[-1].escalate_at > BASE.levels.escalate_at


def test_steady_rates_are_answered_in_as_many_steps_as_the_distance_needs_and_then_only_renewed() -> None:
    """Overridden until 2.0: ten steps of 0.1 from 1.0, and after that nothing but renewals of the same levels."""
    device, at_us = Device(BASE), 0
    seen = []
    for _ in range(2_000):
        at_us += 10_000
        _, levels = device.in_force(at_us)
        overridden = 10 if levels.escalate_at < 1.95 else 0
        update = device.tell(at_us, escalated=10, overridden=overridden, audited=5, missed=0)
        if update is not None:
            seen.append(round(update.escalate_at, 6))
    assert seen[:10] == [1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0]
    assert set(seen[10:]) == {2.0}
    assert 20_000_000 / POLICY.ttl_us <= len(seen[10:]) <= 20_000_000 / (POLICY.ttl_us // 2)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1), st.floats(0, 4), st.integers(1, 9)), max_size=150))
def test_evidence_of_many_decisions_is_the_merged_evidence_of_each(told: list[tuple[str, int, float, int]]) -> None:
    decisions = [
        by_heavy_model(make.event(device, seq, thresholds_version=version), score, 2.0, 1, b"h" * 32, at_us)
        for seq, (device, version, score, at_us) in enumerate(told)
    ]
    assert of_decisions(decisions) == merged(e for decision in decisions for e in of_decisions([decision]))
