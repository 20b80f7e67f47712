from __future__ import annotations

import numpy as np
import pytest

from edge_filters.blocks import Block
from edge_filters.device import Rules
from edge_filters.engine import AGGREGATES_PER_STEP, Engine, Step
from schemas.artifacts import cut
from schemas.codec import decode, encode
from schemas.errors import ModelError
from schemas.records import EdgeAggregate, EdgeEvent, FeedbackKind, Health, Outcome, SensorBlock, TargetKind, Transition
from schemas.sketch import Sketch
from tests.doubles.edge_parts import T0, ManualClock, block, engine, model_update, thresholds

CLOCK = ManualClock()


def events(step: Step) -> list[EdgeEvent]:
    return [record for record in step.records if isinstance(record, EdgeEvent)]


def aggregates(step: Step) -> list[EdgeAggregate]:
    return [record for record in step.records if isinstance(record, EdgeAggregate)]


def test_a_quiet_window_is_answered_here_and_nothing_is_sent() -> None:
    made = engine()
    assert made.step([block([0.1] * 4)], CLOCK).records == []
    counters = made.devices["pump-7"].counters
    assert (counters["windows_scored"], counters["windows_answered"], counters["readings_sensed"]) == (1, 1, 4)
    assert counters["bytes_sensed"] == 4 * (8 + 2 * 4)


def test_an_escalated_window_travels_with_its_decision_and_its_readings() -> None:
    made = engine()
    sensed = block([5.0] * 4)
    (event,) = events(made.step([sensed], ManualClock(T0 + 777)))
    assert (event.device_id, event.boot_epoch, event.seq, event.cohort) == ("pump-7", 1, 0, "pumps")
    assert (event.sensed_from, event.sensed_to, event.decided_at) == (T0, T0 + 3000, T0 + 777)
    assert (event.outcome, event.transition, event.reason) == (Outcome.ANOMALY, Transition.RAISED, "raised")
    assert event.score == pytest.approx(5.0)
    assert (event.matrix == sensed.values).all()
    assert (event.model_name, event.model_version, event.thresholds_version) == ("tiny", 1, 0)
    assert event.model_sha256 == made.slots[0].sha256


def test_seq_counts_every_window_so_that_gaps_show_what_was_answered_here() -> None:
    made = engine()
    sent = [event.seq for at in range(6) for event in events(made.step([block([5.0 * (at % 3 == 0)] * 4)], CLOCK))]
    assert sent == [0, 1, 3, 4]  # raised, cleared, answered, and again


def test_windows_of_many_devices_are_scored_in_one_call_each_with_its_own_scaling() -> None:
    scaling = {"pump-8": {"centre": [5.0, 5.0], "scale": [1.0, 1.0]}}
    made = engine("pump-7", "pump-8", device_scaling=scaling)
    calls: list[int] = []
    scorer = made.slots[0].scorer
    score = scorer.score
    scorer.score = lambda windows, devices: (calls.append(len(windows)), score(windows, devices))[1]  # type: ignore[method-assign,func-returns-value]
    (event,) = events(made.step([block([5.0] * 4), block([5.0] * 4, "pump-8")], CLOCK))
    assert event.device_id == "pump-7"
    assert calls == [2]


def test_a_short_window_is_scored_by_a_model_on_features() -> None:
    made = engine()
    made.step([block([5.0] * 3)], CLOCK)
    (event,) = events(made.flush(CLOCK))
    assert event.readings == 3


def test_a_single_reading_is_too_short_for_features_and_counted_as_unscored() -> None:
    made = engine()
    made.step([block([5.0])], CLOCK)
    assert events(made.flush(CLOCK)) == []
    assert made.devices["pump-7"].counters["windows_unscored"] == 1


def test_a_short_window_is_not_scored_by_a_model_on_raw_windows() -> None:
    made = engine(feed="window")
    assert len(events(made.step([block([5.0] * 5)], CLOCK))) == 1
    assert events(made.flush(CLOCK)) == []
    assert made.devices["pump-7"].counters["windows_unscored"] == 1


def test_an_open_window_is_closed_by_the_clock_after_max_wait() -> None:
    made = engine(rules=Rules(max_wait_us=1000))
    made.step([block([5.0] * 3)], ManualClock(T0))
    assert events(made.tick(ManualClock(T0 + 999))) == []
    assert len(events(made.tick(ManualClock(T0 + 1000)))) == 1


def test_an_open_window_does_not_wait_for_the_old_time_after_the_clock_was_set_back() -> None:
    made = engine(rules=Rules(max_wait_us=1000))
    made.step([block([5.0] * 3)], ManualClock(T0))
    assert len(events(made.tick(ManualClock(T0 - 3600_000_000)))) == 1


def test_readings_that_are_not_finite_are_left_out_counted_and_said_once() -> None:
    made = engine()
    values = np.full((6, 2), 5.0, np.float32)
    values[1, 1] = np.nan
    values[4, 0] = np.inf
    sensed = Block("pump-7", np.arange(6, dtype=np.int64) + T0, values)
    step = made.step([sensed, block([0.0] * 4, start_us=T0 + 10)], CLOCK)
    (event, *_) = events(step)
    assert np.isfinite(event.matrix).all()
    assert step.notices == [
        f"pump-7: channel 'b' is not a finite number at event time {T0 + 1} us; "
        "such readings are left out and counted, said once"
    ]
    again = made.step([sensed], CLOCK)
    assert again.notices == []
    assert made.devices["pump-7"].counters["readings_invalid"] == 4
    (aggregate,) = aggregates(made.flush(CLOCK))
    assert (aggregate.readings, aggregate.invalid) == (12, 4)


def test_a_block_of_nothing_but_nan_is_counted_and_scores_nothing() -> None:
    made = engine()
    assert made.step([block([np.nan] * 4)], CLOCK).records == []
    assert made.devices["pump-7"].counters["readings_invalid"] == 4


@pytest.mark.parametrize("start_us", [-(2**63), 2**63 - 4])
def test_times_at_the_ends_of_64_bits_are_aggregated_and_fit_into_a_record(start_us: int) -> None:
    made = engine()
    times = np.arange(4, dtype=np.int64) + start_us
    made.step([Block("pump-7", times, np.full((4, 2), 5.0, np.float32))], CLOCK)
    (aggregate,) = aggregates(made.flush(CLOCK))
    assert decode(encode(aggregate), EdgeAggregate) == aggregate
    assert aggregate.window_start <= int(times[0]) < int(times[-1]) <= aggregate.window_end


def test_a_block_that_does_not_fit_the_channels_is_counted_as_invalid() -> None:
    made = engine()
    step = made.step([block([0.0] * 4, channels=3), block([5.0] * 4)], CLOCK)
    assert len(events(step)) == 1
    assert made.devices["pump-7"].counters["readings_invalid"] == 4
    assert step.notices[0].startswith("pump-7: a block of shape (4, 3) does not fit the channels; ")


def test_an_empty_block_is_nothing() -> None:
    made = engine()
    assert made.step([block([])], CLOCK) == Step([], [])
    assert made.devices["pump-7"].counters["readings_sensed"] == 0


def test_one_window_without_a_score_does_not_cost_the_others_theirs() -> None:
    made = engine("pump-7", "pump-8")
    step = made.step([block([3.4e38] * 4), block([5.0] * 4, "pump-8")], CLOCK)
    assert [event.device_id for event in events(step)] == ["pump-8"]
    assert made.devices["pump-7"].counters["windows_unscored"] == 1
    assert step.notices == [
        "pump-7: a window has no score: the model gave a score that is not finite (model='tiny', file='edge.onnx'); "
        "counted as unscored, said once"
    ]


def test_jumps_back_in_time_are_counted() -> None:
    made = engine()
    made.step([block([0.0] * 4)], CLOCK)
    made.step([block([0.0] * 4, start_us=T0 - 5000)], CLOCK)
    assert made.devices["pump-7"].counters["clock_jumps_back"] == 1


def test_the_audit_sample_carries_what_it_was_scored_with_and_its_rate() -> None:
    made = engine(rules=Rules(audit_rate=1.0))
    (sample,) = made.step([block([0.5] * 4)], CLOCK).records
    assert isinstance(sample, SensorBlock)
    assert (sample.seq, sample.sampled_at_rate, sample.model_version) == (0, 1.0, 1)
    assert sample.score == pytest.approx(0.5)
    assert sample.matrix.tolist() == [[0.5, 0.5]] * 4
    assert made.devices["pump-7"].counters["windows_sampled"] == 1


def test_aggregates_hold_every_reading_and_what_was_scored() -> None:
    made = engine(rules=Rules(aggregate_us=4000))
    made.step([block([1.0, 2.0, 3.0, 4.0])], CLOCK)
    (aggregate,) = aggregates(made.step([block([0.0] * 4, start_us=T0 + 4000)], CLOCK))
    sketch = Sketch.from_aggregate(aggregate)
    assert (aggregate.seq, aggregate.window_start, aggregate.window_end) == (0, T0, T0 + 4000)
    assert (sketch.readings, sketch.mean.tolist(), sketch.max.tolist()) == (4, [2.5, 2.5], [4.0, 4.0])
    assert (aggregate.windows_scored, aggregate.windows_escalated) == (1, 1)
    assert aggregate.score_max == pytest.approx(2.5)


def test_aggregates_of_many_devices_are_spread_over_steps_so_that_decisions_need_not_wait() -> None:
    names = [f"d{n}" for n in range(20)]
    made = engine(*names, rules=Rules(aggregate_us=4000))
    for at in (0, 4000):
        step = made.step([block([0.0] * 4, name, start_us=T0 + at) for name in names], CLOCK)
    sizes = [len(aggregates(step))]
    while made.has_work:
        sizes.append(len(aggregates(made.step([], CLOCK))))
    assert sum(sizes) == 20
    assert sizes[0] < 20
    assert min(sizes[:-1]) >= AGGREGATES_PER_STEP


def test_a_silent_device_gives_its_aggregate_out_by_the_clock() -> None:
    made = engine(rules=Rules(aggregate_us=1_000_000))
    made.step([block([0.0] * 4)], ManualClock(T0))
    assert aggregates(made.tick(ManualClock(T0 + 1_900_000))) == []
    assert len(aggregates(made.tick(ManualClock(T0 + 2_000_001)))) == 1


def test_thresholds_change_the_next_decision_and_the_device_says_so() -> None:
    made = engine()
    made.devices["pump-7"].status(Health.OK, T0)
    assert made.apply_thresholds(thresholds(), T0) == ["pump-7: thresholds 1 are in force (too many overrides)"]
    assert made.step([block([3.5] * 4)], CLOCK).records == []
    (event,) = events(made.step([block([4.5] * 4)], CLOCK))
    assert (event.thresholds_version, event.outcome) == (1, Outcome.SUSPECT)
    assert made.devices["pump-7"].news
    (applied,) = made.devices["pump-7"].status(Health.OK, T0).applied
    assert (applied.kind, applied.version, applied.accepted, applied.issued_at) == (
        FeedbackKind.THRESHOLDS,
        1,
        True,
        T0,
    )


def test_refused_thresholds_are_reported_and_counted() -> None:
    made = engine()
    assert made.apply_thresholds(thresholds(model_name="other"), T0) == [
        "pump-7: thresholds 1 refused: thresholds are for another model "
        "(target='pump-7', version=1, got='other', running='tiny')"
    ]
    device = made.devices["pump-7"]
    assert device.counters["feedback_refused"] == 1
    assert not device.applied[0].accepted
    assert device.applied[0].reason.startswith("thresholds are for another model")


def test_thresholds_for_a_cohort_reach_all_of_its_devices() -> None:
    made = engine("pump-7", "pump-8")
    assert made.apply_thresholds(thresholds(target="pumps", target_kind=TargetKind.COHORT), T0) == [
        "pumps: thresholds 1 are in force (too many overrides), on 2 devices"
    ]
    assert [d.thresholds.at(T0).version for d in made.devices.values()] == [1, 1]
    assert made.apply_thresholds(thresholds(target="nobody"), T0) == []


def update_to(made: Engine, version: int, **changes: object) -> list[str]:
    update, data = model_update(version, **changes)
    notices = made.offer_model(update, T0)
    assert made.wanted == {cut(data)[0].sha256}
    for chunk in cut(data):
        notices += made.add_chunk(chunk, T0)
    ((slot, candidate),), _ = made.candidates(T0)
    from edge_filters.assemble import build_scorer

    try:
        return notices + made.install_model(slot, candidate, build_scorer(candidate.package), T0)
    except ModelError as wrong:
        return notices + made.refuse_model(slot, candidate.update, wrong, T0)


def test_a_model_update_takes_effect_between_two_steps_on_every_device() -> None:
    made = engine("pump-7", "pump-8")
    assert made.step([block([1.5] * 4)], CLOCK).records == []
    assert update_to(made, 2, gain=10.0) == [
        "model tiny 2 is believed; waiting for its file",
        "model tiny: version 1 -> 2 on 2 device(s)",
    ]
    assert [e.model_version for e in events(made.step([block([1.5] * 4), block([1.5] * 4, "pump-8")], CLOCK))] == [2, 2]
    assert made.wanted == frozenset()
    assert all(d.applied[0].kind is FeedbackKind.MODEL and d.applied[0].accepted for d in made.devices.values())


def test_a_new_model_may_bring_another_window_and_no_open_reading_is_lost() -> None:
    made = engine()
    made.step([block([5.0] * 3)], CLOCK)
    update_to(made, 2, window_readings=2)
    (event,) = events(made.step([block([5.0], start_us=T0 + 3000)], CLOCK))[:1]
    assert event.readings == 2
    assert made.devices["pump-7"].counters["windows_scored"] == 2


def test_a_model_that_fails_its_self_test_is_refused_and_the_old_one_stays() -> None:
    made = engine()
    notices = update_to(made, 2, self_test_gain=7.0)
    assert notices[-1].startswith(
        "model tiny 2 refused, 1 stays: the model fails its self-test: it does not give the scores it was released with"
    )
    assert made.slots[0].version == 1
    assert made.devices["pump-7"].counters["feedback_refused"] == 1
    assert update_to(made, 3, gain=2.0)[-1] == "model tiny: version 1 -> 3 on 1 device(s)"


def test_an_update_that_is_not_believed_is_reported_by_every_device_it_is_for() -> None:
    made = engine("pump-7", "pump-8")
    update, _ = model_update(2, expires_at=T0)
    (sentence,) = made.offer_model(update, T0)
    assert sentence == (
        "model tiny 2 refused, 1 stays: model update is expired (model='tiny', version=2, late_by_s=0.0)"
    )
    assert [d.applied[0].accepted for d in made.devices.values()] == [False, False]


def test_the_status_says_what_is_in_force_and_how_the_device_is() -> None:
    device = engine().devices["pump-7"]
    status = device.status(Health.OK, T0, spool_records=3, spool_bytes=99)
    assert (status.health, status.problem, status.seq) == (Health.OK, None, 0)
    assert (status.raise_at, status.thresholds_version, status.spool_records, status.spool_bytes) == (3.0, 0, 3, 99)
    degraded = device.status(Health.OK, T0, problem="the broker is away")
    assert (degraded.health, degraded.problem, degraded.seq) == (Health.DEGRADED, "the broker is away", 1)
    assert device.status(Health.STOPPED, T0).health is Health.STOPPED
