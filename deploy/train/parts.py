"""The parts that scores are made of: each is fitted by scikit-learn on normal rows, and adds itself to an ONNX graph.

A part gives float32[batch, 1] from float32[batch, features]; higher is less normal. Features come in bounded: what
lies further than LIMIT scales from normal is as abnormal as can be, and one wild channel cannot drown the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from sklearn.covariance import EmpiricalCovariance
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

from deploy.train.graph import Graph
from schemas.records import Floats

#: In scales of a channel.
LIMIT = 8.0
#: Variance, in squared scales, that every direction is taken to have at least: normal operation will not keep to the
#: thinnest directions of the sample it was fitted on.
RIDGE = 0.05
#: Rows times squared features of a mixture's fit, which costs that much each time it goes through them: with many
#: channels it is fitted on fewer rows, evenly taken.
_MIXTURE_WORK = 400_000_000

Doubles = npt.NDArray[np.float64]


class Part(Protocol):
    """One score."""

    def score(self, rows: Floats) -> Doubles:
        """float64[n] of float32[n, features], as scikit-learn computes it."""
        ...

    def add_to(self, graph: Graph, rows: str) -> str:
        """Add the nodes that compute it; returns the output's name."""
        ...


@dataclass(frozen=True, slots=True)
class Distance:
    """Squared Mahalanobis distance per feature, in logarithms: how far off, in the units of what is usual together."""

    centre: Doubles
    whiten: Doubles

    @classmethod
    def fit(cls, rows: Floats) -> Distance:
        """From the covariance of float32[n, features]."""
        wide = rows.astype(np.float64)
        covariance = EmpiricalCovariance().fit(wide)
        values, vectors = np.linalg.eigh(covariance.covariance_)
        return cls(covariance.location_, vectors / np.sqrt(np.maximum(values, 0.0) + RIDGE))

    def score(self, rows: Floats) -> Doubles:
        """See Part."""
        return np.asarray(np.log1p(np.square((rows - self.centre) @ self.whiten).mean(axis=1)), np.float64)

    def add_to(self, graph: Graph, rows: str) -> str:
        """See Part."""
        off = graph.add("Sub", rows, graph.const(self.centre))
        return graph.log1p(graph.mean(graph.square(graph.add("MatMul", off, graph.const(self.whiten))), keep=True))


@dataclass(frozen=True, slots=True)
class Deviation:
    """Mean squared deviation of each feature in its own units, in logarithms: no feature knows of another."""

    centre: Doubles
    spread: Doubles

    @classmethod
    def fit(cls, rows: Floats) -> Deviation:
        """From float32[n, features]."""
        scaler = StandardScaler().fit(rows.astype(np.float64))
        return cls(scaler.mean_, np.sqrt(scaler.var_ + RIDGE))

    def score(self, rows: Floats) -> Doubles:
        """See Part."""
        return np.asarray(np.log1p(np.square((rows - self.centre) / self.spread).mean(axis=1)), np.float64)

    def add_to(self, graph: Graph, rows: str) -> str:
        """See Part."""
        off = graph.add("Div", graph.add("Sub", rows, graph.const(self.centre)), graph.const(self.spread))
        return graph.log1p(graph.mean(graph.square(off), keep=True))


@dataclass(frozen=True, slots=True)
class Mixture:
    """How unlikely under a mixture of normal distributions, one per way of operating; logarithm of the excess."""

    fitted: Any
    usual: float

    @classmethod
    def fit(cls, rows: Floats, components: int, seed: int) -> Mixture:
        """From float32[n, features]."""
        rows = rows[:: -(-len(rows) * rows.shape[1] ** 2 // _MIXTURE_WORK)]
        mixture = GaussianMixture(
            n_components=components,
            reg_covar=RIDGE,
            init_params="random_from_data",
            n_init=3,
            max_iter=200,
            random_state=seed,
        ).fit(rows.astype(np.float64))
        return cls(mixture, float(-mixture.score_samples(rows.astype(np.float64)).max()))

    def score(self, rows: Floats) -> Doubles:
        """See Part."""
        unlikely = -self.fitted.score_samples(rows.astype(np.float64)) - self.usual
        return np.asarray(np.log1p(np.maximum(unlikely, 0.0) / rows.shape[1]), np.float64)

    def add_to(self, graph: Graph, rows: str) -> str:
        """See Part."""
        chol, means = self.fitted.precisions_cholesky_, self.fitted.means_  # [k, f, f], [k, f]
        count, wide = means.shape
        half_log_det = np.log(np.diagonal(chol, axis1=1, axis2=2)).sum(axis=1)
        constant = np.log(self.fitted.weights_) + half_log_det - 0.5 * wide * np.log(2 * np.pi)
        off = graph.add("MatMul", rows, graph.const(np.concatenate(list(chol), axis=1)))
        off = graph.add("Sub", off, graph.const(np.einsum("kf,kfg->kg", means, chol).ravel()))
        off = graph.add("Reshape", off, graph.const([-1, count, wide], np.int64))
        square = graph.add("ReduceSum", graph.square(off), graph.const([2], np.int64), keepdims=0)
        each = graph.add("Add", graph.add("Mul", square, graph.const(-0.5)), graph.const(constant))
        likely = graph.add("ReduceLogSumExp", each, axes=[1], keepdims=1)
        unlikely = graph.add("Relu", graph.add("Sub", graph.const(-self.usual), likely))
        return graph.log1p(graph.add("Div", unlikely, graph.const(float(wide))))


@dataclass(frozen=True, slots=True)
class Isolation:
    """How few random cuts set a row apart from the normal ones (Liu, Ting & Zhou, ICDM 2008); in (0, 1)."""

    fitted: Any

    @classmethod
    def fit(cls, rows: Floats, trees: int, seed: int) -> Isolation:
        """From float32[n, features]."""
        return cls(IsolationForest(n_estimators=trees, random_state=seed).fit(rows))

    def score(self, rows: Floats) -> Doubles:
        """See Part."""
        return np.asarray(-self.fitted.score_samples(rows), np.float64)

    def add_to(self, graph: Graph, rows: str) -> str:
        """See Part. One tree-ensemble node sums the path lengths; 2 to the minus of their mean is the score."""
        columns: dict[str, list[Any]] = {name: [] for name in ("tree", "node", "feature", "value", "mode", "yes", "no")}
        leaves: dict[str, list[Any]] = {name: [] for name in ("tree", "node", "weight")}
        trees = self.fitted.estimators_
        usual = len(trees) * _path_length(np.array([self.fitted.max_samples_]))[0]
        for number, estimator in enumerate(trees):
            tree = estimator.tree_
            leaf = tree.children_left < 0
            depth = _depths(tree.children_left, tree.children_right)
            rest = _path_length(tree.n_node_samples)
            columns["tree"] += [number] * tree.node_count
            columns["node"] += range(tree.node_count)
            columns["feature"] += np.where(leaf, 0, tree.feature).tolist()
            columns["value"] += np.where(leaf, 0.0, _not_above(tree.threshold)).tolist()
            columns["mode"] += ["LEAF" if end else "BRANCH_LEQ" for end in leaf]
            columns["yes"] += np.where(leaf, 0, tree.children_left).tolist()
            columns["no"] += np.where(leaf, 0, tree.children_right).tolist()
            ends = np.flatnonzero(leaf)
            leaves["tree"] += [number] * len(ends)
            leaves["node"] += ends.tolist()
            leaves["weight"] += ((depth + rest)[ends] / usual).tolist()
        length = graph.add(
            "TreeEnsembleRegressor",
            rows,
            domain="ai.onnx.ml",
            n_targets=1,
            aggregate_function="SUM",
            post_transform="NONE",
            nodes_treeids=columns["tree"],
            nodes_nodeids=columns["node"],
            nodes_featureids=columns["feature"],
            nodes_values=columns["value"],
            nodes_modes=columns["mode"],
            nodes_truenodeids=columns["yes"],
            nodes_falsenodeids=columns["no"],
            target_treeids=leaves["tree"],
            target_nodeids=leaves["node"],
            target_ids=[0] * len(leaves["node"]),
            target_weights=leaves["weight"],
        )
        return graph.add("Pow", graph.const(2.0), graph.add("Neg", length))


def _path_length(samples: npt.NDArray[np.generic]) -> Doubles:
    """Mean depth of an unsuccessful search in a binary tree of that many samples: c(n) of the paper."""
    n = samples.astype(np.float64)
    safe = np.maximum(n, 3.0)
    long = 2.0 * (np.log(safe - 1.0) + np.euler_gamma) - 2.0 * (safe - 1.0) / safe
    return np.asarray(np.where(n <= 1, 0.0, np.where(n <= 2, 1.0, long)), np.float64)


def _depths(left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> Doubles:
    """Depth of each node; scikit-learn numbers parents before their children."""
    depth = np.zeros(len(left))
    for node in np.flatnonzero(left >= 0):
        depth[left[node]] = depth[right[node]] = depth[node] + 1
    return depth


def _not_above(thresholds: Doubles) -> npt.NDArray[np.float32]:
    """The largest float32 not above each: `x <= threshold` then means the same for every float32 x."""
    near = thresholds.astype(np.float32)
    return np.where(near.astype(np.float64) > thresholds, np.nextafter(near, np.float32(-np.inf)), near)
