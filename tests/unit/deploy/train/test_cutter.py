from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deploy.train.cutter import Cutter
from deploy.train.reading import Batch


def batch(times: list[int], first: int = 0, labels: list[int] | None = None) -> Batch:
    flags = np.array(labels if labels is not None else [0] * len(times), np.bool_)
    values = (first + np.arange(len(times), dtype=np.float32))[:, None]
    return Batch("pump-1", first, np.array(times, np.int64), values, flags)


def test_no_window_reaches_across_a_jump_back_or_a_gap() -> None:
    cutter = Cutter(readings=3, stride=1, max_gap_us=5, first=0, last=11)
    assert cutter.take(batch([0, 1, 2, 3, 1, 2, 3, 4, 50, 51, 52])).starts.tolist() == [0, 1, 4, 5, 8]


def test_repeated_times_end_no_window() -> None:
    cutter = Cutter(readings=6, stride=1, max_gap_us=5, first=0, last=6)
    assert cutter.take(batch([0, 1, 1, 1, 2, 3])).starts.tolist() == [0]


def test_windows_are_the_rows_from_their_start_and_are_labelled_by_any_of_them() -> None:
    cut = Cutter(readings=3, stride=3, max_gap_us=5, first=0, last=6).take(batch([0, 1, 2, 3, 4, 5], 0, [0] * 5 + [1]))
    assert cut.windows[:, :, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert cut.labelled.tolist() == [False, True]


def test_rows_outside_of_its_part_are_not_looked_at() -> None:
    cutter = Cutter(readings=2, stride=2, max_gap_us=5, first=3, last=7)
    assert cutter.take(batch([0, 1, 2, 3], 0)).starts.tolist() == []
    assert cutter.take(batch([4, 5, 6, 7, 8], 4)).starts.tolist() == [3, 5]
    assert cutter.take(batch([9, 10], 9)).starts.tolist() == []


@given(
    steps=st.lists(st.sampled_from([1, 1, 1, 1, 0, 2, -3, 9]), min_size=1, max_size=120),
    readings=st.integers(2, 9),
    stride=st.integers(1, 14),
    parts=st.integers(1, 12),
    first=st.integers(0, 20),
)
def test_windows_are_the_same_however_the_rows_are_batched(
    steps: list[int], readings: int, stride: int, parts: int, first: int
) -> None:
    times = np.cumsum(steps)
    last = len(times) - 1
    expected = []
    edges = [first, *(i for i in range(first + 1, last) if not 0 <= times[i] - times[i - 1] <= 5), last]
    for low, high in itertools.pairwise(edges):
        expected += list(range(low, high - readings + 1, stride))
    cutter = Cutter(readings, stride, 5, first, last)
    starts, windows, at = [], [], 0
    for part in np.array_split(times, parts):
        cut = cutter.take(batch(part.tolist(), at))
        starts += cut.starts.tolist()
        windows += cut.windows[:, :, 0].tolist()
        at += len(part)
    assert starts == expected
    assert windows == [list(range(s, s + readings)) for s in expected]
