from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError
from schemas.units import DURATIONS_US, SIZES_BYTES, duration_us, size_bytes


@given(st.integers(0, 10**6), st.sampled_from(list(DURATIONS_US)))
def test_a_duration_is_its_number_times_its_unit(number: int, unit: str) -> None:
    assert duration_us(f"{number}{unit}") == duration_us(f" {number} {unit} ") == number * DURATIONS_US[unit]


@given(st.integers(0, 10**6), st.sampled_from(list(SIZES_BYTES)))
def test_a_size_is_its_number_times_its_unit(number: int, unit: str) -> None:
    assert size_bytes(f"{number}{unit}") == number * SIZES_BYTES[unit]


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert duration_us(text) >= 0


@pytest.mark.parametrize("digits", [20, 400])
def test_what_no_clock_can_count_is_refused(digits: int) -> None:
    with pytest.raises(ConfigError, match="duration is too large: '99999"):
        duration_us("9" * digits + "d")


def test_a_bare_number_misses_its_unit() -> None:
    with pytest.raises(
        ConfigError, match=r"missing unit in duration '250'; write it like 250ms; units are us, ms, s, min"
    ):
        duration_us("250")


@pytest.mark.parametrize("text", ["", "ms", "-5ms", "1e3ms", "5 parsecs", "5ms5ms", "nan s"])
def test_what_is_no_duration_is_quoted(text: str) -> None:
    with pytest.raises(ConfigError, match="not a duration"):
        duration_us(text)


def test_a_size_is_not_a_duration() -> None:
    with pytest.raises(ConfigError, match="not a size: '5s'"):
        size_bytes("5s")
