"""Laws of scores: what a window scores depends on it and its device alone, however windows come together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.scoring import Scorer, Tensor
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


@cache
def network(**half: Any) -> Scorer:
    return scorer(package(odd_models.network(), channels=("a", "b"), **half))


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.sampled_from([network, lambda: network(scaled=False), lambda: network(batch=3)]),
    st.integers(0, 2**32 - 1),
)
def test_a_score_is_the_same_to_the_last_bit_whatever_it_shares_a_call_with(
    cuts: list[int], made: Callable[[], Scorer], seed: int
) -> None:
    windows = np.random.default_rng(seed).normal(0, 1, (sum(cuts), READINGS, 2)).astype(np.float32)
    ends = np.cumsum(cuts).tolist()
    parts = [made().score(windows[end - cut : end], ["d"] * cut) for cut, end in zip(cuts, ends, strict=True)]
    assert np.concatenate(parts).tolist() == made().score(windows, ["d"] * len(windows)).tolist()


class RemainderOff:
    """A runtime as they are: what is left over behind a multiple of 16 rows is worked off in another way."""

    inputs: tuple[Tensor, ...] = (Tensor("x", "float32", (None, READINGS, 2)),)
    outputs: tuple[Tensor, ...] = (Tensor("score", "float32", (None, 1)),)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        """The mean of each window, a little off behind the last multiple."""
        scores = feeds["x"].mean(axis=(1, 2), dtype=np.float64)[:, None]
        scores[len(scores) - len(scores) % 16 :] += 2.0**-40
        return [scores]


@pytest.mark.parametrize(("multiple", "same"), [(16, True), (1, False)])
def test_calls_are_filled_up_because_a_runtime_treats_what_is_left_over_differently(multiple: int, same: bool) -> None:
    made = package(odd_models.mean_of(["b", READINGS, 2]), channels=("a", "b"), batch_multiple=multiple)
    found = Scorer(made, "edge", RemainderOff())
    windows = np.random.default_rng(1).normal(0, 1, (32, READINGS, 2)).astype(np.float32)
    alone = [found.score(window[None], ["d"])[0] for window in windows]
    assert (alone == found.score(windows, ["d"] * 32).tolist()) is same
