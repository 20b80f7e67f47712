"""Laws of fleet statistics: how the parts of a window are grouped and ordered does not matter."""

from __future__ import annotations

import contextlib
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipelines.fleet import MAX_DEVICES_BYTES, Fleet
from schemas.codec import MAX_BYTES, encode
from schemas.errors import DecodeError
from schemas.records import EdgeAggregate, FleetWindow
from schemas.sketch import Sketch
from tests.doubles import records as make

rows = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 8), st.just(2)),
    elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([np.float32("nan"), np.float32("inf")]),
)


def of(aggregate: EdgeAggregate) -> Fleet:
    return Fleet.of(aggregate, Sketch.from_aggregate(aggregate))


@st.composite
def parts(draw: st.DrawFn) -> Fleet:
    score = draw(st.none() | st.floats(-5, 5))
    scored = draw(st.integers(0, 100))
    aggregate = make.aggregate(
        draw(st.sampled_from(["a", "b", "c"])),
        rows=draw(rows),
        windows_scored=scored,
        windows_escalated=draw(st.integers(0, scored)),
        score_max=score,
    )
    return of(aggregate)


def assert_same(a: Fleet, b: Fleet) -> None:
    for exact in ("cohort", "channels", "devices", "records", "windows_scored", "windows_escalated", "score_max"):
        assert getattr(a, exact) == getattr(b, exact)
    assert (a.sketch.readings, a.sketch.invalid) == (b.sketch.readings, b.sketch.invalid)
    for exact in ("min", "max", "bins"):
        np.testing.assert_array_equal(getattr(a.sketch, exact), getattr(b.sketch, exact))
    scale = max(1.0, float(np.abs(a.sketch.mean).max()))
    np.testing.assert_allclose(a.sketch.mean, b.sketch.mean, rtol=1e-9, atol=1e-9 * scale)
    spread = float(a.sketch.m2.max()) + 1e12 * 1e-10  # the largest value squared, at float64's precision
    np.testing.assert_allclose(a.sketch.m2, b.sketch.m2, rtol=1e-9, atol=1e-9 * spread)


@given(st.lists(parts(), min_size=1, max_size=8), st.randoms(use_true_random=False), st.integers(1, 8))
def test_parts_merge_the_same_in_any_order_and_grouping(given_parts: list[Fleet], draw: object, size: int) -> None:
    one_by_one = reduce(Fleet.merge, given_parts)
    shuffled = list(given_parts)
    draw.shuffle(shuffled)  # type: ignore[attr-defined]
    groups = [shuffled[i : i + size] for i in range(0, len(shuffled), size)]
    grouped = reduce(Fleet.merge, [Fleet.total(group, contributions=1) for group in groups])
    assert_same(one_by_one, grouped)
    assert one_by_one.contributions == len(given_parts)
    assert grouped.contributions == len(groups)  # what the commit ledger counts is chunks


@given(parts())
def test_a_part_survives_bytes(part: Fleet) -> None:
    again = Fleet.from_bytes(part.to_bytes())
    assert_same(part, again)
    assert again.contributions == part.contributions
    np.testing.assert_array_equal(part.sketch.mean, again.sketch.mean)
    np.testing.assert_array_equal(part.sketch.m2, again.sketch.m2)
    assert again.to_bytes() == part.to_bytes()


@given(parts(), st.data())
def test_bytes_that_are_cut_or_changed_are_refused_or_read_and_nothing_else(part: Fleet, data: st.DataObject) -> None:
    whole = part.to_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    for broken in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]):
        with contextlib.suppress(DecodeError):
            Fleet.from_bytes(broken)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_fleet_or_raise_decode_error(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        Fleet.from_bytes(data)


@given(st.lists(parts(), min_size=1, max_size=5))
def test_a_published_window_says_what_all_rows_together_say(given_parts: list[Fleet]) -> None:
    window = reduce(Fleet.merge, given_parts).window(0, 5_000_000)
    assert isinstance(window, FleetWindow)
    assert window.readings == sum(p.sketch.readings for p in given_parts)
    assert window.revision == len(given_parts)
    assert window.devices == sorted({d for p in given_parts for d in p.devices})
    assert len(encode(window)) < MAX_BYTES[FleetWindow]
    assert np.isfinite(window.min + window.max + window.p50 + window.p99 + window.mean + window.stddev).all()
    for channel in range(2):
        assert window.min[channel] <= window.p50[channel] <= window.p99[channel] <= window.max[channel]


@pytest.mark.parametrize(
    "other",
    [
        {"channels": ["c1", "c0"]},
        {"channels": ["c0", "x"]},
        {"cohort": "fans"},
        {"cohort": "pumps2"},
    ],
)
def test_other_channels_and_cohorts_have_a_window_of_their_own(other: dict[str, object]) -> None:
    assert of(make.aggregate(**other)).key != of(make.aggregate()).key  # type: ignore[arg-type]


def test_names_cannot_be_put_together_to_look_like_another_key() -> None:
    tricky = of(make.aggregate(cohort='pumps","c0', channels=["c0", "c1"]))
    assert tricky.key != of(make.aggregate()).key


def test_the_window_of_a_very_large_fleet_still_fits_into_a_record() -> None:
    first = of(make.aggregate())
    devices = frozenset(f"plant/{'x' * 100}/pump-{i:05d}" for i in range(10_000))
    large = Fleet(**{name: getattr(first, name) for name in Fleet.__slots__} | {"devices": devices})
    window = large.window(0, 1)
    assert len(encode(window)) < MAX_BYTES[FleetWindow]
    assert window.devices == sorted(devices)[: len(window.devices)]
    assert len(window.devices) == MAX_DEVICES_BYTES // (len(window.devices[0]) + 2)
