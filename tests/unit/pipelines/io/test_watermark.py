"""The watermark rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.io.watermark import WatermarkRule
from schemas.errors import ConfigError

S = 1_000_000
RULE = WatermarkRule(disorder_us=2 * S, idle_us=S, future_us=S)
times = st.integers(0, 10**15)


@given(times, st.lists(times, max_size=5), times)
def test_it_never_goes_back(watermark: int, events: list[int], asked: int) -> None:
    assert RULE.after_records(watermark, events) >= watermark
    assert RULE.after_silence(watermark, asked) >= watermark


@given(st.lists(times, min_size=1, max_size=5))
def test_a_record_within_the_disorder_of_the_newest_is_on_time(events: list[int]) -> None:
    assert RULE.after_records(0, events) <= max(max(events) - 2 * S, 0)


def test_silence_moves_it_to_the_moment_of_the_question_less_idle_and_disorder() -> None:
    assert RULE.after_silence(0, 100 * S) == 97 * S


def test_without_an_idle_time_silence_moves_nothing() -> None:
    assert WatermarkRule(disorder_us=0, idle_us=None, future_us=0).after_silence(5, 100 * S) == 5


def test_an_event_later_than_its_own_arrival_is_not_plausible() -> None:
    assert RULE.plausible(101 * S, 100_000, 500 * S)
    assert not RULE.plausible(101 * S + 1, 100_000, 500 * S)
    assert not RULE.plausible(101 * S + 1, 900_000, 100 * S)


def test_negative_times_are_refused() -> None:
    with pytest.raises(ConfigError, match="zero or more"):
        WatermarkRule(disorder_us=-1, idle_us=None, future_us=0)
