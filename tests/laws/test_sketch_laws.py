"""Sketches: merging in any order and grouping gives what one sketch of all rows would be, within stated errors."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas.records import EdgeAggregate
from schemas.sketch import RELATIVE_ERROR, Sketch, bin_of, pack_bins, unpack_bins, value_of

FLOAT = st.floats(width=32, allow_nan=False, allow_infinity=False)
MODEST = st.floats(-1e6, 1e6, width=32)


def rows(values: st.SearchStrategy[float], least: int = 0) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float32, st.tuples(st.integers(least, 30), st.just(2)), elements=values)


def same(a: Sketch, b: Sketch, spread: float) -> None:
    """Equal where merging is exact, close where it is exact but for rounding."""
    assert (a.readings, a.invalid) == (b.readings, b.invalid)
    np.testing.assert_array_equal(a.min, b.min)
    np.testing.assert_array_equal(a.max, b.max)
    np.testing.assert_array_equal(a.bins, b.bins)
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-9, atol=1e-9 * spread)
    np.testing.assert_allclose(a.m2, b.m2, rtol=1e-6, atol=1e-9 * spread**2 * max(a.readings, 1))


@given(st.lists(rows(MODEST), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_any_order_and_grouping_of_merges_gives_the_sketch_of_all_rows(
    parts: list[np.ndarray], shuffler: random.Random
) -> None:
    sketches = [Sketch.of(part) for part in parts]
    while len(sketches) > 1:
        shuffler.shuffle(sketches)
        sketches.append(sketches.pop().merge(sketches.pop()))
    same(sketches[0], Sketch.of(np.concatenate(parts)), spread=1e6)


@given(rows(FLOAT), rows(FLOAT))
def test_merging_is_commutative_for_any_finite_values(a: np.ndarray, b: np.ndarray) -> None:
    x, y = Sketch.of(a).merge(Sketch.of(b)), Sketch.of(b).merge(Sketch.of(a))
    np.testing.assert_array_equal(x.bins, y.bins)
    np.testing.assert_array_equal(x.min, y.min)
    assert x.readings == y.readings


@given(rows(FLOAT))
def test_the_empty_sketch_changes_nothing(a: np.ndarray) -> None:
    sketch, empty = Sketch.of(a), Sketch.empty(2)
    for merged in (sketch.merge(empty), empty.merge(sketch)):
        np.testing.assert_array_equal(merged.bins, sketch.bins)
        np.testing.assert_array_equal(merged.mean, sketch.mean)
        assert (merged.readings, merged.invalid) == (sketch.readings, sketch.invalid)


@given(rows(FLOAT.filter(lambda v: v == 0 or abs(v) > 1e-37), least=1), st.floats(0.0, 1.0))
def test_a_quantile_is_within_the_stated_relative_error_of_the_true_one(values: np.ndarray, q: float) -> None:
    rank = max(1, int(np.ceil(q * len(values)))) - 1
    true = np.sort(values.astype(np.float64), axis=0)[rank]
    assert (np.abs(Sketch.of(values).quantile(q) - true) <= RELATIVE_ERROR * np.abs(true) * (1 + 1e-9)).all()


@given(hnp.arrays(np.float32, st.integers(1, 50), elements=FLOAT))
def test_bins_keep_the_order_of_values_and_stand_for_them(values: np.ndarray) -> None:
    ordered = np.sort(values)
    bins = bin_of(ordered)
    assert (np.diff(bins) >= 0).all()
    far = np.abs(ordered) >= 1e-37
    error = np.abs(value_of(bins) - ordered.astype(np.float64))[far]
    assert (error <= RELATIVE_ERROR * np.abs(ordered[far].astype(np.float64)) * (1 + 1e-9)).all()


@given(hnp.arrays(np.uint32, st.integers(1, 200)))
def test_the_histogram_counts_every_float32_in_the_bin_that_the_formula_gives_it(bits: np.ndarray) -> None:
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    if not len(values):
        return
    expected, counts = np.unique(bin_of(values), return_counts=True)
    found = Sketch.of(values[:, None]).bins
    assert found[:, 1].tolist() == expected.tolist()
    assert found[:, 2].tolist() == counts.tolist()


@given(rows(st.floats(width=32, allow_nan=True, allow_infinity=True)))
def test_rows_with_a_value_that_is_not_finite_are_counted_and_left_out(values: np.ndarray) -> None:
    good = np.isfinite(values).all(axis=1)
    sketch, clean = Sketch.of(values), Sketch.of(values[good])
    assert sketch.invalid == np.count_nonzero(~good)
    assert sketch.readings == clean.readings
    np.testing.assert_array_equal(sketch.bins, clean.bins)


def aggregate(sketch: Sketch, **changes: Any) -> EdgeAggregate:
    fields: dict[str, Any] = {
        "device_id": "pump-1",
        "boot_epoch": 1,
        "seq": 0,
        "cohort": "pumps",
        "window_start": 0,
        "window_end": 1,
        "channels": ["a", "b"],
        **sketch.fields(),
    }
    return EdgeAggregate(**fields | changes)


@given(rows(FLOAT))
def test_a_sketch_survives_its_record(values: np.ndarray) -> None:
    sketch = Sketch.of(values)
    back = Sketch.from_aggregate(aggregate(sketch))
    np.testing.assert_array_equal(back.bins, sketch.bins)
    np.testing.assert_array_equal(back.m2, sketch.m2)
    np.testing.assert_array_equal(back.max, sketch.max)


@given(st.binary(max_size=80), st.integers(0, 2**62))
def test_any_bytes_for_a_histogram_are_one_that_adds_up_or_a_value_error(data: bytes, readings: int) -> None:
    record = aggregate(Sketch.of(np.ones((3, 2), np.float32)), bins=data, readings=readings)
    try:
        sketch = Sketch.from_aggregate(record)
    except ValueError:
        return
    assert sketch.bins[sketch.bins[:, 0] == 0, 2].sum() == readings
    assert np.isfinite(sketch.quantile(0.5)).all() or not readings


@given(st.binary(max_size=80), st.integers(1, 3))
def test_any_bytes_unpack_to_bins_that_pack_to_an_equal_histogram_or_raise_value_error(data: bytes, wide: int) -> None:
    try:
        bins = unpack_bins(data, wide)
    except ValueError:
        return
    np.testing.assert_array_equal(unpack_bins(pack_bins(bins, wide), wide), bins)


def test_a_histogram_that_does_not_add_up_is_refused() -> None:
    record = aggregate(Sketch.of(np.ones((3, 2), np.float32)), readings=4)
    with pytest.raises(ValueError, match="does not add up to 4 readings"):
        Sketch.from_aggregate(record)


def test_statistics_of_known_rows() -> None:
    sketch = Sketch.of(np.array([[1.0, -2.0], [2.0, 0.0], [3.0, 2.0]], np.float32))
    assert sketch.mean.tolist() == [2.0, 0.0]
    assert sketch.m2.tolist() == [2.0, 8.0]
    assert sketch.stddev == pytest.approx([np.sqrt(2 / 3), np.sqrt(8 / 3)])
    assert sketch.quantile(0.5)[0] == pytest.approx(2.0, rel=RELATIVE_ERROR)
    assert np.isnan(Sketch.empty(1).quantile(0.5)).all()


@given(st.lists(rows(MODEST), min_size=1, max_size=6))
def test_the_total_of_many_is_the_sketch_of_all_rows(parts: list[np.ndarray]) -> None:
    total = Sketch.total([Sketch.of(part) for part in parts])
    same(total, Sketch.of(np.concatenate(parts)), spread=1e6)
    assert total.invalid == 0
