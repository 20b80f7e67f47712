"""Models of other shapes than one tensor in and one score out, on a real runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from schemas.errors import ModelError
from schemas.feeding import cast, pick_scores
from schemas.manifest import Pick
from tests.doubles import odd_models
from tests.doubles.packages import package, scorer

STATE = {"input": "state", "output": "state_out", "shape": [1, 1, 1], "batch_axis": 1}
CARRIED: dict[str, Any] = {"states": [STATE], "reset_after_us": 5_000_000}
T0 = 1_700_000_000_000_000


def ones(count: int, readings: int = 4, channels: int = 1) -> np.ndarray:
    return np.ones((count, readings, channels), np.float32)


def spans(*starts_s: float, length_s: float = 3.0) -> np.ndarray:
    return np.array([[T0 + s * 1e6, T0 + (s + length_s) * 1e6] for s in starts_s]).astype(np.int64)


# -- state ------------------------------------------------------------------------------------------------------------


def test_state_goes_from_window_to_window_of_a_device_also_within_a_call() -> None:
    found = scorer(package(odd_models.running_sum(), **CARRIED))
    assert found.carries
    assert found.score(ones(3), ["a", "b", "a"]).tolist() == [4.0, 4.0, 8.0]
    assert found.score(ones(2), ["b", "a"]).tolist() == [8.0, 12.0]


def test_state_starts_anew_after_a_gap_and_where_time_goes_back() -> None:
    found = scorer(package(odd_models.running_sum(), **CARRIED))
    assert found.score(ones(2), ["a", "a"], spans(0, 4)).tolist() == [4.0, 8.0]
    assert found.score(ones(1), ["a"], spans(12)).tolist() == [12.0]  # 5 s after the end at 7 s: no gap yet
    assert found.score(ones(1), ["a"], spans(20.000001)).tolist() == [4.0]
    assert found.score(ones(1), ["a"], spans(10)).tolist() == [4.0]


def test_the_heavy_half_starts_each_window_anew() -> None:
    found = scorer(package(odd_models.running_sum(), **CARRIED), "heavy")
    assert not found.carries
    assert found.score(ones(3), ["a", "a", "a"]).tolist() == [4.0, 4.0, 4.0]
    assert found.score(ones(1), ["a"]).tolist() == [4.0]
    assert found.remembered == 0


def test_a_state_without_a_batch_is_fed_one_by_one() -> None:
    state = {"input": "state", "output": "state_out", "shape": [1]}
    data = odd_models.running_sum(state_batch=False, batch=1)
    found = scorer(package(data, states=[state], reset_after_us=1, batch=1))
    assert found.score(ones(4), ["a", "b", "a", "b"]).tolist() == [4.0, 4.0, 8.0, 8.0]


def test_a_call_that_fails_leaves_what_was_remembered_and_a_window_that_fails_alone_starts_its_device_anew() -> None:
    found = scorer(package(odd_models.running_sum(), **CARRIED))
    found.score(ones(2), ["a", "b"])
    poisoned = np.concatenate([ones(1), np.full((1, 4, 1), np.nan, np.float32)])
    with pytest.raises(ModelError, match="not finite"):
        found.score(poisoned, ["a", "b"])
    with pytest.raises(ModelError, match="not finite"):
        found.score(poisoned[1:], ["b"])
    assert found.score(ones(2), ["a", "b"]).tolist() == [8.0, 4.0]


def test_what_is_remembered_is_bounded_and_the_device_not_seen_for_longest_starts_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("schemas.scoring.MAX_DEVICES", 2)
    found = scorer(package(odd_models.running_sum(), **CARRIED))
    for device in ("a", "b", "a", "c"):
        found.score(ones(1), [device])
    assert found.remembered == 2
    assert found.score(ones(1), ["a"]).tolist() == [12.0]
    assert found.score(ones(1), ["b"]).tolist() == [4.0]


def test_the_bound_is_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("schemas.scoring.MAX_MEMORY_BYTES", 3 * 4)
    found = scorer(package(odd_models.running_sum(), **CARRIED))
    found.score(ones(10), [f"d{i}" for i in range(10)])
    assert found.remembered == 3


def test_the_self_test_leaves_nothing_behind() -> None:
    found = scorer(package(odd_models.running_sum(), **CARRIED))
    assert found.remembered == 0
    assert found.score(ones(1), [""]).tolist() == [4.0]


def test_a_state_that_does_not_fit_is_refused_with_both_shapes() -> None:
    with pytest.raises(ModelError, match=r"a state of the manifest does not fit .*float32\[1, \?, 1\].*\[1, \?, 7\]"):
        package(odd_models.running_sum(), states=[STATE | {"shape": [1, 1, 7]}], reset_after_us=1)


def test_an_input_that_nothing_feeds_is_refused() -> None:
    with pytest.raises(ModelError, match=r"inputs are not what its manifest says .*got=\['x', 'state'\]"):
        package(odd_models.running_sum())


# -- context and frames -----------------------------------------------------------------------------------------------


def test_context_is_the_end_of_the_window_before_and_zero_at_the_start() -> None:
    made = package(
        odd_models.first_number(["b", 6]),
        layout="flat",
        context_readings=2,
        reset_after_us=10,
        output="out",
        pick={"reduce": "last"},
    )
    found = scorer(made)
    rising = np.arange(1, 13, dtype=np.float32).reshape(3, 4, 1)
    # the second number of [context, window]: the last reading of the window before
    assert found.score(rising, ["a", "a", "a"]).tolist() == [0.0, 4.0, 8.0]
    assert found.score(rising[:1], ["b"]).tolist() == [0.0]


@pytest.mark.parametrize(("over", "want"), [("max", 10.0), ("last", 10.0), ("mean", 7.5)])
def test_a_window_goes_in_by_frames_and_state_runs_through_them(over: str, want: float) -> None:
    made = package(odd_models.running_sum(1), frame_readings=1, over_frames=over, **CARRIED)
    window = np.array([[[4.0], [3.0], [2.0], [1.0]]], np.float32)  # sums 4, 7, 9, 10
    assert scorer(made, "heavy").score(window, ["a"]).tolist() == [want]


# -- inputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "shape", "want"),
    [
        ("rows", ["b", 4, 2], 10.0),  # the number behind the first one is the other channel's
        ("channels", ["b", 2, 4], 1.0),  # … the next reading's
        ("flat", ["b", 8], 10.0),
        ("flat-channels", ["b", 8], 1.0),
    ],
)
def test_a_window_lies_as_the_manifest_says(layout: str, shape: list[Any], want: float) -> None:
    made = package(odd_models.first_number(shape), channels=("a", "b"), layout=layout, output="out", pick={"label": 1})
    window = np.stack([np.arange(4), np.arange(4) + 10], axis=1)[None].astype(np.float32)
    assert scorer(made).score(window, ["x"]).tolist() == [want]


def test_several_inputs_take_their_own_channels_and_a_constant_stays() -> None:
    half = {
        "input": "a",
        "constants": [{"input": "gain", "dtype": "int64", "shape": [], "values": [100.0]}],
        "also": [{"input": "b", "feed": "window", "channels": ["p"]}],
    }
    made = package(odd_models.weighted(), channels=("p", "q"), of_half=["q"], **half)
    window = np.stack([np.full(4, 1.0), np.full(4, 7.0)], axis=1)[None].astype(np.float32)
    assert scorer(made).score(window, ["x"]).tolist() == [107.0]


def test_integers_are_rounded_and_held_in_range() -> None:
    found = scorer(package(odd_models.byte_counter(), input="bytes", layout="flat", dtype="int32", output="count"))
    window = np.array([[[100.4], [100.6], [1e30], [-1e30]]], np.float32)
    assert found.score(window, ["a"]).tolist() == [2.0]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_no_integer_wraps_round(dtype: str) -> None:
    bounds = np.iinfo(dtype)
    got = cast(np.array([-3e38, -0.5, 1.5, 2.5, 3e38], np.float32), dtype)
    assert got.dtype == dtype
    assert got.tolist() == [bounds.min, 0, 2, 2, bounds.max]


def test_a_fixed_batch_is_filled_up_and_cut_again() -> None:
    found = scorer(package(odd_models.mean_of([3, 4, 1]), batch=3))
    windows = ones(4) * np.arange(4, dtype=np.float32)[:, None, None]
    assert found.score(windows, list("abcd")).tolist() == [0.0, 1.0, 2.0, 3.0]


def test_a_fixed_batch_that_the_manifest_does_not_tell_of_is_refused() -> None:
    with pytest.raises(ModelError, match="does not fit the window"):
        package(odd_models.mean_of([3, 4, 1]))


# -- the score --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pick", "want"),
    [
        ({"label": 2}, [3.0, 6.0]),
        ({"reduce": "max"}, [3.0, 6.0]),
        ({"reduce": "min"}, [1.0, 4.0]),
        ({"reduce": "sum"}, [6.0, 15.0]),
        ({"reduce": "mean"}, [2.0, 5.0]),
        ({"reduce": "last"}, [3.0, 6.0]),
        ({"reduce": "error"}, [14 / 3, 77 / 3]),
        ({"label": 0, "flip": "negate"}, [-1.0, -4.0]),
        ({"label": 0, "flip": "complement"}, [0.0, -3.0]),
    ],
)
def test_one_number_of_many_is_the_score(pick: dict[str, Any], want: list[float]) -> None:
    out = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    assert pick_scores(Pick(**pick), out, 2, np.zeros((2, 3), np.float32), "f").tolist() == want


def test_a_class_of_a_sequence_of_maps_is_the_score() -> None:
    out = [{"good": 0.25, "bad": 0.75}, {"good": 1.0, "bad": 0.0}]
    fed = np.zeros((2, 1), np.float32)
    assert pick_scores(Pick(label="bad"), out, 2, fed, "f").tolist() == [0.75, 0.0]
    with pytest.raises(ModelError, match=r"knows no such class .*want='ugly'.*\['bad', 'good'\]"):
        pick_scores(Pick(label="ugly"), out, 2, fed, "f")
    with pytest.raises(ModelError, match="names none of them"):
        pick_scores(Pick(), out, 2, fed, "f")
    with pytest.raises(ModelError, match="no entry per window"):
        pick_scores(Pick(label="bad"), out[:1], 2, fed, "f")


@pytest.mark.parametrize(
    ("pick", "out", "sentence"),
    [
        (Pick(), np.zeros((2, 3)), "one number per window"),
        (Pick(label=3), np.zeros((2, 3)), "knows no such class"),
        (Pick(label=-1), np.zeros((2, 3)), "knows no such class"),
        (Pick(), np.zeros(3), "not the same count of numbers"),
        (Pick(), np.zeros(()), "not the same count of numbers"),
        (Pick(reduce="error"), np.zeros((2, 3)), "cannot be compared with the input"),
        (Pick(), np.array(["x", "y"]), "not the same count of numbers"),
    ],
)
def test_an_output_that_holds_no_score_says_why(pick: Pick, out: np.ndarray, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        pick_scores(pick, out, 2, np.zeros((2, 5), np.float32), "f")
