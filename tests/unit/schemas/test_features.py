from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas.errors import ModelError
from schemas.features import STATISTICS, extract, standardise

windows_of = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 3)),
    elements=st.floats(-1e4, 1e4, width=32),
)


def test_a_feature_vector_is_statistic_major() -> None:
    window = np.array([[[1, 10], [3, 40]]], np.float32)
    assert extract(window, ["mean", "max"]).tolist() == [[2, 25, 3, 40]]


@pytest.mark.parametrize(
    ("statistic", "value"),
    [("mean", 3.0), ("std", np.sqrt(3.5)), ("min", 1.0), ("max", 6.0), ("rise", 4.0), ("step", 2.0)],
)
def test_each_statistic_of_a_known_window(statistic: str, value: float) -> None:
    window = np.array([[[2], [1], [3], [6]]], np.float32)
    assert extract(window, [statistic])[0, 0] == pytest.approx(value)


@given(windows_of)
def test_features_have_one_row_per_window_and_are_finite(windows: np.ndarray) -> None:
    out = extract(windows, list(STATISTICS))
    assert out.shape == (windows.shape[0], len(STATISTICS) * windows.shape[2])
    assert out.dtype == np.float32
    assert np.isfinite(out).all()


@given(windows_of)
def test_a_window_has_the_same_features_alone_and_in_a_batch(windows: np.ndarray) -> None:
    together = extract(windows, list(STATISTICS))
    for i in range(len(windows)):
        np.testing.assert_allclose(extract(windows[i : i + 1], list(STATISTICS))[0], together[i], rtol=1e-5, atol=1e-3)


@given(windows_of)
def test_statistics_keep_their_order(windows: np.ndarray) -> None:
    low, mean, high = (extract(windows, [name]) for name in ("min", "mean", "max"))
    slack = 1e-5 * np.abs(windows).max(initial=1.0)
    assert (low <= mean + slack).all()
    assert (mean <= high + slack).all()


def test_a_window_of_one_reading_has_no_step_and_no_rise() -> None:
    assert extract(np.array([[[5.0]]], np.float32), ["step", "rise", "std"]).tolist() == [[0, 0, 0]]


def test_standardising_is_per_channel_and_stays_float32() -> None:
    centre, scale = np.array([1, 0], np.float32), np.array([2, 10], np.float32)
    out = standardise(np.array([[[5, 20]]], np.float32), centre, scale)
    assert out.tolist() == [[[2, 2]]]
    assert out.dtype == np.float32


def test_an_unknown_statistic_is_named_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"unknown statistics \(unknown=\['median'\]\); known are mean, std"):
        extract(np.zeros((1, 2, 1), np.float32), ["mean", "median"])


@pytest.mark.parametrize("shape", [(2, 3), (2, 0, 3), (1, 2, 3, 4)])
def test_what_is_not_a_batch_of_windows_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="windows must be batch x readings x channels"):
        extract(np.zeros(shape, np.float32), ["mean"])


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 3), st.integers(1, 70), st.integers(1, 3)),
        elements=st.floats(-1e4, 1e4, width=32),
    )
)
def test_the_extremes_are_the_smallest_and_the_largest_reading_exactly(windows: np.ndarray) -> None:
    low, high = np.split(extract(windows, ["min", "max"]), 2, axis=1)
    assert np.array_equal(low, windows.min(axis=1))
    assert np.array_equal(high, windows.max(axis=1))
