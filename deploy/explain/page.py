"""The page of one event."""

from __future__ import annotations

from pathlib import Path

from deploy.explain import plots, text
from deploy.explain.trace import Trace
from deploy.page import render, write_page
from deploy.text import duration, utc

#: Most channels that a page draws.
CHANNELS = 64


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
        "explain/event.html.j2",
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
