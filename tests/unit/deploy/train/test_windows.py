from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.train.windows import Sample, held_out, scaling_of


def sample(rows: np.ndarray, every: int = 1, parts: int = 1) -> Sample:
    taken = Sample(every)
    for part in np.array_split(rows, parts):
        taken.add(part)
    return taken


@given(rows=st.integers(40, 2_000), readings=st.integers(2, 20), stride=st.integers(1, 9))
def test_no_reading_is_both_fitted_on_and_held_out(rows: int, readings: int, stride: int) -> None:
    starts = np.arange(0, rows - readings + 1, stride)
    fitting, checked = held_out(starts, readings, rows)
    spans = [starts[flags][:, None] + np.arange(readings) for flags in (fitting, checked)]
    assert not set(spans[0].ravel().tolist()) & set(spans[1].ravel().tolist())


@given(rows=st.integers(40, 2_000), readings=st.integers(2, 20))
def test_what_is_fitted_on_and_what_is_held_out_is_told_by_the_parts_of_its_rows(rows: int, readings: int) -> None:
    starts = np.arange(0, rows - readings + 1)
    fitting, checked = held_out(starts, readings, rows)
    held = np.arange(rows) * 16 // rows % 4 == 3
    inside = np.array([held[at : at + readings].sum() for at in starts])
    assert (fitting == (inside == 0)).all()
    assert (checked == (inside == readings)).all()


def test_scaling_ignores_a_few_wild_readings() -> None:
    rows = np.random.default_rng(0).normal(20.0, 2.0, (2_000, 1)).astype(np.float32)
    rows[:10] = 60.0
    whole, (own,) = scaling_of([sample(rows)])
    assert own == whole
    assert own.centre[0] == pytest.approx(20.0, abs=0.2)
    assert own.scale[0] == pytest.approx(2.0, rel=0.1)


def test_a_channel_that_stands_still_on_one_device_takes_a_share_of_what_is_usual_in_its_cohort() -> None:
    moving = np.random.default_rng(0).normal(0.0, 5.0, (1_000, 1)).astype(np.float32)
    still = np.full((1_000, 1), 7.0, np.float32)
    _, (_, _, own) = scaling_of([sample(moving), sample(moving), sample(still)])
    assert own.centre == [7.0]
    assert own.scale[0] == pytest.approx(0.05, rel=0.2)


def test_a_channel_that_never_moves_anywhere_keeps_its_own_unit() -> None:
    whole, _ = scaling_of([sample(np.full((10, 1), 3.0, np.float32))])
    assert (whole.centre, whole.scale) == ([3.0], [1.0])


def test_a_channel_that_moves_only_in_rows_that_the_sample_misses_is_known_to_move() -> None:
    rows = np.zeros((10_000, 1), np.float32)
    rows[5_001:5_004] = 50.0  # none of them is a multiple of 100
    thin = sample(rows, every=100, parts=7)
    assert not thin.rows.any()
    assert len(thin.rows) == 100
    assert thin.std == pytest.approx(rows.astype(np.float64).std(axis=0))
    _, (own,) = scaling_of([thin])
    assert own.scale[0] == pytest.approx(rows.std() / 2, rel=1e-3)


def test_a_high_level_with_a_small_spread_keeps_all_of_its_digits() -> None:
    rows = (1_234_567.0 + np.random.default_rng(0).normal(0.0, 2.0, (2_000, 1))).astype(np.float32)
    whole, _ = scaling_of([sample(rows)])
    assert abs(whole.centre[0] - 1_234_567.0) < 0.5 < abs(float("1.23457e6") - 1_234_567.0)


@given(rows=st.integers(1, 300), every=st.integers(1, 9), parts=st.integers(1, 9))
def test_a_sample_is_the_same_however_its_rows_come(rows: int, every: int, parts: int) -> None:
    values = np.random.default_rng(rows).normal(size=(rows, 2)).astype(np.float32)
    whole, split = sample(values, every), sample(values, every, parts)
    assert (whole.rows == split.rows).all()
    assert (whole.rows == values[::every]).all()
    assert split.std == pytest.approx(whole.std)
