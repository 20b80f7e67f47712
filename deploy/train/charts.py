"""The report's charts as plain SVG: distributions of scores, and curves of what a threshold buys. Pure.

Every word in them is ours and everything else is a number, so nothing needs escaping.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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


def histogram(groups: Sequence[tuple[str, Doubles]], levels: Sequence[Level], label: str) -> str:
    """Shares of each group of scores in equal bins, the axis cut where the highest thousandth begins.

    Args:
        groups: CSS class and scores, which may be none.
        levels: drawn as upright lines.
        label: what the scores are of.
    """
    seen = [scores for _, scores in groups if len(scores)]
    if not seen:
        return ""
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
        corners = [f"{x(edges[0]):.1f},{y(0.0):.1f}"]
        for number, share in enumerate(shares.tolist()):
            corners += [f"{x(edge):.1f},{y(share):.1f}" for edge in edges[number : number + 2]]
        corners.append(f"{x(edges[-1]):.1f},{y(0.0):.1f}")
        out.append(f'<path class="bars {kind}" d="M{"L".join(corners)}Z"/>')
    for number, level in enumerate(levels):
        at = x(level.at)
        out.append(f'<line class="{level.kind}" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        out.append(f'<text class="axis" x="{at + 3:.1f}" y="{TOP + 10 + 13 * number}">{level.name}</text>')
    shares_of = [0.0, top / 4, top]
    out += [f'<text class="axis tick" x="{LEFT - 4}" y="{y(s) + 4:.1f}">{s:.2g}</text>' for s in shares_of]
    ticks = np.linspace(low, high, 5)
    out += [
        f'<text class="axis {side}" x="{x(t):.1f}" y="{HEIGHT - BOTTOM + 14}">{t:.3g}</text>'
        for t, side in zip(ticks, ("", "mid", "mid", "mid", "tick"), strict=True)
    ]
    return _picture(out, label, "share of windows")


def curves(lines: Sequence[Curve], across: str, up: str) -> str:
    """Curves in the unit square."""

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - 8) * value

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value

    out = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        out.append(f'<text class="axis tick" x="{LEFT - 4}" y="{y(tick) + 4:.1f}">{tick:g}</text>')
        out.append(f'<text class="axis mid" x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 14}">{tick:g}</text>')
    for line in lines:
        chosen = np.unique(np.linspace(0, len(line.x) - 1, min(POINTS, len(line.x))).astype(int))
        points = (f"{x(line.x[at]):.1f},{y(line.y[at]):.1f}" for at in chosen.tolist())
        out.append(f'<path class="curve {line.kind}" d="M{"L".join(points)}"/>')
    return _picture(out, across, up)


def _picture(parts: list[str], across: str, up: str) -> str:
    frame = f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - 8}" height="{HEIGHT - BOTTOM - TOP}"/>'
    words = f'<text class="axis mid" x="{(WIDTH + LEFT) / 2:.1f}" y="{HEIGHT - 4}">{across}</text>'
    words += f'<text class="axis mid" transform="translate(11,{HEIGHT / 2:.0f}) rotate(-90)">{up}</text>'
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{frame}{"".join(parts)}{words}</svg>'
