"""The two models of a package, fitted and as ONNX.

Edge, light: one distance on a few statistics per channel, taken by schemas/features.py. Three matrix operations.
Heavy: takes the whole window, and averages four views of it: a mixture on five statistics, an isolation forest on the
same, the distance on them, and the distance on the raw window. Some thousand times the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from deploy.train.graph import Graph
from deploy.train.parts import LIMIT, Distance, Isolation, Mixture, Part
from schemas.features import extract
from schemas.records import Floats

EDGE_STATISTICS = ("mean", "std")
HEAVY_STATISTICS = ("mean", "std", "min", "max", "step")


@dataclass(frozen=True, slots=True)
class HeavySize:
    """How large the heavy model is."""

    trees: int = 100
    components: int = 2


def fit_edge(windows: Floats) -> ModelProto:
    """Edge model of standardised windows, float32[n, readings, channels]."""
    rows = np.clip(extract(windows, EDGE_STATISTICS), -LIMIT, LIMIT)
    graph = Graph("edge", [rows.shape[1]])
    return graph.model(Distance.fit(rows).add_to(graph, graph.bounded("x", LIMIT)))


def fit_heavy(windows: Floats, size: HeavySize, seed: int) -> ModelProto:
    """Heavy model of standardised windows, float32[n, readings, channels]."""
    bounded = np.clip(windows, -LIMIT, LIMIT)
    raw = bounded.reshape(len(bounded), -1)
    rows = extract(bounded, HEAVY_STATISTICS)
    graph = Graph("heavy", windows.shape[1:])
    bounded_name = graph.bounded("x", LIMIT)
    raw_name = graph.add("Flatten", bounded_name, axis=1)
    rows_name = _statistics(graph, bounded_name, windows.shape[1])
    views: Sequence[tuple[Part, Floats, str]] = (
        (Mixture.fit(rows, size.components, seed), rows, rows_name),
        (Isolation.fit(rows, size.trees, seed), rows, rows_name),
        (Distance.fit(rows), rows, rows_name),
        (Distance.fit(raw), raw, raw_name),
    )
    total = ""
    for part, fitted_on, name in views:
        usual = part.score(fitted_on)
        alike = graph.add("Sub", part.add_to(graph, name), graph.const(usual.mean()))
        alike = graph.add("Div", alike, graph.const(max(float(usual.std()), 1e-3)))
        total = graph.add("Add", total, alike) if total else alike
    return graph.model(graph.add("Div", total, graph.const(float(len(views)))))


def _statistics(graph: Graph, x: str, readings: int) -> str:
    """HEAVY_STATISTICS of float32[batch, readings, channels] inside of the model; as schemas/features.py has them."""
    off = graph.add("Sub", x, graph.mean(x, keep=True))
    if readings > 1:
        later = _rows(graph, x, 1, readings)
        step = graph.mean(graph.add("Abs", graph.add("Sub", later, _rows(graph, x, 0, readings - 1))))
    else:
        step = graph.mean(off)
    columns = {
        "mean": graph.mean(x),
        "std": graph.add("Sqrt", graph.mean(graph.square(off))),
        "min": graph.add("ReduceMin", x, axes=[1], keepdims=0),
        "max": graph.add("ReduceMax", x, axes=[1], keepdims=0),
        "step": step,
    }
    return graph.add("Concat", *(columns[name] for name in HEAVY_STATISTICS), axis=1)


def _rows(graph: Graph, x: str, first: int, last: int) -> str:
    return graph.add("Slice", x, *(graph.const([bound], np.int64) for bound in (first, last, 1)))
