from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from deploy.train.charts import HEIGHT, POINTS, WIDTH, Curve, Level, curves, histogram


def numbers(path: str) -> np.ndarray:
    return np.array([[float(v) for v in pair.split(",")] for pair in re.findall(r"[-\d.]+,[-\d.]+", path)])


@pytest.mark.parametrize("scores", [np.zeros(5), np.array([3.0]), np.random.default_rng(0).normal(size=2_000)])
def test_distributions_stay_within_the_picture_and_are_well_formed(scores: np.ndarray) -> None:
    picture = histogram(
        [("held", scores), ("odd", scores + 1), ("later", np.zeros(0))], [Level(4.0, "alarm at", "raise")], "x"
    )
    paths = ElementTree.fromstring(picture).findall("path")
    assert len(paths) == 2
    for path in paths:
        corners = numbers(path.attrib["d"])
        assert (corners >= 0).all()
        assert (corners[:, 0] <= WIDTH).all()
        assert (corners[:, 1] <= HEIGHT).all()
    assert "alarm at" in picture


def test_where_there_are_no_scores_there_is_no_picture() -> None:
    assert histogram([("held", np.zeros(0))], [], "x") == ""


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    line = np.linspace(0, 1, 10_000)
    picture = curves([Curve("edge", line, line**2)], "a", "b")
    (path,) = ElementTree.fromstring(picture).findall("path")
    corners = numbers(path.attrib["d"])
    assert len(corners) <= POINTS
    assert corners[-1, 1] < corners[0, 1]
    assert corners[0, 0] < corners[-1, 0]
