from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deploy.train.choices import (
    LEAST_READINGS,
    MAX_FIT_NUMBERS,
    MAX_FIT_WINDOWS,
    MAX_WINDOW_NUMBERS,
    MOST_READINGS,
    stride_for,
    window_for,
)


@given(step_us=st.floats(0, 1e12), rows=st.integers(0, 10_000_000), channels=st.integers(1, 1_000))
def test_a_window_is_a_power_of_two_that_fits_the_manifest(step_us: float, rows: int, channels: int) -> None:
    chosen = window_for(step_us, rows, channels)
    assert chosen.readings in (4, 8, 16, 32, 64)
    assert LEAST_READINGS <= chosen.readings <= MOST_READINGS
    assert chosen.readings * channels <= MAX_WINDOW_NUMBERS
    assert chosen.why


@given(readings=st.integers(2, 64), channels=st.integers(1, 100), rows=st.integers(1, 10_000_000))
def test_what_is_fitted_on_is_bounded_however_long_the_recordings(readings: int, channels: int, rows: int) -> None:
    windows = rows / stride_for(readings, channels, [rows])
    assert windows <= MAX_FIT_WINDOWS
    assert windows * readings * channels <= MAX_FIT_NUMBERS


def test_the_usual_stride_is_a_quarter_of_a_window() -> None:
    assert stride_for(16, 1, [10_000]) == 4


def test_a_large_fleet_leaves_enough_windows_of_its_shortest_device() -> None:
    assert stride_for(16, 1, [100_000] * 1_000 + [1_000]) == 12
