"""Laws of the windower: whatever the times are, every row comes out once, in order, and no window breaks its rules."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_filters.windower import Windower

steps = st.lists(st.one_of(st.integers(0, 3), st.integers(-5, 40)), max_size=80)
sizes = st.lists(st.integers(1, 12), max_size=30)


def blocks(moves: list[int], cuts: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows numbered from 0, at times made of `moves`, cut into blocks of `cuts` (the last one takes the rest)."""
    times = np.cumsum(np.array(moves, np.int64)) if moves else np.empty(0, np.int64)
    rows = np.arange(len(times), dtype=np.float32)[:, None]
    out = []
    for cut in [*cuts, len(times)]:
        if len(times):
            out.append((times[:cut], rows[:cut]))
            times, rows = times[cut:], rows[cut:]
    return out


@given(steps, sizes, st.integers(1, 9), st.integers(0, 10))
def test_every_row_is_in_exactly_one_window_or_still_open_in_order(
    moves: list[int], cuts: list[int], length: int, max_gap: int
) -> None:
    windower = Windower(length, max_gap)
    seen = fed = 0
    for times, rows in blocks(moves, cuts):
        fed += len(times)
        for window in windower.take(times, rows):
            assert window.values[:, 0].tolist() == list(range(seen, seen + len(window.times)))
            seen += len(window.times)
        assert seen + windower.open_readings == fed
    seen += sum(len(window.times) for window in windower.flush())
    assert seen == fed == len(moves)


@given(steps, sizes, st.integers(1, 9), st.integers(0, 10))
def test_no_window_spans_a_gap_or_a_jump_back_and_short_ones_are_counted(
    moves: list[int], cuts: list[int], length: int, max_gap: int
) -> None:
    windower = Windower(length, max_gap)
    windows = [w for times, rows in blocks(moves, cuts) for w in windower.take(times, rows)] + windower.flush()
    for window in windows:
        inner = np.diff(window.times)
        assert ((inner >= 0) & (inner <= max_gap)).all()
        assert 1 <= len(window.times) <= length
    assert sum(len(w.times) < length for w in windows) == windower.closed_short
    assert windower.jumps_back == sum(move < 0 for move in moves[1:])


@given(steps, sizes, sizes, st.integers(1, 9), st.integers(0, 10))
def test_how_readings_are_cut_into_blocks_changes_no_window(
    moves: list[int], cuts: list[int], other_cuts: list[int], length: int, max_gap: int
) -> None:
    def run(which: list[int]) -> list[list[float]]:
        windower = Windower(length, max_gap)
        out = [w for times, rows in blocks(moves, which) for w in windower.take(times, rows)]
        return [window.values[:, 0].tolist() for window in out + windower.flush()]

    assert run(cuts) == run(other_cuts)
