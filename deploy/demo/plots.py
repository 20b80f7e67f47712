"""The report's plots as plain SVG: one device each, over the readings it replayed. Pure.

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

from schemas.records import Floats, Outcome, Verdict

WIDTH, SIGNAL_HEIGHT, SCORE_HEIGHT, LEFT, GAP = 1080, 110, 150, 56, 22
#: Most points of a line: each bucket keeps its smallest and its largest value, so no spike is lost.
BUCKETS = 540


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


def svg(plot: DevicePlot) -> str:
    """The picture. Everything in it is a number or one of our own words, so nothing needs escaping."""
    readings = max(len(plot.signal), 1)
    bottom = SIGNAL_HEIGHT + GAP + SCORE_HEIGHT

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - 8) * at / readings

    out = [
        _element("rect", cls="label", x=x(first), y=0, width=max(x(last + 1) - x(first), 1), height=bottom)
        for first, last in plot.labelled
    ]
    for channel in range(plot.signal.shape[1]):
        out += [_element("path", cls=f"signal s{channel % 8}", d=_line(plot.signal[:, channel], x))]
    out += [_text("axis", 4, 12, "signal"), *_scores(plot, x, SIGNAL_HEIGHT + GAP)]
    for at, version in plot.swaps:
        out += [_element("line", cls="swap", x1=x(at), x2=x(at), y1=0, y2=bottom)]
        out += [_text("axis", x(at) + 4, SIGNAL_HEIGHT + 14, f"model version {version}")]
    ticks = [share * readings for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    out += [_text("axis tick", x(at), bottom + 16, f"{at:,.0f}") for at in ticks]
    box = f"0 0 {WIDTH} {bottom + 24}"
    return f'<svg viewBox="{box}" role="img" preserveAspectRatio="none">{"".join(out)}</svg>'


def _element(tag: str, *, cls: str, **attributes: float | str) -> str:
    given = (f'{k}="{v:.1f}"' if isinstance(v, float) else f'{k}="{v}"' for k, v in attributes.items())
    return f'<{tag} class="{cls}" {" ".join(given)}/>'


def _text(cls: str, x: float, y: float, words: str) -> str:
    return f'<text class="{cls}" x="{x:.1f}" y="{y:.1f}">{words}</text>'


def _line(values: Floats, x: Callable[[float], float]) -> str:
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    span = (high - low) or 1.0
    size = max(1, math.ceil(len(values) / BUCKETS))
    points = []
    for start in range(0, len(values), size):
        part = values[start : start + size]
        for at in sorted({int(part.argmin()), int(part.argmax())}):
            y = 4 + (SIGNAL_HEIGHT - 8) * (1 - (float(part[at]) - low) / span)
            points.append(f"{x(start + at):.1f},{y:.1f}")
    return "M" + "L".join(points) if points else ""


def _scores(plot: DevicePlot, x: Callable[[float], float], top: float) -> list[str]:
    levels = [v for s in plot.steps for v in (s.escalate_at, s.raise_at)]
    seen = [v for v in [*levels, *(m.score for m in plot.marks)] if v > 0]
    if not seen:
        return []
    low, high = math.log10(min(seen) * 0.8), math.log10(max(seen) * 1.25)

    def y(value: float) -> float:
        at = (math.log10(max(value, 10**low)) - low) / ((high - low) or 1.0)
        return top + SCORE_HEIGHT * (1 - min(max(at, 0.0), 1.0))

    out = [_element("rect", cls="frame", x=LEFT, y=top, width=WIDTH - LEFT - 8, height=SCORE_HEIGHT)]
    for tick in (10.0**exponent for exponent in range(math.ceil(low), math.floor(high) + 1)):
        out += [_element("line", cls="grid", x1=LEFT, x2=WIDTH - 8, y1=y(tick), y2=y(tick))]
        out += [_text("axis", 4, y(tick) + 4, f"{tick:g}")]
    ends = [*(s.at for s in plot.steps[1:]), len(plot.signal)]
    for name in ("escalate_at", "raise_at"):
        corners = [
            f"{x(at):.1f},{y(getattr(step, name)):.1f}"
            for step, end in zip(plot.steps, ends, strict=True)
            for at in (step.at, end)
        ]
        out += [_element("path", cls=name.removesuffix("_at"), d="M" + "L".join(corners))] if corners else []
    for mark in plot.marks:
        radius = 1.6 if mark.kind == "audit" else 2.8
        out += [_element("circle", cls=mark.kind, cx=x(mark.at), cy=y(mark.score), r=radius)]
    return out
