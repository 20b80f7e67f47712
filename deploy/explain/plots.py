"""Plots of what was recorded: a device over time, a window, counts. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from deploy import svg
from deploy.svg import BUCKETS, extremes
from deploy.text import utc

WIDTH, LEFT, RIGHT = 1080, 64, 8
PANEL, SCORES, GAP = 120, 140, 24
#: Most channels drawn over each other, and most dots of one kind.
CHANNELS, DOTS = 8, 1500
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Dot:
    """A window with a score. `kind`: audit, normal, anomaly, overridden, undecided."""

    at_us: int
    score: float
    kind: str


@dataclass(frozen=True, slots=True)
class Level:
    """Thresholds in force from a time on."""

    at_us: int
    escalate_at: float
    raise_at: float


@dataclass(slots=True)
class Picture:
    """One device over time. `times`: int64[n], microseconds; `low`, `high`: float[n, channels] of what lies there."""

    times: Array
    low: Array
    high: Array
    channels: Sequence[str]
    dots: list[Dot] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    shaded: list[tuple[int, int]] = field(default_factory=list)  # from, to, microseconds


def over_time(picture: Picture) -> Markup:
    """Signal above, scores below, over one time axis."""
    ends: list[int] = [*(picture.times[[0, -1]].tolist() if len(picture.times) else ())]
    ends += [dot.at_us for dot in picture.dots]
    if not ends:
        return Markup("")
    first, last = min(ends), max(ends)
    span = (last - first) or 1

    def x(at_us: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max((at_us - first) / span, 0.0), 1.0)

    has_scores = bool(picture.dots)
    bottom = PANEL + (GAP + SCORES if has_scores else 0)
    out = [svg.tag("rect", "label", x=x(a), y=0, width=max(x(b) - x(a), 1.0), height=bottom) for a, b in picture.shaded]
    out += [svg.text("axis", 4, 12, "signal")]
    for channel in range(min(CHANNELS, picture.low.shape[1] if picture.low.ndim == 2 else 0)):
        points = _band(picture.times, picture.low[:, channel], picture.high[:, channel], x)
        title = picture.channels[channel] if channel < len(picture.channels) else ""
        out.append(svg.line(f"signal s{channel % 8}", points, title=title))
    if has_scores:
        out += _scores(picture, x, PANEL + GAP, last)
    out += [
        svg.text(
            f"axis {'tick' if share else ''}",
            x(first + share * span),
            bottom + 16,
            utc(int(first + share * span))[:19].replace("T", " "),
        )
        for share in (0.0, 0.33, 0.66, 1.0)
    ]
    return svg.picture(WIDTH, bottom + 24, out)


def window(values: Array, channels: Sequence[str], width: int = WIDTH) -> Markup:
    """A window of readings, float32[n, c]: a panel per channel, so that different units do not hide each other."""
    height, pad = 46, 18
    out: list[Markup] = []
    n = max(len(values) - 1, 1)
    for number, name in enumerate(channels):
        top = number * (height + pad)
        column = values[:, number].astype(np.float64)
        finite = column[np.isfinite(column)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
        out.append(svg.text("axis", 4, top + 12, f"{name}: {low:.5g} to {high:.5g}"))
        span = (high - low) or 1.0
        points = [
            (4 + (width - 8) * at / n, top + pad + (height - 4) * (1 - (value - low) / span))
            for at, value in extremes(column)
        ]
        out.append(svg.line(f"signal s{number % 8}", points))
    return svg.picture(width, len(channels) * (height + pad) + 4, out)


def bars(counts: Sequence[tuple[str, int]]) -> Markup:
    """A bar per name."""
    most = max((count for _, count in counts), default=0) or 1
    out = []
    for row, (name, count) in enumerate(counts):
        y = row * 22
        out += [svg.tag("rect", "bar", x=260.0, y=float(y + 3), width=max(1.0, 640 * count / most), height=14.0)]
        out += [
            svg.text("axis", 4, y + 14, name[:40]),
            svg.text("axis", 268 + 640 * count / most, y + 14, f"{count:,}"),
        ]
    return svg.picture(WIDTH, 22 * len(counts) + 4, out)


def _band(times: Array, low: Array, high: Array, x: Callable[[float], float]) -> list[tuple[float, float]]:
    both = np.concatenate([low, high])
    finite = both[np.isfinite(both)]
    if not len(finite):
        return []
    least, most = float(finite.min()), float(finite.max())
    span = (most - least) or 1.0
    size = max(1, math.ceil(len(times) / BUCKETS))
    points = []
    for start in range(0, len(times), size):
        lows, highs = low[start : start + size], high[start : start + size]
        if not (np.isfinite(lows).any() and np.isfinite(highs).any()):
            continue
        at = x(float(times[start]))
        ends = [float(np.nanmin(lows)), float(np.nanmax(highs))]
        ends = ends if ends[0] != ends[1] else ends[:1]
        points += [(at, 4 + (PANEL - 8) * (1 - (value - least) / span)) for value in ends]
    return points


def _scores(picture: Picture, x: Callable[[float], float], top: float, last: int) -> list[Markup]:
    levels = [v for level in picture.levels for v in (level.escalate_at, level.raise_at)]
    seen = [_within_reason(v) for v in [*levels, *(d.score for d in picture.dots)]]
    is_log = min(seen) > 0 and max(seen) / min(seen) > 20
    scale: Callable[[float], float] = math.log10 if is_log else float
    low, high = scale(min(seen)), scale(max(seen))
    margin = 0.05 * ((high - low) or 1.0)
    low, high = low - margin, high + margin
    span = (high - low) or 1.0  # far from zero the margin can vanish

    def y(value: float) -> float:
        return top + SCORES * (1 - min(max((scale(_within_reason(value)) - low) / span, 0.0), 1.0))

    out = [svg.tag("rect", "frame", x=float(LEFT), y=top, width=float(WIDTH - LEFT - RIGHT), height=float(SCORES))]
    out += [svg.text("axis", 4, top - 6, "score, logarithmic" if is_log else "score")]
    powers = range(math.ceil(low), math.floor(high) + 1)
    ticks = [10.0**e for e in powers[:: len(powers) // 10 + 1]] if is_log else np.linspace(low, high, 5)[1:-1].tolist()
    for tick in ticks:
        out += [svg.tag("line", "grid", x1=float(LEFT), x2=float(WIDTH - RIGHT), y1=y(tick), y2=y(tick))]
        out += [svg.text("axis", 4, y(tick) + 4, f"{tick:.3g}")]
    ends = [*(level.at_us for level in picture.levels[1:]), last][: len(picture.levels)]
    for name in ("escalate_at", "raise_at"):
        corners = [
            (x(at), y(getattr(level, name)))
            for level, end in zip(picture.levels, ends, strict=True)
            for at in (level.at_us, end)
        ]
        out.append(svg.line(name.removesuffix("_at"), corners))
    for dot in picture.dots:
        radius = 1.6 if dot.kind == "audit" else 2.6
        out.append(svg.tag("circle", dot.kind, cx=x(dot.at_us), cy=y(dot.score), r=radius))
    return out


def _within_reason(value: float) -> float:
    """Scores may be anything finite; beyond this their differences are not."""
    return min(max(value, -1e150), 1e150)


def thinned(dots: Iterable[Dot], most: int = DOTS) -> list[Dot]:
    """At most `most` of each kind, evenly over time but with the highest score of each stretch."""
    by_kind: dict[str, list[Dot]] = {}
    for dot in sorted(dots, key=lambda d: d.at_us):
        by_kind.setdefault(dot.kind, []).append(dot)
    out: list[Dot] = []
    for kind in by_kind.values():
        size = max(1, math.ceil(len(kind) / most))
        out += [max(kind[at : at + size], key=lambda d: d.score) for at in range(0, len(kind), size)]
    return out
