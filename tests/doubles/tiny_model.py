"""A real, tiny model package whose scores can be told by hand: the mean over channels of the window's mean and max.

edge score  = gain * mean over channels of mean(x)         heavy score = heavy_gain * mean over channels of max(x)
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


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
    halves = {}
    files = {}
    window = np.ones((window_readings, channels))
    for which, statistic, weight in (("edge", "mean", gain), ("heavy", "max", heavy_gain)):
        data = linear_model(channels, weight / channels)
        files[f"{which}.onnx"] = data
        halves[which] = {
            "file": f"{which}.onnx",
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "input": "features",
            "feed": "features",
            "statistics": [statistic],
            "output": "score",
            "threshold": heavy_threshold if which == "heavy" else None,
            "self_test": {"windows": [window.tolist()], "scores": [weight]},
        }
    manifest = {
        "format": "tidegate-model/1",
        "name": name,
        "version": version,
        "cohort": cohort,
        "channels": [f"c{i}" for i in range(channels)],
        "window_readings": window_readings,
        "scaling": {"centre": [0.0] * channels, "scale": [1.0] * channels},
        "levels": {"escalate_at": 1.0, "raise_at": 2.0, "clear_at": 0.5},
        "bounds": {"low": 0.1, "high": 10.0},
        **halves,
    }
    return files | {"manifest.json": json.dumps(manifest, indent=1).encode()}


def manifest_bytes(**changes: Any) -> bytes:
    """The manifest of a package."""
    return package_files(**changes)["manifest.json"]


def write_package(folder: Path, **changes: Any) -> Path:
    """Write a package and return its folder; see package_files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in package_files(**changes).items():
        (folder / name).write_bytes(data)
    return folder
