"""Counting while rows pass by gives what counting all at once would."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deploy.importing.survey import GAP_STEPS, DeviceSurvey
from deploy.train.reading import MAX_GAP_STEPS


def counted(times: list[int], labels: list[int], cuts: list[int]) -> dict[str, object]:
    survey = DeviceSurvey()
    edges = sorted({0, len(times), *(cut for cut in cuts if cut < len(times))})
    for low, high in itertools.pairwise(edges):
        flags = np.array(labels[low:high], np.uint8)
        survey.add(np.array(times[low:high], np.int64), flags, "x", np.arange(low + 1, high + 1))
    return survey.as_json("d")


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 1)), min_size=1, max_size=60),
    st.lists(st.integers(1, 60), max_size=5),
)
def test_batches_do_not_matter_and_every_count_is_right(rows: list[tuple[int, int]], cuts: list[int]) -> None:
    times, labels = [at for at, _ in rows], [flag for _, flag in rows]
    found = counted(times, labels, cuts)
    assert found == counted(times, labels, [])
    steps = [b - a for a, b in itertools.pairwise(times)]
    forward = sorted(step for step in steps if step > 0)
    back = [step for step in steps if step < 0]
    usual = forward[(len(forward) - 1) // 2] if forward else 0
    assert found["step_us"] == usual
    assert found["jumps_back"] == len(back)
    assert found["largest_jump_back_us"] == -min(back, default=0)
    assert found["repeated_times"] == sum(at in times[:n] for n, at in enumerate(times))
    assert found["rows_behind"] == sum(at < max(times[:n], default=0) for n, at in enumerate(times))
    assert found["gaps"] == sum(step > GAP_STEPS * usual for step in forward)
    assert found["anomalous_segments"] == sum(b > a for a, b in zip([0, *labels], labels, strict=False))
    assert (found["oldest_us"], found["newest_us"]) == (min(times), max(times))


def test_many_different_steps_are_still_counted_in_bounded_memory() -> None:
    steps = np.random.default_rng(3).integers(900_000, 1_100_000, 300_000)
    survey = DeviceSurvey()
    for part in np.array_split(np.cumsum(steps), 10):
        survey.add(part, None, "x", np.arange(len(part)))
    assert abs(survey.step_us - 1_000_000) < 10_000
    assert survey.gaps == (0, 0)
    assert len(survey._steps) <= 5_000


def test_a_gap_here_is_what_ends_a_stretch_in_training() -> None:
    assert GAP_STEPS == MAX_GAP_STEPS
