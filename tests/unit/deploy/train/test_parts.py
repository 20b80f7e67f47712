"""Each part of a score is the same number in ONNX as in scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.train.graph import Graph, to_bytes
from deploy.train.models import HEAVY_STATISTICS, HeavySize, _statistics, fit_edge, fit_heavy
from deploy.train.parts import Deviation, Distance, Isolation, Mixture, Part
from edge_filters.io.onnx import OnnxRuntime
from schemas.features import extract

ROWS = np.random.default_rng(5).normal(size=(400, 6)).astype(np.float32)
ROWS[:, 1] += ROWS[:, 0]
ODD = np.concatenate([ROWS[:50], 4 * ROWS[50:60], np.zeros((1, 6), np.float32)])
PARTS = {
    "deviation": Deviation.fit(ROWS),
    "distance": Distance.fit(ROWS),
    "mixture of one": Mixture.fit(ROWS, 1, seed=0),
    "mixture of three": Mixture.fit(ROWS, 3, seed=0),
    "isolation": Isolation.fit(ROWS, 50, seed=0),
}


def run(data: bytes, x: np.ndarray) -> np.ndarray:
    return np.asarray(OnnxRuntime(data).run(["score"], {"x": x})[0])


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())
def test_onnx_gives_the_score_that_scikit_learn_gives(part: Part) -> None:
    graph = Graph("part", [6])
    got = run(to_bytes(graph.model(part.add_to(graph, "x"))), ODD)
    assert got.shape == (len(ODD), 1)
    np.testing.assert_allclose(got[:, 0], part.score(ODD), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())
def test_what_is_far_off_scores_higher_than_what_is_usual(part: Part) -> None:
    usual, far = part.score(ROWS), part.score(np.full((1, 6), 8.0, np.float32) * [1, -1, 1, -1, 1, -1])
    assert far[0] > np.quantile(usual, 0.99)


def test_a_tree_splits_float32_rows_as_the_forest_does_even_at_its_thresholds() -> None:
    grid = np.round(ROWS, 1)  # many equal values: thresholds lie between neighbours that differ little
    part = Isolation.fit(grid, 30, seed=1)
    thresholds = np.concatenate([t.tree_.threshold[t.tree_.children_left >= 0] for t in part.fitted.estimators_])
    near = thresholds[:600].astype(np.float32).reshape(-1, 6)
    rows = np.concatenate([near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))])
    graph = Graph("isolation", [6])
    got = run(to_bytes(graph.model(part.add_to(graph, "x"))), rows)
    np.testing.assert_allclose(got[:, 0], part.score(rows), rtol=1e-5)


def test_statistics_inside_the_model_are_those_of_the_contract() -> None:
    windows = np.random.default_rng(1).normal(size=(9, 16, 3)).astype(np.float32)
    graph = Graph("statistics", [16, 3])
    rows = _statistics(graph, "x", 16)
    for column in range(len(HEAVY_STATISTICS) * 3):
        graph_of_one = Graph("statistics", [16, 3])
        picked = graph_of_one.slice(_statistics(graph_of_one, "x", 16), 1, column, column + 1)
        got = run(to_bytes(graph_of_one.model(picked)), windows)
        np.testing.assert_allclose(got[:, 0], extract(windows, HEAVY_STATISTICS)[:, column], rtol=1e-4, atol=1e-6)
    assert rows


WINDOWS = np.random.default_rng(2).normal(size=(300, 8, 2)).astype(np.float32)


def test_any_finite_window_gets_a_finite_score() -> None:
    heavy = to_bytes(fit_heavy(WINDOWS, HeavySize(trees=20), seed=0))
    edge = to_bytes(fit_edge(WINDOWS))
    extreme = np.stack([np.full((8, 2), v, np.float32) for v in (0.0, 3e38, -3e38, 1e-40, 1e20)])
    extreme = np.concatenate([extreme, np.tile(np.array([[3e38], [-3e38]], np.float32), (1, 4, 2)).reshape(1, 8, 2)])
    scores = run(heavy, extreme)[:, 0]
    assert np.isfinite(scores).all()
    assert scores.argmin() in (0, 3)
    wild = np.array([[np.inf, np.nan] * 4, [0.0] * 8], np.float32)
    scores = run(edge, wild)[:, 0]
    assert np.isfinite(scores).all()
    assert scores[0] > scores[1]


def test_a_model_does_not_depend_on_what_else_is_in_the_batch() -> None:
    heavy = to_bytes(fit_heavy(WINDOWS, HeavySize(trees=20), seed=0))
    together = run(heavy, WINDOWS[:40])
    one_by_one = np.concatenate([run(heavy, WINDOWS[i : i + 1]) for i in range(40)])
    np.testing.assert_allclose(together, one_by_one, rtol=1e-4, atol=1e-5)


def test_normal_operation_that_never_moves_can_be_modelled() -> None:
    still = np.zeros((100, 8, 2), np.float32)
    for data, feed in ((to_bytes(fit_heavy(still, HeavySize(trees=10), seed=0)), still[:3]),):
        assert np.isfinite(run(data, feed)).all()
        assert (run(data, feed + 1)[:, 0] > run(data, feed)[:, 0]).all()
