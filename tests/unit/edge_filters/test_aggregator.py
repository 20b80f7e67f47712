from __future__ import annotations

import numpy as np

from edge_filters.aggregator import Aggregate, Aggregator
from edge_filters.blocks import span

SECOND = 1_000_000


def add(aggregator: Aggregator, seconds: list[float], now_us: int = 0) -> None:
    times = (np.array(seconds) * SECOND).astype(np.int64)
    values = np.array(seconds, np.float32)[:, None]
    aggregator.add(times, values, now_us, span(times))


def popped(aggregator: Aggregator) -> list[Aggregate]:
    out = []
    while (one := aggregator.pop()) is not None:
        out.append(one)
    return out


def test_a_window_is_given_out_once_event_time_has_passed_it() -> None:
    aggregator = Aggregator(1, SECOND)
    add(aggregator, [10.0, 10.5])
    assert popped(aggregator) == []
    add(aggregator, [11.0])
    (one,) = popped(aggregator)
    assert (one.start_us, one.end_us, one.sketch.readings) == (10 * SECOND, 11 * SECOND, 2)
    assert one.sketch.mean.tolist() == [10.25]
    assert aggregator.open_readings == 1


def test_a_block_over_several_windows_is_divided() -> None:
    aggregator = Aggregator(1, SECOND)
    add(aggregator, [0.0, 0.9, 1.0, 2.5, 3.0])
    assert [(a.start_us // SECOND, a.sketch.readings) for a in popped(aggregator)] == [(0, 2), (1, 1), (2, 1)]
    assert [a.sketch.readings for a in aggregator.flush()] == [1]
    assert aggregator.open_readings == 0


def test_late_rows_make_a_further_aggregate_of_the_same_window() -> None:
    aggregator = Aggregator(1, SECOND)
    add(aggregator, [0.1, 1.0])
    assert len(popped(aggregator)) == 1
    add(aggregator, [0.2])
    (late,) = popped(aggregator)
    assert (late.start_us, late.sketch.readings) == (0, 1)


def test_a_jump_back_within_a_block_loses_no_row() -> None:
    aggregator = Aggregator(1, SECOND)
    add(aggregator, [5.0, 5.5, 1.0, 1.5])
    assert sorted((a.start_us // SECOND, a.sketch.readings) for a in popped(aggregator) + aggregator.flush()) == [
        (1, 2),
        (5, 2),
    ]


def test_times_before_1970_have_windows_too() -> None:
    aggregator = Aggregator(1, SECOND)
    add(aggregator, [-0.5])
    (one,) = aggregator.flush()
    assert (one.start_us, one.end_us) == (-SECOND, 0)


def test_scores_are_counted_in_the_window_that_the_model_window_ends_in() -> None:
    aggregator = Aggregator(1, SECOND)
    add(aggregator, [0.5])
    aggregator.scored(SECOND // 2, 1.5, escalated=False)
    aggregator.scored(SECOND // 2, 0.5, escalated=True)
    (one,) = aggregator.flush()
    assert (one.windows_scored, one.windows_escalated, one.score_max) == (2, 1, 1.5)


def test_rows_that_were_left_out_are_counted_as_invalid() -> None:
    aggregator = Aggregator(2, SECOND)
    aggregator.add_invalid(np.array([1, SECOND], np.int64))
    first, second = aggregator.flush()
    assert (first.sketch.readings, first.sketch.invalid, second.sketch.invalid) == (0, 1, 1)


def test_only_what_was_open_before_a_time_is_closed_by_the_clock() -> None:
    aggregator = Aggregator(1, SECOND)
    add(aggregator, [0.5], now_us=100)
    assert aggregator.flush(100) == []
    assert len(aggregator.flush(101)) == 1


def test_a_long_window_is_sketched_bit_by_bit_and_gives_the_same() -> None:
    rows = np.random.default_rng(1).normal(5, 1, (200_000, 1)).astype(np.float32)
    times = np.arange(len(rows), dtype=np.int64)
    at_once, in_parts = Aggregator(1, SECOND), Aggregator(1, SECOND)
    at_once.add(times, rows)
    for at in range(0, len(rows), 1000):
        in_parts.add(times[at : at + 1000], rows[at : at + 1000])
    (one,), (other,) = at_once.flush(), in_parts.flush()
    assert (one.sketch.bins == other.sketch.bins).all()
    assert np.allclose(one.sketch.m2, other.sketch.m2)


def test_a_window_with_very_many_bins_goes_out_in_parts_that_fit_a_record() -> None:
    rows = np.exp(np.random.default_rng(1).uniform(-80, 80, (3000, 64))).astype(np.float32)
    aggregator = Aggregator(64, SECOND)
    for at in range(0, len(rows), 100):
        aggregator.add(np.arange(at, at + 100, dtype=np.int64), rows[at : at + 100])
    parts = popped(aggregator) + aggregator.flush()
    assert len(parts) > 1
    assert sum(part.sketch.readings for part in parts) == 3000
    assert max(len(part.sketch.fields()["bins"]) for part in parts) < 200_000  # type: ignore[arg-type]


def test_after_a_clock_was_set_back_there_is_still_one_aggregate_for_each_window() -> None:
    aggregator, made = Aggregator(1, SECOND), []
    for at in (100_000.0, 100_000.5, *(10.0 + n / 4 for n in range(17))):
        add(aggregator, [at])
        made += popped(aggregator)
    assert [(a.start_us // SECOND, a.sketch.readings) for a in made] == [(100_000, 2)] + [(10 + n, 4) for n in range(4)]
    assert [a.sketch.readings for a in aggregator.flush()] == [1]


def test_a_window_that_was_opened_before_the_clock_was_set_back_does_not_wait_for_the_old_time() -> None:
    aggregator = Aggregator(1, SECOND)
    add(aggregator, [10.0], now_us=3600 * SECOND)
    assert len(aggregator.flush(opened_before_us=98 * SECOND, now_us=100 * SECOND)) == 1
    add(aggregator, [10.0], now_us=99 * SECOND)
    assert aggregator.flush(opened_before_us=98 * SECOND, now_us=100 * SECOND) == []
