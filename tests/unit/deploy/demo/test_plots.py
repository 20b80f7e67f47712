"""The report's pictures: well-formed, complete, and bounded in size."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np

from deploy.demo import plots
from deploy.demo.plots import DevicePlot, Mark, Step, kind_of, runs
from deploy.svg import BUCKETS
from schemas.records import Outcome, Verdict

NAMES = ["c0", "c1"]


def draw(plot: DevicePlot) -> ElementTree.Element:
    return ElementTree.fromstring(plots.draw(plot))


def test_every_mark_step_label_and_swap_is_drawn() -> None:
    plot = DevicePlot(
        "pump-1",
        NAMES,
        np.random.default_rng(1).normal(size=(1000, 2)).astype(np.float32),
        labelled=[(10, 20), (500, 500)],
        marks=[Mark(16, 2.0, "anomaly"), Mark(400, 0.5, "audit"), Mark(900, 1.2, "overridden")],
        steps=[Step(0, 1.0, 2.0), Step(400, 1.1, 2.2)],
        swaps=[(400, 2)],
    )
    root = draw(plot)
    classes = [element.get("class", "") for element in root.iter()]
    assert [c for c in classes if c in ("anomaly", "audit", "overridden")] == ["anomaly", "audit", "overridden"]
    assert classes.count("label") == 2
    assert classes.count("swap") == 1
    assert classes.count("escalate") == classes.count("raise") == 1
    assert sum(c.startswith("signal") for c in classes) == 2


def test_a_device_that_sent_nothing_still_has_its_signal() -> None:
    root = draw(DevicePlot("pump-1", NAMES, np.zeros((5, 2), np.float32)))
    assert sum(e.get("class", "").startswith("signal") for e in root.iter()) == 2


def test_a_long_signal_is_thinned_out_and_keeps_its_spike() -> None:
    signal = np.zeros((200_000, 1), np.float32)
    signal[123_456] = 9.0
    path = next(e for e in draw(DevicePlot("p", ["c0"], signal)).iter() if e.get("class") == "signal s0")
    points = path.get("d", "").removeprefix("M").split("L")
    assert len(points) <= 2 * BUCKETS + 2
    assert "4.0" in {point.split(",")[1] for point in points}  # the top of the panel


def test_runs_of_labels_at_both_ends_are_found() -> None:
    assert runs(np.array([1, 1, 0, 0, 1], np.uint8)) == [(0, 1), (4, 4)]
    assert runs(np.zeros(3, np.uint8)) == []


def test_a_decision_is_drawn_as_what_holds() -> None:
    assert kind_of(Outcome.ANOMALY, Verdict.OVERRIDDEN) == "anomaly"
    assert kind_of(Outcome.NORMAL, Verdict.OVERRIDDEN) == "overridden"
    assert kind_of(Outcome.NORMAL, Verdict.RESOLVED) == "normal"
