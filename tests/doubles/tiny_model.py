"""A real, tiny model package whose scores can be told by hand: the mean over channels of the window's mean and max.

edge score  = gain * mean over channels of mean(x)         heavy score = heavy_gain * mean over channels of max(x)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.doubles.package_files import files, half, write


def linear_model(features: int, weight: float) -> bytes:
    """ONNX: float32[batch, features] -> score float32[batch, 1], each feature times `weight`, added up."""
    weights = numpy_helper.from_array(np.full((features, 1), weight, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "w"], ["score"])],
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def package_files(
    *,
    name: str = "tiny",
    version: int = 1,
    cohort: str = "pumps",
    channels: int = 2,
    window_readings: int = 8,
    gain: float = 1.0,
    heavy_gain: float = 1.0,
    heavy_threshold: float = 2.0,
) -> dict[str, bytes]:
    """The files of a package by name. escalate_at 1, raise_at 2, clear_at 0.5, bounds 0.1..10."""
    halves, models = {}, {}
    window = np.ones((window_readings, channels)).tolist()
    for which, statistic, weight in (("edge", "mean", gain), ("heavy", "max", heavy_gain)):
        models[f"{which}.onnx"] = data = linear_model(channels, weight / channels)
        halves[which] = half(
            f"{which}.onnx",
            data,
            input="features",
            feed="features",
            statistics=[statistic],
            threshold=heavy_threshold if which == "heavy" else None,
            self_test={"windows": [window], "scores": [weight]},
        )
    return files(
        models,
        channels=[f"c{i}" for i in range(channels)],
        levels=(1.0, 2.0, 0.5),
        bounds=(0.1, 10.0),
        format="tidegate-model/1",
        name=name,
        version=version,
        cohort=cohort,
        window_readings=window_readings,
        **halves,
    )


def manifest_bytes(**changes: Any) -> bytes:
    """The manifest of a package."""
    return package_files(**changes)["manifest.json"]


def write_package(folder: Path, **changes: Any) -> Path:
    """Write a package and return its folder; see package_files."""
    return write(folder, package_files(**changes))
