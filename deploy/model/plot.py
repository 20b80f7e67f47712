"""A trial as one HTML page with its plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from deploy import svg
from deploy.model.trial import Trace, Trial
from deploy.page import render

WIDTH, LEFT, SIGNAL, SCORE, GAP = 1080, 64, 120, 160, 24
#: Most columns of a line: each keeps its smallest and its largest value, so no spike is lost.
COLUMNS = 500
#: Devices that are drawn; the table has all of them.
DRAWN_DEVICES = 20
#: Windows above the threshold that are marked.
MOST_DOTS = 2_000
Numbers = npt.NDArray[np.float64]


def page(trial: Trial) -> str:
    """The page."""
    traces = list(trial.traces.items())[:DRAWN_DEVICES]
    return render(
        "model/trial.html.j2",
        told=trial.as_json(),
        which=trial.which,
        readings=trial.manifest.window_readings,
        plots=[(device, _draw(trial, device, trace)) for device, trace in traces],
    )


def _draw(trial: Trial, device_id: str, trace: Trace) -> Markup:
    """Signal above, as the band between the least and the largest value; scores and levels below."""
    windows = len(trace.scores)
    limits = trial.limits(device_id)
    marks = {"escalate": limits.escalate_at, "raise": limits.raise_at}
    if limits.escalate_at == limits.raise_at:
        marks = {"threshold": limits.raise_at}

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - 8) * at / max(windows, 1)

    out: list[Markup] = []
    band = np.stack(trace.envelope).astype(np.float64) if trace.envelope else np.zeros((0, 2, 0))
    for channel in range(band.shape[2]):
        low, high = _columns(band[:, 0, channel])[1], _columns(band[:, 1, channel])[2]
        out.append(_band(low, high, float(low.min()), float(high.max()), x, windows, f"band s{channel % 8}"))
    names = ", ".join(trial.manifest.channels[: band.shape[2]])
    more = len(trial.manifest.channels) - band.shape[2]
    label = names + (f" and {more} more" if more > 0 else "")
    out.append(svg.text("axis", LEFT, 11, f"{label}, each in its own range"))

    scores = np.array(trace.scores)
    top = SIGNAL + GAP
    low_score, high_score = min(float(scores.min()), *marks.values()), max(float(scores.max()), *marks.values())

    def y(value: float) -> float:
        return top + SCORE * (1 - (value - low_score) / ((high_score - low_score) or 1.0))

    for tick in np.linspace(low_score, high_score, 5).tolist():
        out.append(svg.tag("line", "grid", x1=LEFT, x2=WIDTH - 8, y1=y(tick), y2=y(tick)))
        out.append(svg.text("axis", 2, y(tick) + 4, f"{tick:.4g}"))
    _, least, largest = _columns(scores)
    points = [
        (x(windows * at / len(least)), y(value))
        for at, (a, b) in enumerate(zip(least.tolist(), largest.tolist(), strict=True))
        for value in ([a] if a == b else [a, b])
    ]
    out.append(svg.line("score", points))
    for what, value in marks.items():  # their words on either side, as the levels may lie close together
        kind, beside = ("raise", -3) if what == "raise" else ("escalate", 12)
        out.append(svg.tag("line", kind, x1=LEFT, x2=WIDTH - 8, y1=y(value), y2=y(value)))
        out.append(svg.text("axis tick", WIDTH - 10, y(value) + beside, f"{what} {value:.4g}"))
    hot = np.flatnonzero(scores >= limits.escalate_at)[:MOST_DOTS]
    out += [svg.tag("circle", "anomaly", cx=x(at), cy=y(float(scores[at])), r=2) for at in hot.tolist()]
    bottom = top + SCORE
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        words = f"{'' if share else 'window '}{share * windows:,.0f}"
        out.append(svg.text("axis tick" if share == 1.0 else "axis", x(share * windows), bottom + 15, words))
    return svg.picture(WIDTH, bottom + 22, out)


def _columns(values: Numbers) -> tuple[int, Numbers, Numbers]:
    """Windows per column, and the least and the largest value of each."""
    size = max(1, math.ceil(len(values) / COLUMNS))
    starts = np.arange(0, len(values), size)
    return size, np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)


def _band(
    low: Numbers, high: Numbers, least: float, largest: float, x: Callable[[float], float], windows: int, kind: str
) -> Markup:
    def y(value: float) -> float:
        return 16 + (SIGNAL - 16) * (1 - (value - least) / ((largest - least) or 1.0))

    def points(values: Sequence[float]) -> list[tuple[float, float]]:
        return [(x(windows * at / len(values)), y(value)) for at, value in enumerate(values)]

    return svg.line(kind, points(high.tolist()) + points(low.tolist())[::-1], closed=True)
