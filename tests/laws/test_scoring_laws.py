"""Laws of models that remember: what a device scores depends on its own windows alone, however they come together."""

from __future__ import annotations

from functools import cache

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas.scoring import Scorer
from tests.doubles import odd_models
from tests.doubles.packages import package, scorer

STATE = {"input": "state", "output": "state_out", "shape": [1, 1, 1], "batch_axis": 1}
STEP_US = 1_000_000
RESET_US = 2 * STEP_US
READINGS = 4


@cache
def running_sum(batch: int | None) -> Scorer:
    """Scores are whole numbers, so that they are exact whatever the order of additions."""
    data = odd_models.running_sum(READINGS, batch=batch or "b")
    return scorer(package(data, states=[STATE], reset_after_us=RESET_US, batch=batch))


#: Windows as (device, readings between the end of the device's window before and this one, value).
streams = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from([1, 1, 1, 2, 3, 50, -9]), st.integers(-50, 50)), max_size=40
)


@given(streams, st.lists(st.integers(1, 12), min_size=1, max_size=10), st.sampled_from([None, 1, 3]))
def test_a_score_is_that_of_the_device_alone_whatever_it_shares_a_call_with(
    stream: list[tuple[str, int, int]], cuts: list[int], batch: int | None
) -> None:
    windows, spans, want = [], [], []
    sums: dict[str, int] = {}
    ends: dict[str, int] = {}
    for device, apart, value in stream:
        start = ends.get(device, 0) + apart * STEP_US
        ends[device] = start + (READINGS - 1) * STEP_US
        goes_on = device in sums and 0 <= apart * STEP_US <= RESET_US
        sums[device] = (sums[device] if goes_on else 0) + READINGS * value
        windows.append(np.full((READINGS, 1), value, np.float32))
        spans.append((start, ends[device]))
        want.append(float(sums[device]))
    found = running_sum(batch)
    found.forget()
    got: list[float] = []
    at = turn = 0
    while at < len(stream):
        part = slice(at, at + cuts[turn % len(cuts)])
        devices = [device for device, _, _ in stream[part]]
        got += found.score(np.stack(windows[part]), devices, np.array(spans[part], np.int64)).tolist()
        at, turn = part.stop, turn + 1
    assert got == want
    assert found.remembered == len(sums)


@given(streams)
def test_the_heavy_half_depends_on_the_window_alone(stream: list[tuple[str, int, int]]) -> None:
    found = _heavy()
    if stream:
        windows = np.stack([np.full((READINGS, 1), value, np.float32) for _, _, value in stream])
        got = found.score(windows, [device for device, _, _ in stream]).tolist()
        assert got == [float(READINGS * value) for _, _, value in stream]


@cache
def _heavy() -> Scorer:
    return scorer(package(odd_models.running_sum(READINGS), states=[STATE], reset_after_us=RESET_US), "heavy")
