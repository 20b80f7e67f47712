"""A tiny package for edge tests, in memory or on disk, with every part of its manifest to be varied; real ONNX.

Edge half: score = mean over the features of |mean|: how far the channels are from their centre, in scales. A window
of zeros scores 0, a window of fives scores 5. Heavy half: the same on raw windows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from schemas.manifest import Package, load_package
from tests.doubles import package_files


def _model(input_shape: list[Any], reduce_axes: list[int], gain: float) -> bytes:
    nodes = [
        helper.make_node("Abs", ["x"], ["absolute"]),
        helper.make_node("ReduceMean", ["absolute", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "gain"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "last"], ["score"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [len(reduce_axes)], reduce_axes),
        helper.make_tensor("gain", TensorProto.FLOAT, [], [gain]),
        helper.make_tensor("last", TensorProto.INT64, [1], [1]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *input_shape])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def files(
    *,
    name: str = "tiny",
    version: int = 1,
    cohort: str = "pumps",
    channels: tuple[str, ...] = ("a", "b"),
    window_readings: int = 4,
    feed: str = "features",
    gain: float = 1.0,
    escalate_at: float = 2.0,
    raise_at: float = 3.0,
    clear_at: float = 1.0,
    bounds: tuple[float, float] = (0.5, 100.0),
    self_test_gain: float | None = None,
    **changes: Any,
) -> dict[str, bytes]:
    """Files of a package by name. `self_test_gain` differing from `gain` makes a model that fails its self-test."""
    wide = len(channels)
    windows = [np.full((window_readings, wide), value).tolist() for value in (0.0, 2.0)]
    expected = gain if self_test_gain is None else self_test_gain
    self_test = {"windows": windows, "scores": [0.0, 2.0 * expected], "tolerance": 1e-4}
    edge = _model(
        [wide] if feed == "features" else [window_readings, wide], [1] if feed == "features" else [1, 2], gain
    )
    heavy = _model([window_readings, wide], [1, 2], gain)

    shared = {"input": "x", "self_test": self_test}
    statistics = ["mean"] if feed == "features" else []
    return package_files.files(
        {"edge.onnx": edge, "heavy.onnx": heavy},
        channels=channels,
        levels=(escalate_at, raise_at, clear_at),
        bounds=bounds,
        name=name,
        version=version,
        cohort=cohort,
        window_readings=window_readings,
        **{
            "edge": package_files.half("edge.onnx", edge, feed=feed, statistics=statistics, **shared),
            "heavy": package_files.half("heavy.onnx", heavy, feed="window", threshold=raise_at, **shared),
        }
        | changes,
    )


def package(**changes: Any) -> Package:
    """The edge half, as the product loads it."""
    made = files(**changes)
    return load_package(lambda name: made[name], ("edge",))


def write(folder: Path, **changes: Any) -> Path:
    """The package as a folder."""
    return package_files.write(folder, files(**changes))
