"""SVG for pages that stand alone: elements, lines and pictures, with everything that is given escaped. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

#: Most stretches that a line is drawn in; each keeps its smallest and its largest value, so no spike is lost.
BUCKETS = 540


def tag(name: str, kind: str, **given: float | str) -> Markup:
    """An empty element of class `kind`; numbers of its attributes to a tenth of a pixel.

    >>> print(tag("circle", "audit", cx=1.26, cy=2, r=1.6))
    <circle class="audit" cx="1.3" cy="2" r="1.6"/>
    """
    return _start(name, kind, given) + Markup("/>")


def text(kind: str, x: float, y: float, words: str, **given: float | str) -> Markup:
    """Words at a place.

    >>> print(text("axis", 4, 12.0, "a < b"))
    <text class="axis" x="4" y="12.0">a &lt; b</text>
    """
    return _start("text", kind, {"x": x, "y": y} | given) + Markup(">{}</text>").format(words)


def line(kind: str, points: Iterable[tuple[float, float]], *, closed: bool = False, title: str = "") -> Markup:
    """A path through points; nothing where there are none. `title` is what a pointer shows.

    >>> print(line("signal s0", [(0, 1), (2.5, 3)]))
    <path class="signal s0" d="M0.0,1.0L2.5,3.0"/>
    """
    way = "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    if not way:
        return Markup("")
    start = _start("path", kind, {"d": f"M{way}{'Z' if closed else ''}"})
    return start + (Markup("><title>{}</title></path>").format(title) if title else Markup("/>"))


def picture(width: float, height: float, parts: Iterable[Markup], kind: str = "", **given: float | str) -> Markup:
    """The whole, as wide as the page lets it be."""
    size: dict[str, float | str] = {"viewBox": f"0 0 {width:.0f} {height:.0f}", "role": "img"}
    return _start("svg", kind, size | given) + Markup(">") + Markup("").join(parts) + Markup("</svg>")


def extremes(values: npt.NDArray[Any]) -> Iterator[tuple[int, float]]:
    """Index and value of the least and the greatest of each stretch, in their order; what is not finite is left out."""
    size = max(1, math.ceil(len(values) / BUCKETS))
    for start in range(0, len(values), size):
        part = values[start : start + size]
        usable = np.flatnonzero(np.isfinite(part))
        if len(usable):
            for at in sorted({int(usable[part[usable].argmin()]), int(usable[part[usable].argmax()])}):
                yield start + at, float(part[at])


def _start(name: str, kind: str, given: Mapping[str, float | str]) -> Markup:
    said = {"class": kind, **given} if kind else given
    attributes = "".join(
        f' {key.replace("_", "-")}="{f"{value:.1f}" if isinstance(value, float) else escape(value)}"'
        for key, value in said.items()
    )
    return Markup(f"<{name}{attributes}")  # noqa: S704  # names are ours, and values are escaped above
