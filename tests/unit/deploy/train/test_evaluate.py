from __future__ import annotations

import math

import numpy as np

from deploy.train.evaluate import Evaluation, Separation


def test_a_constant_score_reaches_half_and_the_share_of_anomalous_windows() -> None:
    anomalous = np.arange(100) < 20
    assert Separation.of(anomalous, np.zeros(100)) == Separation(auc=0.5, ap=0.2)


def test_a_perfect_score_reaches_one() -> None:
    anomalous = np.arange(10) >= 8
    assert Separation.of(anomalous, np.arange(10.0)) == Separation(auc=1.0, ap=1.0)


def test_where_every_window_is_of_one_kind_nothing_can_be_said() -> None:
    found = Separation.of(np.ones(5, bool), np.arange(5.0))
    assert math.isnan(found.auc)
    assert math.isnan(found.ap)


def test_what_is_not_defined_is_left_out_of_the_manifest_and_null_in_the_report() -> None:
    evaluation = Evaluation({"edge_auc": math.nan, "windows": 3.0}, {"pump-1": {"edge_ap": 0.5}})
    assert evaluation.flat() == {"windows": 3.0, "pump-1.edge_ap": 0.5}
    assert evaluation.as_json() == {
        "pooled": {"edge_auc": None, "windows": 3.0},
        "devices": {"pump-1": {"edge_ap": 0.5}},
    }
