"""Times in every spelling that is read, against the standard library."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.importing.cells import CellError
from deploy.importing.times import Moments, check_format, check_zone, epoch_unit, find_format, parse, to_utc
from schemas.errors import ConfigError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _clocks(first: int, last: int) -> list[datetime]:
    return [datetime.fromisoformat(f"{year}-01-01") for year in (first, last)]


def us(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("text", "form", "iso"),
    [
        ("2024-02-29 23:59:59", "iso", "2024-02-29T23:59:59"),
        ("2024-02-29T23:59", "iso", "2024-02-29T23:59:00"),
        ("2024-02-29", "iso", "2024-02-29T00:00:00"),
        ("2024/2/9 3:04:05.25", "iso", "2024-02-09T03:04:05.250"),
        ("2024-02-29T23:59:59.123456789", "iso", "2024-02-29T23:59:59.123456"),
        ("2024-02-29T23:59:59Z", "iso", "2024-02-29T23:59:59"),
        ("2024-02-29T23:59:59+02:00", "iso", "2024-02-29T21:59:59"),
        ("2024-02-29 23:59:59.5 -0130", "iso", "2024-03-01T01:29:59.500"),
        ("29.02.2024 23:59", "dmy", "2024-02-29T23:59:00"),
        ("29/2/24 23.59.01", "dmy", "2024-02-29T23:59:01"),
        ("2/29/2024 11:59:00 PM", "mdy", "2024-02-29T23:59:00"),
        ("2/29/2024 12:00 am", "mdy", "2024-02-29T00:00:00"),
        ("29-Feb-2024 23:59:58", "%d-%b-%Y %H:%M:%S", "2024-02-29T23:59:58"),
        ("20240229T235958.5", "%Y%m%dT%H%M%S.%f", "2024-02-29T23:59:58.500"),
        ("1970-01-01 00:00:00", "iso", "1970-01-01T00:00:00"),
        ("1931-03-04 05:06:07", "iso", "1931-03-04T05:06:07"),
    ],
)
def test_a_spelling_is_read_and_found(text: str, form: str, iso: str) -> None:
    array = pa.array([text, None])
    assert parse(array, form).times[0] == us(datetime.fromisoformat(iso).replace(tzinfo=UTC))
    assert parse(array, form).missing.tolist() == [False, True]
    if "%" not in form:
        assert find_format(array) == form


@given(
    st.datetimes(*_clocks(1900, 2200)),
    st.integers(-14 * 60, 14 * 60),
    st.sampled_from([" ", "T"]),
)
def test_every_iso_time_means_what_the_standard_library_says(at: datetime, minutes: int, middle: str) -> None:
    zoned = at.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    found = parse(pa.array([zoned.isoformat(sep=middle)]), "iso")
    assert (found.times[0], bool(found.zoned[0])) == (us(zoned), True)
    assert parse(pa.array([at.isoformat(sep=middle)]), "iso").times[0] == us(at.replace(tzinfo=UTC))


@given(st.integers(10**8, 10**11 - 1), st.sampled_from(["s", "ms", "us", "ns"]))
def test_whole_numbers_since_1970_stay_exact(seconds: int, unit: str) -> None:
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    if seconds * factor < 2**63:
        assert parse(pa.array([str(seconds * factor)]), unit).times[0] == seconds * 10**6
        assert parse(pa.array([seconds * factor]), unit).times[0] == seconds * 10**6


def test_fractions_of_seconds_since_1970_are_read_to_the_microsecond() -> None:
    assert parse(pa.array(["1700000000.123456", "0.5"]), "s").times.tolist() == [1_700_000_000_123_456, 500_000]
    assert parse(pa.array(["1700000000,25"]), "s", ",").times.tolist() == [1_700_000_000_250_000]


@pytest.mark.parametrize(
    ("value", "unit"), [(1.7e9, "s"), (1.7e12, "ms"), (1.7e15, "us"), (1.7e18, "ns"), (12.0, None)]
)
def test_the_unit_of_numbers_since_1970_is_told_by_their_size(value: float, unit: str | None) -> None:
    assert epoch_unit(np.array([value, value + 1])) == unit


def test_day_or_month_first_is_decided_by_a_day_above_twelve_or_asked() -> None:
    assert find_format(pa.array(["01/02/2024", "13/02/2024"])) == "dmy"
    assert find_format(pa.array(["01/02/2024", "02/13/2024"])) == "mdy"
    assert find_format(pa.array(["01.02.2024", "02.02.2024"])) == "dmy"
    with pytest.raises(ConfigError, match="--time-format dmy"):
        find_format(pa.array(["01/02/2024", "02/02/2024"]))


@pytest.mark.parametrize(
    "text",
    ["2023-02-29", "2024-04-31 10:00", "2024-13-01", "2024-01-01 24:00:00", "2024-01-01 10:60", "yesterday", "13"],
)
def test_what_is_no_time_is_refused_with_its_row(text: str) -> None:
    with pytest.raises(CellError) as refused:
        parse(pa.array(["2024-01-01 00:00:00", text]), "iso")
    assert (refused.value.row, refused.value.cell) == (1, text)


def test_a_number_out_of_all_time_is_refused() -> None:
    with pytest.raises(CellError, match="years 1 and 9999"):
        parse(pa.array([1e30]), "s")
    with pytest.raises(CellError, match="not a time"):
        parse(pa.array([2**62]), "s")


@pytest.mark.parametrize("text", ["%Q", "%H:%M", "%Y-%m-%d %Y", "stardate", "%Y-%m-%d %"])
def test_a_pattern_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        check_format(text)


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(ConfigError, match="Europe/Berlin"):
        check_zone("Mars/Olympus")


@pytest.mark.parametrize("zone", ["+25:00", "-99:99", "+01:60"])
def test_an_offset_that_no_place_has_is_refused(zone: str) -> None:
    with pytest.raises(ConfigError, match="at most 14 hours"):
        check_zone(zone)


def local(texts: list[str], zone: str, last: int | None = None) -> tuple[list[int], int]:
    times, unclear = to_utc(parse(pa.array(texts), "iso"), zone, last)
    return times.tolist(), unclear


@given(st.datetimes(*_clocks(1990, 2035)))
def test_local_clocks_are_what_the_zone_database_says(at: datetime) -> None:
    at = at.replace(microsecond=0)
    zone = ZoneInfo("America/New_York")
    known = at.replace(tzinfo=zone)
    skipped = known.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != at
    if not skipped:
        assert local([at.isoformat()], "America/New_York")[0] == [us(known)]


def test_the_hour_that_comes_twice_is_taken_in_its_order() -> None:
    clock = ["2024-10-27 01:59:00", "2024-10-27 02:00:00", "2024-10-27 02:59:00", "2024-10-27 02:00:00"]
    clock += ["2024-10-27 02:59:00", "2024-10-27 03:00:00"]
    times, unclear = local(clock, "Europe/Berlin")
    minutes = [(time - times[0]) // 60_000_000 for time in times]
    assert (minutes, unclear) == ([0, 1, 60, 61, 120, 121], 4)


def test_the_hour_that_comes_twice_is_known_across_batches() -> None:
    first, _ = local(["2024-10-27 02:59:00"], "Europe/Berlin")
    second, _ = local(["2024-10-27 02:00:00"], "Europe/Berlin", first[-1])
    assert second[0] - first[0] == 60_000_000


def test_a_time_that_the_clock_skips_is_counted_and_does_not_go_back() -> None:
    times, unclear = local(["2024-03-31 01:59:00", "2024-03-31 02:30:00", "2024-03-31 03:01:00"], "Europe/Berlin")
    assert times == sorted(times)
    assert unclear == 1


def test_an_offset_is_a_zone_and_rows_that_say_their_own_keep_it() -> None:
    both = parse(pa.array(["2024-01-01 10:00:00", "2024-01-01 10:00:00Z"]), "iso")
    assert both.zoned.tolist() == [False, True]
    times, _ = to_utc(both, "+05:30", None)
    assert (times[1] - times[0]) // 60_000_000 == 330
    assert to_utc(Moments(both.times, both.zoned, both.missing), "UTC", None)[0][0] == both.times[0]
