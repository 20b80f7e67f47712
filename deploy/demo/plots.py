"""The report's plots: one device each, over the readings it replayed. Pure.

Upper panel: the signal, with the labelled anomalies shaded (the labels are only ever used here and in the trainer's
evaluation). Lower panel, logarithmic: scores of the edge model as far as they were sent (events, and the audit sample),
the thresholds in force, and what was decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from deploy import svg
from schemas.records import Floats, Outcome, Verdict

WIDTH, SIGNAL_HEIGHT, SCORE_HEIGHT, LEFT, GAP = 1080, 110, 150, 56, 22


@dataclass(frozen=True, slots=True)
class Mark:
    """A window that was sent: its first reading, its score, and what came of it."""

    at: int
    score: float
    kind: str  # audit, normal, anomaly, overridden, undecided


@dataclass(frozen=True, slots=True)
class Step:
    """Thresholds in force from a reading on."""

    at: int
    escalate_at: float
    raise_at: float


@dataclass(frozen=True, slots=True)
class DevicePlot:
    """What is drawn for one device."""

    device_id: str
    channels: Sequence[str]
    signal: Floats  # [readings, channels]
    labelled: list[tuple[int, int]] = field(default_factory=list)  # [first, last] readings
    marks: list[Mark] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    swaps: list[tuple[int, int]] = field(default_factory=list)  # (reading, model version)


def kind_of(outcome: Outcome, verdict: Verdict) -> str:
    """How a decision is drawn."""
    if outcome is Outcome.ANOMALY:
        return "anomaly"
    return "overridden" if verdict is Verdict.OVERRIDDEN else "normal"


def runs(labels: npt.NDArray[np.uint8]) -> list[tuple[int, int]]:
    """First and last index of each run of ones.

    >>> runs(np.array([0, 1, 1, 0, 1], np.uint8))
    [(1, 2), (4, 4)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], labels.astype(np.int8), [0]])))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def draw(plot: DevicePlot) -> Markup:
    """The picture."""
    readings = max(len(plot.signal), 1)
    bottom = SIGNAL_HEIGHT + GAP + SCORE_HEIGHT

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - 8) * at / readings

    out = [
        svg.tag("rect", "label", x=x(first), y=0, width=max(x(last + 1) - x(first), 1), height=bottom)
        for first, last in plot.labelled
    ]
    for channel in range(plot.signal.shape[1]):
        out += [svg.line(f"signal s{channel % 8}", _line(plot.signal[:, channel], x))]
    out += [svg.text("axis", 4, 12, "signal"), *_scores(plot, x, SIGNAL_HEIGHT + GAP)]
    for at, version in plot.swaps:
        out += [svg.tag("line", "swap", x1=x(at), x2=x(at), y1=0, y2=bottom)]
        out += [svg.text("axis", x(at) + 4, SIGNAL_HEIGHT + 14, f"model version {version}")]
    ticks = [share * readings for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    out += [svg.text("axis tick", x(at), bottom + 16, f"{at:,.0f}") for at in ticks]
    return svg.picture(WIDTH, bottom + 24, out, preserveAspectRatio="none")


def _line(values: Floats, x: Callable[[float], float]) -> list[tuple[float, float]]:
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    span = (high - low) or 1.0
    return [(x(at), 4 + (SIGNAL_HEIGHT - 8) * (1 - (value - low) / span)) for at, value in svg.extremes(values)]


def _scores(plot: DevicePlot, x: Callable[[float], float], top: float) -> list[Markup]:
    levels = [v for s in plot.steps for v in (s.escalate_at, s.raise_at)]
    seen = [v for v in [*levels, *(m.score for m in plot.marks)] if v > 0]
    if not seen:
        return []
    low, high = math.log10(min(seen) * 0.8), math.log10(max(seen) * 1.25)

    def y(value: float) -> float:
        at = (math.log10(max(value, 10**low)) - low) / ((high - low) or 1.0)
        return top + SCORE_HEIGHT * (1 - min(max(at, 0.0), 1.0))

    out = [svg.tag("rect", "frame", x=LEFT, y=top, width=WIDTH - LEFT - 8, height=SCORE_HEIGHT)]
    for tick in (10.0**exponent for exponent in range(math.ceil(low), math.floor(high) + 1)):
        out += [svg.tag("line", "grid", x1=LEFT, x2=WIDTH - 8, y1=y(tick), y2=y(tick))]
        out += [svg.text("axis", 4, y(tick) + 4, f"{tick:g}")]
    ends = [*(s.at for s in plot.steps[1:]), len(plot.signal)]
    for name in ("escalate_at", "raise_at"):
        corners = [
            (x(at), y(getattr(step, name))) for step, end in zip(plot.steps, ends, strict=True) for at in (step.at, end)
        ]
        out.append(svg.line(name.removesuffix("_at"), corners))
    for mark in plot.marks:
        radius = 1.6 if mark.kind == "audit" else 2.8
        out += [svg.tag("circle", mark.kind, cx=x(mark.at), cy=y(mark.score), r=radius)]
    return out
