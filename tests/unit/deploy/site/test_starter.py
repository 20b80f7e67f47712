"""The package that needs no training: its bytes are what they are said to be, and its scores can be told by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from deploy.site import starter
from edge_filters.io.onnx import OnnxRuntime
from schemas.manifest import load_package
from schemas.scoring import Scorer

finite = st.floats(-1e6, 1e6, width=32)


def scorers(
    channels: int, window: int, centre: list[float] | None = None, scale: list[float] | None = None
) -> tuple[Scorer, Scorer]:
    names = [f"c{n}" for n in range(channels)]
    files = starter.package_files("pumps", names, window, centre or [0.0] * channels, scale or [1.0] * channels)
    package = load_package(lambda name: files[name], ("edge", "heavy"))
    runtime = OnnxRuntime(starter.model_bytes())
    return Scorer(package, "edge", runtime), Scorer(package, "heavy", runtime)


def test_the_model_that_ships_is_made_of_these_two_nodes() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Abs", ["x"], ["absolute"]),
            helper.make_node("ReduceMax", ["absolute"], ["score"], axes=[1], keepdims=1),
        ],
        "deviation",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "features"])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1])],
    )
    opset = [helper.make_opsetid("", 15)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="tidegate")
    onnx.checker.check_model(model)
    assert model.SerializeToString() == starter.model_bytes()


def test_scores_are_the_largest_deviation_in_scales() -> None:
    edge, heavy = scorers(2, 4, [10.0, -5.0], [2.0, 0.5])
    window = np.array([[[10, -5], [10, -5], [10, -5], [10, -3]]], np.float32)
    assert edge.score(window, ["x"]).tolist() == [1.0]  # a mean of +0.5 in scales of 0.5
    assert heavy.score(window, ["x"]).tolist() == [4.0]  # a reading of +2 in scales of 0.5


@given(
    st.lists(st.tuples(finite, st.floats(2**-10, 1e6, width=32)), min_size=1, max_size=8),
    st.integers(1, 8),
)
def test_any_scaling_passes_its_own_self_test(scaling: list[tuple[float, float]], window: int) -> None:
    edge, heavy = scorers(len(scaling), window, [c for c, _ in scaling], [s for _, s in scaling])
    assert edge.threshold == float("inf")
    assert heavy.threshold == starter.HEAVY_THRESHOLD


@pytest.mark.parametrize("channels", [1, 40, 333, 1024])
def test_however_many_channels_the_manifest_stays_small_enough(channels: int) -> None:
    window = starter.window_for(channels, 50)
    assert 1 <= window <= 50
    rows = np.random.default_rng(1).normal(0.0, 1e5, (2, channels)).astype(np.float32)
    edge, _ = scorers(channels, window, rows[0].tolist(), (np.abs(rows[1]) + 1.0).tolist())
    assert edge.manifest.window_readings == window
