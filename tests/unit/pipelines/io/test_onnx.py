from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import onnx
import pytest
from apache_beam.ml.inference.base import ModelMetadata, PredictionResult, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_stream
from apache_beam.transforms.window import TimestampedValue
from onnx import TensorProto, helper

from pipelines.io.onnx import LoadedModel, OnnxModelHandler, OnnxRuntime
from schemas.errors import ModelError
from schemas.scoring import Tensor
from tests.doubles.collect import Collect

FLOAT = TensorProto.FLOAT


def save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: Any = ()) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def affine(path: Path, plus: float = 0.0) -> Path:
    """sum = a + b * factor + plus; diff = a - b. a, b: [batch, 2]; factor: a scalar."""
    value = helper.make_tensor_value_info
    return save(
        path,
        [
            helper.make_node("Mul", ["b", "factor"], ["scaled"]),
            helper.make_node("Add", ["a", "scaled"], ["added"]),
            helper.make_node("Add", ["added", "plus"], ["sum"]),
            helper.make_node("Sub", ["a", "b"], ["diff"]),
            helper.make_node("ReduceMax", ["a"], ["largest"], keepdims=0),
        ],
        [value("a", FLOAT, ["n", 2]), value("b", FLOAT, ["n", 2]), value("factor", FLOAT, [])],
        [value("sum", FLOAT, ["n", 2]), value("diff", FLOAT, ["n", 2]), value("largest", FLOAT, [])],
        [helper.make_tensor("plus", FLOAT, [], [plus])],
    )


def example(a: float, b: float, factor: float = 2.0) -> dict[str, Any]:
    return {"a": np.full(2, a, np.float32), "b": np.full(2, b, np.float32), "factor": np.float32(factor)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return affine(tmp_path / "model.onnx")


def infer(handler: OnnxModelHandler, examples: list[dict[str, Any]]) -> list[PredictionResult]:
    found = Collect()
    with beam.Pipeline(runner=FnApiRunner()) as p:
        p | beam.Create(examples, reshuffle=False) | RunInference(handler) | found
    return found.found


def by_hand(model: Path, examples: list[dict[str, Any]]) -> list[PredictionResult]:
    handler = OnnxModelHandler(str(model))
    return list(handler.run_inference(examples, handler.load_model()))


def test_inside_of_run_inference_all_inputs_and_outputs_count(model: Path) -> None:
    results = infer(OnnxModelHandler(str(model)), [example(i, 1.0) for i in range(5)])
    got = sorted((float(r.example["a"][0]), r.inference["sum"].tolist(), r.inference["diff"].tolist()) for r in results)
    assert got == [(float(i), [i + 2.0] * 2, [i - 1.0] * 2) for i in range(5)]
    sha256 = OnnxRuntime(model.read_bytes()).sha256.hex()
    assert {r.model_id for r in results} == {f"{model}@sha256:{sha256}"}


def test_an_output_without_dimensions_is_given_to_every_example(model: Path) -> None:
    results = by_hand(model, [example(1.0, 0.0), example(7.0, 0.0)])
    assert [float(r.inference["largest"]) for r in results] == [7.0, 7.0]


def test_a_missing_input_gives_a_sentence(model: Path) -> None:
    wrong = {key: value for key, value in example(1, 1).items() if key != "b"}
    with pytest.raises(ModelError) as raised:
        by_hand(model, [example(1, 1), wrong])
    assert str(raised.value) == ("an example lacks an input of the model (input='b', example=1, got=['a', 'factor'])")


def test_the_sentence_reaches_the_user_of_run_inference(model: Path) -> None:
    with pytest.raises(ModelError, match="an example lacks an input of the model"):
        infer(OnnxModelHandler(str(model)), [{"a": np.zeros(2, np.float32)}])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"a": np.zeros(3, np.float32)}, "the examples do not fit an input of the model: all input arrays must have"),
        ({"a": ["x", "y"]}, "the examples do not fit an input of the model: could not convert"),
        ({"factor": np.float32(3.0)}, "a scalar input must be the same for the whole batch"),
    ],
)
def test_examples_that_do_not_go_together_give_a_sentence(model: Path, wrong: Any, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        by_hand(model, [example(1, 1), example(1, 1) | wrong])


def test_an_example_of_the_wrong_shape_gives_a_sentence(model: Path) -> None:
    with pytest.raises(ModelError, match="the model failed"):
        by_hand(model, [example(1, 1) | {"a": np.zeros(3, np.float32)}])


def test_an_output_that_mixes_the_examples_gives_a_sentence(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("ReduceMean", ["a"], ["mean"], axes=[0], keepdims=0)],
        [value("a", FLOAT, ["n", 3])],
        [value("mean", FLOAT, [3])],
    )
    with pytest.raises(ModelError, match=r"an output has no batch dimension \(output='mean', entries=3, examples=2\)"):
        by_hand(path, [{"a": np.zeros(3)}, {"a": np.ones(3)}])


def test_texts_can_be_inputs(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", ["a"], ["b"])],
        [value("a", TensorProto.STRING, ["n"])],
        [value("b", TensorProto.STRING, ["n"])],
    )
    assert [r.inference["b"] for r in by_hand(path, [{"a": "pump"}, {"a": "fan"}])] == ["pump", "fan"]


@pytest.mark.parametrize("max_batch_size", [1, 3, 256])
def test_batches_are_as_large_as_asked_for(tmp_path: Path, max_batch_size: int) -> None:
    model = affine(tmp_path / "m.onnx")
    handler = OnnxModelHandler(str(model), min_batch_size=max_batch_size, max_batch_size=max_batch_size)
    assert handler.batch_elements_kwargs() == {"min_batch_size": max_batch_size, "max_batch_size": max_batch_size}
    results = infer(handler, [example(i, 0.0) for i in range(7)])
    # "largest" is the largest of the batch an example was in: it tells how they were batched
    sizes = Counter(float(r.inference["largest"]) for r in results)
    assert max(sizes.values()) == min(max_batch_size, 7)
    assert len(results) == 7


def test_bytes_are_those_of_all_inputs(model: Path) -> None:
    handler = OnnxModelHandler(str(model))
    assert handler.get_num_bytes([example(1, 1), example(2, 2)]) == 2 * (8 + 8 + 4)
    assert handler.get_num_bytes([]) == 0
    assert handler.get_metrics_namespace() == "tidegate.onnx"


def test_a_refresh_changes_the_answers_and_the_model_id(tmp_path: Path) -> None:
    """The side input names a newer model while the stream goes on."""
    old, new = affine(tmp_path / "old.onnx"), affine(tmp_path / "new.onnx", plus=100.0)
    found = Collect()
    events = (
        test_stream.TestStream()
        .add_elements([TimestampedValue(ModelMetadata(str(old), "old"), 1)], tag="models")
        .add_elements([TimestampedValue(example(1, 1), 5)], tag="main")
        .advance_watermark_to(10, tag="models")
        .advance_watermark_to(10, tag="main")
        .add_elements([TimestampedValue(ModelMetadata(str(new), "new"), 11)], tag="models")
        .add_elements([TimestampedValue(example(1, 1), 15)], tag="main")
        .advance_watermark_to_infinity(tag="models")
        .advance_watermark_to_infinity(tag="main")
    )
    every_10_s = beam.window.FixedWindows(10)
    with beam.Pipeline(runner=BundleBasedDirectRunner(), options=PipelineOptions([], streaming=True)) as p:
        streams = p | events
        names = streams["models"] | "Models" >> beam.WindowInto(every_10_s)
        handler = OnnxModelHandler(str(old))
        answers = streams["main"] | beam.WindowInto(every_10_s) | RunInference(handler, model_metadata_pcoll=names)
        answers | found
    got = [(r.inference["sum"].tolist(), r.model_id) for r in found.found]
    hashes = {path: OnnxRuntime(path.read_bytes()).sha256.hex() for path in (old, new)}
    assert got == [
        ([3.0, 3.0], f"{old}@sha256:{hashes[old]}"),
        ([103.0, 103.0], f"{new}@sha256:{hashes[new]}"),
    ]


def test_without_a_path_a_refresh_keeps_the_model(model: Path) -> None:
    handler = OnnxModelHandler(str(model))
    handler.update_model_path(None)
    assert handler.load_model().uri == str(model)


def test_the_runtime_names_its_tensors(model: Path) -> None:
    runtime = OnnxRuntime(model.read_bytes())
    assert runtime.inputs == (
        Tensor("a", "float32", (None, 2)),
        Tensor("b", "float32", (None, 2)),
        Tensor("factor", "float32", ()),
    )
    assert [t.name for t in runtime.outputs] == ["sum", "diff", "largest"]


@pytest.mark.parametrize("data", [b"", b"junk", b"\x08\x08" * 100])
def test_bytes_that_are_no_model_give_a_sentence(data: bytes) -> None:
    with pytest.raises(ModelError, match="onnxruntime cannot load the model"):
        OnnxRuntime(data)


def test_a_model_cannot_reach_for_files_outside_of_its_bytes(tmp_path: Path) -> None:
    secret = tmp_path / "weights.bin"
    secret.write_bytes(np.ones(2, "<f4").tobytes())
    tensor = helper.make_tensor("w", FLOAT, [2], secret.read_bytes(), raw=True)
    onnx.external_data_helper.set_external_data(tensor, location=str(secret))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "w"], ["b"])],
        "g",
        [value("a", FLOAT, [2])],
        [value("b", FLOAT, [2])],
        [tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    with pytest.raises(ModelError, match="onnxruntime cannot load the model"):
        OnnxRuntime(model.SerializeToString())


def test_a_loaded_model_knows_where_it_came_from(model: Path) -> None:
    loaded = OnnxModelHandler(str(model)).load_model()
    assert isinstance(loaded, LoadedModel)
    assert loaded.uri == str(model)
