"""A trace for people on a terminal, and for programs as JSON. Nothing from a record can steer a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from deploy.explain.trace import Hop, Levels, Trace, sparkline
from deploy.records import plain
from deploy.text import duration, safe, utc
from schemas.errors import ConfigError

#: Most channels that are drawn.
CHANNELS = 16
#: A hop longer than this says that two clocks, or a replay, have different times.
STRANGE_MS = 3_600_000.0


def text(trace: Trace) -> list[str]:
    """Lines for a terminal."""
    return [safe(line) for line in _lines(trace)]


def headline(trace: Trace) -> str:
    """What became of the event."""
    e, d = trace.event, trace.decision
    provisional = e.outcome if e else d.provisional if d else None
    if d is not None:
        how = f"{d.verdict.value.lower()} by {d.decided_by.value}; the edge said {d.provisional.value}"
        return f"final: {d.outcome.value} ({how})"
    if provisional is not None:
        return f"provisional: {provisional.value}; no final decision was found"
    if trace.sample is not None:
        return "answered at the edge, and sent as part of the random audit sample"
    return "a dead letter: it could not be processed"


def _lines(trace: Trace) -> Iterator[str]:
    told = trace.event or trace.decision or trace.sample
    cohort = f" of cohort {told.cohort}" if told else ""
    yield f"{trace.identity.event_id}{cohort}"
    yield headline(trace)
    yield ""
    before: int | None = None
    for hop in trace.hops():
        after = "" if before is None else f"{'' if hop.at_us < before else '+'}{duration(hop.at_us - before)}"
        yield f"  {utc(hop.at_us)}  {after:>10}  {hop.words}"
        yield from (f"{'':38}  {line}" for line in details(trace, hop))
        before = hop.at_us
    yield ""
    yield "  " + ", ".join(
        f"{name.replace('_', ' ')} {duration(1000 * ms)}" for name, ms in trace.latencies_ms().items()
    )
    yield from (f"  {line}" for line in remarks(trace))
    yield ""
    yield from _signal(trace)


def details(trace: Trace, hop: Hop) -> Iterator[str]:
    """What belongs to a hop: who decided, by what."""
    e, d = trace.event, trace.decision
    if hop.name == "edge_decided":
        if e is not None:
            yield f"{e.outcome.value}, score {e.score:.6g}, alarm {e.transition.value.lower()}, reason: {e.reason}"
            yield by_model("edge model", e.model_name, e.model_version, e.model_sha256, trace)
            yield by_thresholds(trace, e.thresholds_version) + f", policy {e.policy_version}"
        elif d is not None:
            yield f"{d.provisional.value}, score {d.edge_score:.6g} (as its decision repeats it)"
            yield by_model("edge model", d.model_name, d.model_version, d.model_sha256, trace)
            yield by_thresholds(trace, d.thresholds_version) + f", policy {d.policy_version}"
    if (
        hop.name == "sensed_to"
        and e is None
        and d is None
        and trace.sample is not None
        and trace.sample.score is not None
    ):
        s = trace.sample
        yield f"score {s.score:.6g}; drawn for the audit at a rate of {s.sampled_at_rate:g}"
        yield by_model("edge model", s.model_name or "?", s.model_version or 0, s.model_sha256 or b"", trace)
        yield by_thresholds(trace, s.thresholds_version or 0)
    if hop.name == "decided" and d is not None:
        yield f"{d.outcome.value}, {d.verdict.value.lower()}: {trace.why}"
        if d.heavy_sha256 is not None:
            yield by_model("heavy model", d.model_name, d.heavy_version or 0, d.heavy_sha256, trace)


def by_model(what: str, name: str, version: int, sha256: bytes, trace: Trace) -> str:
    """A model in words."""
    update = trace.published(sha256)
    issued = f", published {utc(update.issued_at)}" if update else ""
    return f"{what} {name} {version}, package {sha256.hex()[:16]}{issued}"


def by_thresholds(trace: Trace, version: int) -> str:
    """Thresholds in words."""
    levels = trace.levels_of(version)
    shown = (
        ""
        if levels is None
        else " (" + ", ".join(f"{n} {v:.6g}" for n, v in zip(Levels._fields, levels, strict=True)) + ")"
    )
    if not version:
        return f"thresholds 0, the package's own{shown}"
    update = trace.thresholds
    return f"thresholds {version}{shown}" + (f": {update.reason}" if update else "; where they came from was not found")


def remarks(trace: Trace) -> Iterator[str]:
    """What is unusual about the trace."""
    latencies = trace.latencies_ms()
    if trace.is_replayed:
        yield "an offline replay decided it: its times are those of the recording, so there are no latencies to tell"
    elif any(abs(ms) > STRANGE_MS for name, ms in latencies.items() if name != "window"):
        yield "event times and clocks are far apart: a replay that kept its recorded times, or a wrong device clock"
    elif any(ms < 0 for ms in latencies.values()):
        yield "a hop seems to end before it began: the clocks of device, broker and cloud disagree"
    for what, count in trace.copies.items():
        if count > 1:
            yield f"{what} found {count} times under this identity; readers keep the first"
    if trace.event is None and trace.decision is not None:
        yield "its event was not found; topics keep events for 7 days, decisions for 30"
    if trace.unreadable:
        yield f"{trace.unreadable} records could not be read"


def _signal(trace: Trace) -> Iterator[str]:
    window = trace.window
    if window is None:
        yield (
            "  no signal: the edge kept the window back"
            if trace.event
            else "  no signal: the event itself was not found"
        )
        return
    names = trace.channel_names
    wide = min(24, max(len(name) for name in names[:CHANNELS]))
    yield f"  signal, {len(window)} readings"
    for name, values in zip(names[:CHANNELS], window.T[:CHANNELS], strict=True):
        finite = values[np.isfinite(values)]
        low, high = (f"{finite.min():.4g}", f"{finite.max():.4g}") if len(finite) else ("-", "-")
        yield f"  {name[:wide]:<{wide}}  {sparkline(values)}  {low} to {high}"
    if len(names) > CHANNELS:
        yield f"  and {len(names) - CHANNELS} channels more; --html and -o json have them all"


def as_json(trace: Trace) -> dict[str, Any]:
    """For programs: records under their own names, times in microseconds since 1970, hashes in hex, gaps as null."""
    window = trace.window
    return {
        "event_id": trace.identity.event_id,
        "summary": headline(trace),
        "why": trace.why or None,
        "hops": [hop._asdict() | {"at": utc(hop.at_us)} for hop in trace.hops()],
        "latencies_ms": trace.latencies_ms(),
        "remarks": list(remarks(trace)),
        "event": _record(trace.event),
        "sample": _record(trace.sample),
        "decision": _record(trace.decision),
        "failures": [_record(failure) for failure in trace.failures],
        "thresholds": _record(trace.thresholds),
        "levels": _levels(trace),
        "feedback_caused": [_record(update) for update in trace.caused],
        "copies": dict(trace.copies),
        "searched": dict(trace.searched),
        "signal": None
        if window is None
        else {"channels": trace.channel_names, "values": [[_number(v) for v in row] for row in window.tolist()]},
    }


def _levels(trace: Trace) -> dict[str, float | None] | None:
    told = trace.event or trace.decision or trace.sample
    levels = trace.levels_of((told.thresholds_version or 0) if told else 0)
    return None if levels is None else {name: _number(value) for name, value in levels._asdict().items()}


def _record(record: Any) -> dict[str, Any] | None:
    if record is None:
        return None
    found: dict[str, Any] = plain(record)
    for name in ("model_sha256", "heavy_sha256", "manifest_sha256"):
        if isinstance(value := getattr(record, name, None), bytes):
            found[name] = value.hex()
    for name in ("values", "event_times", "labels", "manifest"):  # the signal has them, readable
        found.pop(name, None)
    return {name: _number(value) if isinstance(value, float) else value for name, value in found.items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def check_output(path: Any) -> None:
    """Raises ConfigError: the page could not be written there."""
    if not path.parent.is_dir():
        raise ConfigError("the page cannot be written", file=str(path), fix="its folder is not there")
