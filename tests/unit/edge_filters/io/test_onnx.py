from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.external_data_helper import convert_model_to_external_data

from edge_filters.assemble import build_scorer
from edge_filters.io.files import edge_package
from edge_filters.io.onnx import OnnxRuntime
from schemas.errors import ModelError
from schemas.manifest import load_package
from tests.doubles import edge_model


def test_a_model_is_run_from_bytes_and_tells_its_tensors() -> None:
    runtime = OnnxRuntime(edge_model.files()["edge.onnx"])
    assert (runtime.inputs[0].name, runtime.inputs[0].dtype, runtime.inputs[0].shape) == ("x", "float32", (None, 2))
    (score,) = runtime.run(["score"], {"x": np.array([[1, 3], [0, 0]], np.float32)})
    assert score.tolist() == [[2.0], [0.0]]


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(ModelError, match="the model cannot be loaded"):
        OnnxRuntime(b"no model")


def test_a_feed_that_does_not_fit_is_a_model_error() -> None:
    runtime = OnnxRuntime(edge_model.files()["edge.onnx"])
    with pytest.raises(ModelError, match="the model failed"):
        runtime.run(["score"], {"x": np.zeros((1, 3), np.float32)})


def test_weights_in_another_file_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = helper.make_tensor("w", TensorProto.FLOAT, [512, 1], np.ones(512, np.float32).tobytes(), raw=True)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["score"])],
        "external",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 512])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 1])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save_model(model, str(tmp_path / "model.onnx"))
    assert (tmp_path / "weights.bin").exists()
    monkeypatch.chdir(tmp_path)  # a runtime that loads from bytes looks for such files in the working folder
    with pytest.raises(ModelError, match="the model cannot be loaded"):
        OnnxRuntime((tmp_path / "model.onnx").read_bytes())


def test_a_package_is_read_from_its_folder(tmp_path: Path) -> None:
    package = edge_package(edge_model.write(tmp_path / "model"))
    assert build_scorer(package).manifest.name == "tiny"
    assert list(package.files) == ["edge.onnx"]


def test_what_is_wrong_with_a_package_names_its_folder(tmp_path: Path) -> None:
    folder = edge_model.write(tmp_path / "model")
    (folder / "edge.onnx").write_bytes(b"another")
    with pytest.raises(ModelError) as wrong:
        edge_package(folder)
    assert str(wrong.value).startswith(
        f"a file of the package is not the one its manifest names (package='{folder}', file='edge.onnx', "
    )
    with pytest.raises(ModelError, match=r"no manifest\.json in the model folder"):
        edge_package(tmp_path)


def test_a_model_that_does_not_fit_its_window_is_refused() -> None:
    files = edge_model.files(feed="window")
    manifest = json.loads(files["manifest.json"])
    manifest["window_readings"] = 5
    for half in ("edge", "heavy"):
        manifest[half]["self_test"]["windows"] = np.zeros((2, 5, 2)).tolist()
    files["manifest.json"] = json.dumps(manifest).encode()
    package = load_package(lambda name: files[name], ("edge",))
    with pytest.raises(ModelError, match="the model does not fit the window its manifest describes"):
        build_scorer(package)
