"""The report's charts: distributions of scores, and curves of what a threshold buys. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from deploy import svg

Doubles = npt.NDArray[np.float64]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 520, 250, 60, 34, 10
BINS = 60
#: Most points of a curve.
POINTS = 300


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through points in [0, 1] x [0, 1]; `kind` is its CSS class."""

    kind: str
    x: Doubles
    y: Doubles


@dataclass(frozen=True, slots=True)
class Level:
    """A threshold: where, what it is called, and its CSS class."""

    at: float
    name: str
    kind: str


def histogram(groups: Sequence[tuple[str, Doubles]], levels: Sequence[Level], label: str) -> Markup:
    """Shares of each group of scores in equal bins, the axis cut where the highest thousandth begins.

    Args:
        groups: CSS class and scores, which may be none.
        levels: drawn as upright lines.
        label: what the scores are of.
    """
    seen = [scores for _, scores in groups if len(scores)]
    if not seen:
        return Markup("")
    everything = np.concatenate(seen)
    marks = [level.at for level in levels]
    low = float(min(everything.min(), *marks)) if marks else float(everything.min())
    high = float(max(np.quantile(everything, 0.999), *marks)) if marks else float(np.quantile(everything, 0.999))
    high = high + 0.03 * ((high - low) or 1.0)
    edges = np.linspace(low, high, BINS + 1)
    bars = [
        (kind, np.histogram(np.clip(scores, low, high), edges)[0] / len(scores))
        for kind, scores in groups
        if len(scores)
    ]
    top = max(float(shares.max()) for _, shares in bars)

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - 8) * (value - low) / (high - low)

    def y(share: float) -> float:  # square root: what is rare is what is looked for
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * math.sqrt(share / top)

    out = []
    for kind, shares in bars:
        corners = [(x(edges[0]), y(0.0))]
        for number, share in enumerate(shares.tolist()):
            corners += [(x(edge), y(share)) for edge in edges[number : number + 2]]
        corners.append((x(edges[-1]), y(0.0)))
        out.append(svg.line(f"bars {kind}", corners, closed=True))
    for number, level in enumerate(levels):
        at = x(level.at)
        out.append(svg.tag("line", level.kind, x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM))
        out.append(svg.text("axis", at + 3, TOP + 10 + 13 * number, level.name))
    shares_of = [0.0, top / 4, top]
    out += [svg.text("axis tick", LEFT - 4, y(s) + 4, f"{s:.2g}") for s in shares_of]
    ticks = np.linspace(low, high, 5)
    out += [
        svg.text(f"axis {side}", x(t), HEIGHT - BOTTOM + 14, f"{t:.3g}")
        for t, side in zip(ticks, ("", "mid", "mid", "mid", "tick"), strict=True)
    ]
    return _picture(out, label, "share of windows")


def curves(lines: Sequence[Curve], across: str, up: str) -> Markup:
    """Curves in the unit square."""

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - 8) * value

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value

    out = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        out.append(svg.tag("line", "grid", x1=LEFT, x2=WIDTH - 8, y1=y(tick), y2=y(tick)))
        out.append(svg.text("axis tick", LEFT - 4, y(tick) + 4, f"{tick:g}"))
        out.append(svg.text("axis mid", x(tick), HEIGHT - BOTTOM + 14, f"{tick:g}"))
    for line in lines:
        chosen = np.unique(np.linspace(0, len(line.x) - 1, min(POINTS, len(line.x))).astype(int))
        points = ((x(line.x[at]), y(line.y[at])) for at in chosen.tolist())
        out.append(svg.line(f"curve {line.kind}", points))
    return _picture(out, across, up)


def _picture(parts: list[Markup], across: str, up: str) -> Markup:
    frame = svg.tag("rect", "frame", x=LEFT, y=TOP, width=WIDTH - LEFT - 8, height=HEIGHT - BOTTOM - TOP)
    below = svg.text("axis mid", (WIDTH + LEFT) / 2, HEIGHT - 4, across)
    beside = svg.text("axis mid", 0, 0, up, transform=f"translate(11,{HEIGHT / 2:.0f}) rotate(-90)")
    return svg.picture(WIDTH, HEIGHT, [frame, *parts, below, beside], "chart")
