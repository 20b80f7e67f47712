"""A trial as one HTML page with SVG in it and nothing outside of it. Everything that comes from a file is escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from deploy.model.trial import Trace, Trial

WIDTH, LEFT, SIGNAL, SCORE, GAP = 1080, 64, 120, 160, 24
#: Most columns of a line: each keeps its smallest and its largest value, so no spike is lost.
COLUMNS = 500
#: Devices that are drawn; the table has all of them.
DRAWN_DEVICES = 20
_COLOURS = ("#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#17becf", "#bcbd22", "#e377c2", "#7f7f7f")
_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1100px;padding:0 1em;color:#222;background:#fff}
table{border-collapse:collapse}th,td{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left}svg{width:100%;height:auto}svg text{font-size:11px;fill:#555}
code{overflow-wrap:anywhere}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}svg text{fill:#aaa}th,td{border-color:#444}}
"""

Numbers = npt.NDArray[np.float64]


def page(trial: Trial) -> str:
    """The page."""
    told = trial.as_json()
    timing = told["timing"]
    name = html.escape(f"{told['model']} {told['version']}, {trial.which} model")
    rows = "".join(
        f"<tr><td>{html.escape(device)}</td><td>{d['windows']:,}</td>"
        + "".join(f"<td>{d['scores'][key]:.5g}</td>" for key in ("min", "median", "p95", "max"))
        + f"<td>{d['escalated']:,}</td><td>{d['raised']:,}</td></tr>"
        for device, d in told["devices"].items()
    )
    plots = "".join(
        f"<h2>{html.escape(device)}</h2>{svg(trial, device, trace)}"
        for device, trace in list(trial.traces.items())[:DRAWN_DEVICES]
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style>'
        f"<h1>{name}</h1><p>Package <code>{told['sha256']}</code>. "
        f"A window of {trial.manifest.window_readings} readings takes {timing['window_us_p50']:,} µs (p50) and "
        f"{timing['window_us_p99']:,} µs (p99) by itself; in batches "
        f"{timing['batched_windows_per_s']:,} windows/s. Loading took {timing['load_ms']:,} ms.</p>"
        "<table><tr><th>device<th>windows<th>least<th>median<th>p95<th>largest<th>escalated<th>raised</tr>"
        f"{rows}</table>{plots}</html>\n"
    )


def svg(trial: Trial, device_id: str, trace: Trace) -> str:
    """Signal above, as the band between the least and the largest value; scores and levels below."""
    windows = len(trace.scores)
    limits = trial.limits(device_id)
    marks = {"escalate": limits.escalate_at, "raise": limits.raise_at}
    if limits.escalate_at == limits.raise_at:
        marks = {"threshold": limits.raise_at}

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - 8) * at / max(windows, 1)

    out = []
    band = np.stack(trace.envelope).astype(np.float64) if trace.envelope else np.zeros((0, 2, 0))
    for channel in range(band.shape[2]):
        low, high = _columns(band[:, 0, channel])[1], _columns(band[:, 1, channel])[2]
        out.append(_band(low, high, float(low.min()), float(high.max()), x, windows, _COLOURS[channel % 8]))
    names = ", ".join(trial.manifest.channels[: band.shape[2]])
    more = len(trial.manifest.channels) - band.shape[2]
    label = html.escape(names + (f" and {more} more" if more > 0 else ""))
    out.append(f'<text x="{LEFT}" y="11">{label}, each in its own range</text>')

    scores = np.array(trace.scores)
    top = SIGNAL + GAP
    low_score, high_score = min(float(scores.min()), *marks.values()), max(float(scores.max()), *marks.values())

    def y(value: float) -> float:
        return top + SCORE * (1 - (value - low_score) / ((high_score - low_score) or 1.0))

    for tick in np.linspace(low_score, high_score, 5).tolist():
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - 8}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#8884"/>')
        out.append(f'<text x="2" y="{y(tick) + 4:.1f}">{tick:.4g}</text>')
    _, least, largest = _columns(scores)
    points = [
        f"{x(windows * at / len(least)):.1f},{y(value):.1f}"
        for at, (a, b) in enumerate(zip(least.tolist(), largest.tolist(), strict=True))
        for value in ([a] if a == b else [a, b])
    ]
    out.append(f'<path d="M{"L".join(points)}" fill="none" stroke="currentColor" stroke-width="1"/>')
    for (what, value), colour in zip(marks.items(), ("#e69f00", "#d62728"), strict=False):
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - 8}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="{colour}"/>')
        out.append(f'<text x="{WIDTH - 10}" y="{y(value) - 3:.1f}" text-anchor="end">{what} {value:.4g}</text>')
    hot = np.flatnonzero(scores >= limits.escalate_at)[:2_000]
    out += [f'<circle cx="{x(at):.1f}" cy="{y(float(scores[at])):.1f}" r="2" fill="#d62728"/>' for at in hot.tolist()]
    bottom = top + SCORE
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        side = "end" if share == 1.0 else "start"
        at = f'x="{x(share * windows):.1f}" y="{bottom + 15}" text-anchor="{side}"'
        out.append(f"<text {at}>{'window ' if not share else ''}{share * windows:,.0f}</text>")
    return f'<svg viewBox="0 0 {WIDTH} {bottom + 22}" role="img">{"".join(out)}</svg>'


def _columns(values: Numbers) -> tuple[int, Numbers, Numbers]:
    """Windows per column, and the least and the largest value of each."""
    size = max(1, math.ceil(len(values) / COLUMNS))
    starts = np.arange(0, len(values), size)
    return size, np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)


def _band(
    low: Numbers, high: Numbers, least: float, largest: float, x: Callable[[float], float], windows: int, colour: str
) -> str:
    def y(value: float) -> float:
        return 16 + (SIGNAL - 16) * (1 - (value - least) / ((largest - least) or 1.0))

    def points(values: Sequence[float]) -> list[str]:
        return [f"{x(windows * at / len(values)):.1f},{y(value):.1f}" for at, value in enumerate(values)]

    outline = points(high.tolist()) + points(low.tolist())[::-1]
    return f'<path d="M{"L".join(outline)}Z" fill="{colour}" fill-opacity=".35" stroke="{colour}" stroke-width=".7"/>'
