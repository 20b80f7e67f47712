"""Pages that stand alone: one file, no script, nothing from anywhere else. Everything from records is escaped."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deploy.explain import plots, text
from deploy.explain.trace import Trace
from deploy.text import duration, utc
from schemas.errors import ConfigError

#: Most channels that a page draws.
CHANNELS = 64


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"utc": utc, "duration": duration}
    return environment


def render(template: str, **values: Any) -> str:
    """A page from a template of this folder."""
    return _environment().get_template(template).render(**values)


def write_page(path: Path, page: str) -> None:
    """Write it whole or not at all. Raises ConfigError: it cannot be written."""
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(page, encoding="utf-8")
        os.replace(beside, path)
    except OSError as cause:
        raise ConfigError("the page cannot be written", file=str(path), cause=cause.strerror) from None


def write(trace: Trace, path: Path) -> None:
    """The page of one event. Raises ConfigError: it cannot be written."""
    window = trace.window
    names = trace.channel_names
    hops = trace.hops()
    rows = [
        {
            "at": utc(hop.at_us),
            "after": "" if not at else duration(hop.at_us - hops[at - 1].at_us),
            "clock": hop.clock,
            "words": hop.words,
            "details": list(text.details(trace, hop)),
        }
        for at, hop in enumerate(hops)
    ]
    told = trace.event or trace.decision or trace.sample
    page = render(
        "event.html.j2",
        title=trace.identity.event_id,
        cohort=told.cohort if told else None,
        summary=text.headline(trace),
        why=trace.why,
        rows=rows,
        latencies=[(name.replace("_", " "), duration(1000 * ms)) for name, ms in trace.latencies_ms().items()],
        remarks=list(text.remarks(trace)),
        readings=0 if window is None else len(window),
        channels=len(names),
        drawn=min(len(names), CHANNELS),
        svg=None if window is None else plots.window(window[:, :CHANNELS], names[:CHANNELS]),
    )
    write_page(path, page)
