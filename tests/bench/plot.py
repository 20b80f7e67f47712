"""A line plot as plain SVG: x on a logarithmic scale, y from zero, the spread as a bar. Pure."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 300, 64, 48, 40, 24


class Point(NamedTuple):
    """A measured value and its spread."""

    x: float
    best: float
    low: float
    high: float


def svg(title: str, x_label: str, y_label: str, lines: Sequence[tuple[str, Sequence[Point]]]) -> str:
    """The picture. Each line has a name and at least one point; every x is positive."""
    points = [point for _, line in lines for point in line]
    first, last = math.log(min(p.x for p in points)), math.log(max(p.x for p in points))
    top = max(p.high for p in points) * 1.1 or 1.0

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log(value) - first) / ((last - first) or 1.0)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top

    def text(at_x: float, at_y: float, words: str, anchor: str = "middle") -> str:
        return f'<text x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(WIDTH / 2, 18, title),
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_label),
        text(LEFT, TOP - 6, y_label, "start"),
    ]
    for share in range(5):
        value = top * share / 4
        out.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        out.append(text(LEFT - 6, y(value) + 4, f"{value:,.0f}" if top > 20 else f"{value:.1f}", "end"))
    out += [text(x(value), HEIGHT - BOTTOM + 16, f"{value:,.0f}") for value in sorted({p.x for p in points})]
    for (name, line), colour in zip(lines, ("#1f5fa8", "#b3541e", "#3a7d34"), strict=False):
        path = "L".join(f"{x(p.x):.1f} {y(p.best):.1f}" for p in line)
        out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for p in line:
            out.append(f'<path d="M{x(p.x):.1f} {y(p.low):.1f}V{y(p.high):.1f}" stroke="{colour}"/>')
            out.append(f'<circle cx="{x(p.x):.1f}" cy="{y(p.best):.1f}" r="3" fill="{colour}"/>')
        out.append(text(x(line[-1].x), y(line[-1].high) - 8, name, "end"))
    return "\n".join([*out, "</svg>"]) + "\n"
