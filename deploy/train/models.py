"""The two models of a package, fitted and as ONNX.

Edge, light: how far a few statistics per channel deviate, each by itself; schemas/features.py takes the statistics.
Heavy: takes the whole window and averages three views that know how the channels move together: a mixture of normal
distributions, a Mahalanobis distance that also sees trends, and an isolation forest. About a hundred times the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from deploy.train.graph import Graph
from deploy.train.parts import LIMIT, Deviation, Distance, Isolation, Mixture, Part
from schemas.errors import ConfigError
from schemas.features import extract
from schemas.records import Floats

EDGE_STATISTICS = ("mean", "std", "min", "max")
HEAVY_STATISTICS = ("mean", "std", "min", "max", "step", "rise")
#: Further off than this, a reading counts as this far, in scales of its channel: keeps squares and sums finite.
_READING_LIMIT = 1e6


@dataclass(frozen=True, slots=True)
class HeavySize:
    """How large the heavy model is.

    Attributes:
        trees: trees of the isolation forest.
        components: ways of operating that the mixture tells apart. None: two, or one for a single channel, where a
            second one only splits the ordinary swing (measured on the shipped recordings).
    """

    trees: int = 100
    components: int | None = None

    def __post_init__(self) -> None:
        if self.components is not None and self.components < 1:
            raise ConfigError("the heavy model needs at least one component", components=self.components)

    def components_for(self, channels: int) -> int:
        """Components to fit for so many channels."""
        return self.components or min(channels, 2)


def fit_edge(windows: Floats) -> ModelProto:
    """Edge model of standardised windows, float32[n, readings, channels]."""
    rows = _bounded(extract(windows, EDGE_STATISTICS))
    graph = Graph("edge", [rows.shape[1]])
    return graph.model(Deviation.fit(rows).add_to(graph, graph.bounded("x", LIMIT)))


def fit_heavy(windows: Floats, size: HeavySize, seed: int) -> ModelProto:
    """Heavy model of standardised windows, float32[n, readings, channels].

    Raises ConfigError: more components than windows.
    """
    components = size.components_for(windows.shape[2])
    if components > len(windows):
        raise ConfigError(
            "the heavy model has more components than there are windows to fit it on",
            components=components,
            windows=len(windows),
            fix="ask for fewer, or leave the choice to the trainer",
        )
    rows = _bounded(extract(np.clip(windows, -_READING_LIMIT, _READING_LIMIT), HEAVY_STATISTICS))
    level = rows[:, : -windows.shape[2]]  # without the last statistic, the rise: trees and mixture do better without
    graph = Graph("heavy", windows.shape[1:])
    readings = graph.bounded("x", _READING_LIMIT)
    rows_name = graph.bounded(_statistics(graph, readings, windows.shape[1]), LIMIT)
    level_name = graph.slice(rows_name, axis=1, first=0, last=level.shape[1])
    views: Sequence[tuple[Part, Floats, str]] = (
        (Mixture.fit(level, components, seed), level, level_name),
        (Distance.fit(rows), rows, rows_name),
        (Isolation.fit(level, size.trees, seed), level, level_name),
    )
    total = ""
    for part, fitted_on, name in views:
        usual = part.score(fitted_on)
        alike = graph.add("Sub", part.add_to(graph, name), graph.const(usual.mean()))
        alike = graph.add("Div", alike, graph.const(max(float(usual.std()), 1e-3)))
        total = graph.add("Add", total, alike) if total else alike
    return graph.model(graph.add("Div", total, graph.const(float(len(views)))))


def _bounded(rows: Floats) -> Floats:
    """As Graph.bounded does it."""
    return np.clip(np.where(np.isnan(rows), np.float32(LIMIT), rows), -LIMIT, LIMIT)


def _statistics(graph: Graph, x: str, readings: int) -> str:
    """HEAVY_STATISTICS of float32[batch, readings >= 2, channels], computed as schemas/features.py does."""
    off = graph.add("Sub", x, graph.mean(x, keep=True))
    first, last = graph.slice(x, 1, 0, 1), graph.slice(x, 1, readings - 1, readings)
    later, earlier = graph.slice(x, 1, 1, readings), graph.slice(x, 1, 0, readings - 1)
    columns = {
        "mean": graph.mean(x),
        "std": graph.add("Sqrt", graph.mean(graph.square(off))),
        "min": graph.add("ReduceMin", x, axes=[1], keepdims=0),
        "max": graph.add("ReduceMax", x, axes=[1], keepdims=0),
        "step": graph.mean(graph.add("Abs", graph.add("Sub", later, earlier))),
        "rise": graph.mean(graph.add("Sub", last, first)),
    }
    return graph.add("Concat", *(columns[name] for name in HEAVY_STATISTICS), axis=1)
