from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.clocks import (
    AHEAD,
    AHEAD_US,
    JITTER_US,
    MAX_LATENCY_US,
    SLOW_US,
    UNSET,
    Clocks,
    Verdict,
    check_times,
    latency_us,
)
from tests.doubles import records as make

T0 = 1_700_000_000_000_000
S = 1_000_000
DAY = 86_400 * S


def told(clocks: Clocks, offset_us: int, ways_us: list[int], start_us: int = T0) -> list[Verdict]:
    """One record a second of a device whose clock is `offset_us` ahead, with these ways to the broker."""
    return [
        clocks.judge("pump-1", start_us + n * S + offset_us, start_us + n * S + way_us)
        for n, way_us in enumerate(ways_us)
    ]


@given(st.integers(AHEAD_US + SLOW_US + 1, 3650 * DAY), st.lists(st.integers(0, SLOW_US), min_size=1, max_size=50))
def test_a_clock_that_is_ahead_is_suspect_and_its_error_is_known_but_for_the_shortest_way(
    offset_us: int, ways_us: list[int]
) -> None:
    for number, verdict in enumerate(told(Clocks(), offset_us, ways_us)):
        assert verdict == Verdict(offset_us - min(ways_us[: number + 1]), AHEAD)


@given(st.lists(st.integers(0, SLOW_US), min_size=1, max_size=50))
def test_a_clock_that_is_right_is_never_suspect_and_nothing_is_corrected(ways_us: list[int]) -> None:
    assert told(Clocks(), 0, ways_us) == [Verdict(0, "")] * len(ways_us)


def test_a_spool_that_is_caught_up_with_is_a_long_latency_of_a_clock_that_is_known_to_be_right() -> None:
    assert told(Clocks(), 0, [5_000, 300 * S, 200 * S])[-1] == Verdict(0, "")


def test_behind_and_late_cannot_be_told_apart_and_so_nothing_is_known() -> None:
    assert told(Clocks(), -3600 * S, [5_000] * 3) == [Verdict(None, "")] * 3
    assert told(Clocks(), 0, [3600 * S] * 3) == [Verdict(None, "")] * 3


def test_a_clock_that_was_never_set_is_suspect_and_nothing_is_known_of_it() -> None:
    assert told(Clocks(), -T0 + 60 * S, [5_000]) == [Verdict(None, UNSET)]


def test_after_a_step_back_nothing_is_known_until_the_old_time_is_forgotten() -> None:
    clocks = Clocks()
    assert told(clocks, DAY, [5_000] * 3)[-1] == Verdict(DAY - 5_000, AHEAD)
    after = told(clocks, 0, [5_000] * 1300, T0 + 10 * S)
    assert after[0] == Verdict(None, "")
    assert after[-1] == Verdict(0, "")


def test_one_device_with_a_wrong_clock_changes_nothing_for_another() -> None:
    clocks = Clocks()
    told(clocks, DAY, [5_000] * 3)
    assert clocks.judge("pump-2", T0, T0 + 5_000) == Verdict(0, "")


@given(*[st.integers(-(2**63), 2**63 - 1)] * 2, st.none() | st.integers(-(2**63), 2**63 - 1))
def test_a_latency_is_plausible_or_not_known(from_us: int, to_us: int, ahead_us: int | None) -> None:
    found = latency_us(from_us, to_us, ahead_us)
    assert found is None or 0 <= found <= MAX_LATENCY_US
    if ahead_us is not None and -JITTER_US <= to_us - from_us + ahead_us <= MAX_LATENCY_US:
        assert found is not None


def test_times_of_ordinary_years_are_fine_and_so_are_blocks_without_readings() -> None:
    for record in (
        make.event(sensed_from=T0 - DAY, sensed_to=T0, decided_at=T0),
        make.event(sensed_from=-DAY, sensed_to=0, decided_at=1),
        make.aggregate(start_us=T0),
        make.audit(event_times=b"", values=b""),
    ):
        check_times(record)


@pytest.mark.parametrize("offset_us", [-DAY, DAY])
def test_memory_of_devices_is_bounded(offset_us: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("schemas.clocks._MAX_DEVICES", 10)
    clocks = Clocks()
    for number in range(100):
        clocks.judge(f"pump-{number}", T0 + offset_us, T0)
    assert len(clocks._devices) == 10
