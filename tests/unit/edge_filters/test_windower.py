from __future__ import annotations

import numpy as np

from edge_filters.windower import Windower


def take(windower: Windower, times: list[int], now_us: int = 0) -> list[list[int]]:
    at = np.array(times, np.int64)
    return [w.times.tolist() for w in windower.take(at, at[:, None].astype(np.float32), now_us)]


def test_a_block_of_one_window_is_that_window_without_a_copy() -> None:
    windower = Windower(4, 10)
    times, values = np.arange(4, dtype=np.int64), np.zeros((4, 2), np.float32)
    (window,) = windower.take(times, values)
    assert window.values is values
    assert windower.open_readings == 0


def test_small_blocks_fill_a_window_across_calls() -> None:
    windower = Windower(4, 10)
    assert take(windower, [0, 1, 2]) == []
    assert windower.open_readings == 3
    assert take(windower, [3, 4]) == [[0, 1, 2, 3]]
    assert windower.open_readings == 1


def test_a_long_block_gives_several_windows_and_keeps_the_rest() -> None:
    windower = Windower(2, 10)
    assert take(windower, [0, 1, 2, 3, 4]) == [[0, 1], [2, 3]]
    assert [w.times.tolist() for w in windower.flush()] == [[4]]
    assert windower.flush() == []


def test_a_gap_within_a_block_closes_the_window_short() -> None:
    windower = Windower(4, 10)
    assert take(windower, [0, 1, 50, 51, 52, 53]) == [[0, 1], [50, 51, 52, 53]]
    assert windower.closed_short == 1


def test_a_gap_between_blocks_closes_the_window_short() -> None:
    windower = Windower(4, 10)
    assert take(windower, [0, 1]) == []
    assert take(windower, [12, 13]) == [[0, 1]]
    assert take(windower, [14, 15]) == [[12, 13, 14, 15]]


def test_a_gap_of_exactly_max_gap_closes_nothing() -> None:
    assert take(Windower(4, 10), [0, 10, 20, 30]) == [[0, 10, 20, 30]]


def test_a_jump_back_closes_the_window_and_is_counted_and_every_row_is_kept() -> None:
    windower = Windower(3, 10)
    assert take(windower, [5, 6]) == []
    assert take(windower, [1, 2, 3]) == [[5, 6], [1, 2, 3]]
    assert take(windower, [9, 0, 1, 2]) == [[9], [0, 1, 2]]
    assert windower.jumps_back == 2


def test_equal_times_close_nothing() -> None:
    windower = Windower(4, 10)
    assert take(windower, [7, 7, 7, 7]) == [[7, 7, 7, 7]]
    assert windower.jumps_back == 0


def test_a_full_block_behind_an_open_window_is_cut_where_windows_end() -> None:
    windower = Windower(4, 10)
    take(windower, [0])
    assert take(windower, [1, 2, 3, 4]) == [[0, 1, 2, 3]]


def test_the_open_window_knows_since_when_it_is_open() -> None:
    windower = Windower(4, 10)
    take(windower, [0], now_us=100)
    take(windower, [1], now_us=200)
    assert windower.opened_us == 100
    take(windower, [2, 3, 4], now_us=300)
    assert windower.opened_us == 300


def test_another_window_length_counts_from_the_next_block_on() -> None:
    windower = Windower(4, 10)
    take(windower, [0, 1, 2])
    windower.window_readings = 2
    assert take(windower, [3]) == [[0, 1], [2, 3]]
