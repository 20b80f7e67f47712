"""Small real ONNX graphs of the shapes that other people's models have; what each computes can be told by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Any]],
    outputs: Sequence[tuple[str, int, Any]],
    constants: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 17,
    check: bool = True,
) -> bytes:
    """A model of nodes, and of inputs and outputs as (name, element type, shape)."""
    graph = helper.make_graph(
        list(nodes),
        "odd",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        list(constants),
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    made = helper.make_model(graph, opset_imports=opsets if not check else opsets[:1], ir_version=8)
    if check:
        onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def running_sum(readings: int = 4, channels: int = 1, *, state_batch: bool = True, batch: Any = "b") -> bytes:
    """state += sum of the window; the score is the state. State float32[1, batch, 1], or [1] without a batch."""
    axes = helper.make_tensor("axes", INT64, [2], [1, 2])
    shape = [1, batch, 1] if state_batch else [1]
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=1),
        helper.make_node("Reshape", ["total", "as_state"], ["flat"]),
        helper.make_node("Add", ["state", "flat"], ["state_out"]),
        helper.make_node("Reshape", ["state_out", "as_score"], ["score"]),
    ]
    constants = [
        axes,
        helper.make_tensor("as_state", INT64, [len(shape)], [1, -1, 1] if state_batch else [1]),
        helper.make_tensor("as_score", INT64, [2], [-1, 1]),
    ]
    return model(
        nodes,
        [("x", FLOAT, [batch, readings, channels]), ("state", FLOAT, shape)],
        [("score", FLOAT, [batch, 1]), ("state_out", FLOAT, shape)],
        constants,
    )


def byte_counter(readings: int = 4, dtype: int = INT32) -> bytes:
    """int32[batch, readings]: how many of the numbers are above 100, as [batch] without a last dimension."""
    nodes = [
        helper.make_node("Greater", ["bytes", "hundred"], ["above"]),
        helper.make_node("Cast", ["above"], ["ones"], to=FLOAT),
        helper.make_node("ReduceSum", ["ones", "axis"], ["count"], keepdims=0),
    ]
    constants = [helper.make_tensor("hundred", dtype, [], [100]), helper.make_tensor("axis", INT64, [1], [1])]
    return model(nodes, [("bytes", dtype, ["b", readings])], [("count", FLOAT, ["b"])], constants)


def mean_of(shape: Sequence[Any], name: str = "x") -> bytes:
    """The mean of a float32 input of any shape, per first dimension."""
    constants = [helper.make_tensor("flat", INT64, [2], [0, -1])]
    nodes = [
        helper.make_node("Reshape", [name, "flat"], ["rows"]),
        helper.make_node("ReduceMean", ["rows"], ["score"], axes=[1], keepdims=1),
    ]
    return model(nodes, [(name, FLOAT, list(shape))], [("score", FLOAT, [shape[0], 1])], constants)


def first_number(shape: Sequence[Any]) -> bytes:
    """The first two numbers of each window, as [batch, 2]: they tell how a window lies."""
    constants = [
        helper.make_tensor("flat", INT64, [2], [0, -1]),
        helper.make_tensor("from", INT64, [1], [0]),
        helper.make_tensor("to", INT64, [1], [2]),
        helper.make_tensor("axis", INT64, [1], [1]),
    ]
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["rows"]),
        helper.make_node("Slice", ["rows", "from", "to", "axis"], ["out"]),
    ]
    return model(nodes, [("x", FLOAT, list(shape))], [("out", FLOAT, [shape[0], 2])], constants)


def weighted(readings: int = 4) -> bytes:
    """Two inputs a and b, float32[batch, readings, 1], and a constant int64 scalar `gain`: mean(a) + gain * mean(b)."""
    nodes = [
        helper.make_node("ReduceMean", ["a"], ["ma"], axes=[1, 2], keepdims=0),
        helper.make_node("ReduceMean", ["b"], ["mb"], axes=[1, 2], keepdims=0),
        helper.make_node("Cast", ["gain"], ["gain_f"], to=FLOAT),
        helper.make_node("Mul", ["mb", "gain_f"], ["scaled"]),
        helper.make_node("Add", ["ma", "scaled"], ["score"]),
    ]
    inputs = [("a", FLOAT, ["n", readings, 1]), ("b", FLOAT, ["n", readings, 1]), ("gain", INT64, [])]
    return model(nodes, inputs, [("score", FLOAT, ["n"])])


def half_of_it(readings: int = 4, channels: int = 2) -> bytes:
    """A poor autoencoder: gives back half of what it takes."""
    shape = ["b", readings, channels]
    nodes = [helper.make_node("Mul", ["x", "half"], ["rebuilt"])]
    return model(
        nodes, [("x", FLOAT, shape)], [("rebuilt", FLOAT, shape)], [helper.make_tensor("half", FLOAT, [], [0.5])]
    )


def one_at_a_time(readings: int | None = 4) -> bytes:
    """Says that its batch is free, and is not: a Reshape inside holds it to 1, and readings to 4."""
    constants = [helper.make_tensor("one", INT64, [2], [1, 4])]
    nodes = [
        helper.make_node("Reshape", ["x", "one"], ["row"]),
        helper.make_node("ReduceMean", ["row"], ["score"], axes=[1], keepdims=1),
    ]
    return model(nodes, [("x", FLOAT, ["b", readings or "r"])], [("score", FLOAT, ["b", 1])], constants)


def takes_strings() -> bytes:
    """A string tensor in."""
    nodes = [helper.make_node("Shape", ["words"], ["out"])]
    return model(nodes, [("words", TensorProto.STRING, ["b", 2])], [("out", INT64, [2])])


def gives_strings() -> bytes:
    """A string tensor out, and nothing else."""
    nodes = [
        helper.make_node("Cast", ["x"], ["label"], to=TensorProto.STRING),
    ]
    return model(nodes, [("x", FLOAT, ["b", 4])], [("label", TensorProto.STRING, ["b", 4])])


def unknown_operator() -> bytes:
    """An operator that nobody has."""
    nodes = [helper.make_node("Guess", ["x"], ["score"], domain="com.example")]
    return model(nodes, [("x", FLOAT, ["b", 4])], [("score", FLOAT, ["b", 1])], check=False)


def dice() -> bytes:
    """Another score each time."""
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("ReduceMean", ["noise"], ["score"], axes=[1], keepdims=1),
    ]
    return model(nodes, [("x", FLOAT, ["b", 4])], [("score", FLOAT, ["b", 1])])


def endless() -> bytes:
    """A Loop of 2^40 turns."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("Add", ["sum_in", "sum_in"], ["sum_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_in", FLOAT, ["b", 4]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum_out", FLOAT, ["b", 4]),
        ],
    )
    constants = [
        helper.make_tensor("turns", INT64, [], [2**40]),
        helper.make_tensor("go", TensorProto.BOOL, [], [True]),
    ]
    nodes = [
        helper.make_node("Loop", ["turns", "go", "x"], ["sum"], body=body),
        helper.make_node("ReduceMean", ["sum"], ["score"], axes=[1], keepdims=1),
    ]
    return model(nodes, [("x", FLOAT, ["b", 4])], [("score", FLOAT, ["b", 1])], constants)


def greedy() -> bytes:
    """Asks for 64 GiB: as many zeros as 2^32 times its input's readings."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Mul", ["shape", "many"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["most"], keepdims=0),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Add", ["mean", "most"], ["score"]),
    ]
    constants = [helper.make_tensor("many", INT64, [1], [2**16])]
    return model(nodes, [("x", FLOAT, ["b", 4])], [("score", FLOAT, ["b", 1])], constants)


def network(readings: int = 4, channels: int = 2, hidden: int = 7) -> bytes:
    """A small network with weights of a fixed seed: its scores have bits in their last places that may vary."""
    random = np.random.default_rng(11)
    weights = {
        "w1": random.normal(0, 1, (readings * channels, hidden)),
        "b1": random.normal(0, 1, (hidden,)),
        "w2": random.normal(0, 1, (hidden, 1)),
        "b2": random.normal(0, 1, (1,)),
    }
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w1", "b1"], ["first"]),
        helper.make_node("Tanh", ["first"], ["squashed"]),
        helper.make_node("Gemm", ["squashed", "w2", "b2"], ["second"]),
        helper.make_node("Sigmoid", ["second"], ["score"]),
    ]
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    return model(nodes, [("x", FLOAT, ["b", readings, channels])], [("score", FLOAT, ["b", 1])], constants)
