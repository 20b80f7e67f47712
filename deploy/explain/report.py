"""The report of a recording: figures for programs, and a page for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy.explain import plots
from deploy.explain.survey import Device, Survey
from deploy.page import render, write_page
from deploy.recording.files import everything
from deploy.text import duration, safe, utc
from schemas.clocks import latency_us

#: Devices that are drawn, those with the most events first; tables have all of them.
DRAWN = 40


def survey(paths: Sequence[Path], progress: Callable[[int], None] = lambda _: None) -> tuple[Survey, list[str]]:
    """Look through recordings; also a sentence per damaged file. Raises ConfigError: nothing is there."""
    damaged: list[str] = []
    out = Survey()
    for found in everything(paths, damaged):
        out.take(found)
        progress(1)
    return out, damaged


def figures(seen: Survey, damaged: Sequence[str]) -> dict[str, Any]:
    """For programs. Latencies in milliseconds; None where nothing tells."""
    devices = list(seen.devices.values())
    offline = bool(seen.decisions) and seen.recorded_clock
    return {
        "devices": [_device(device) for device in devices],
        "records": dict(seen.records),
        "readings": sum(d.readings for d in devices),
        "events": len(seen.events),
        "audits": sum(d.audits for d in devices),
        "decisions": len(seen.decisions),
        "outcomes": _sum(d.outcomes for d in devices),
        "verdicts": _sum(d.verdicts for d in devices),
        "decided_by": dict(seen.decided_by),
        "agreement": seen.agreement,
        "undecided": seen.undecided,
        "doubled": dict(seen.doubled),
        "dead_letters": dict(seen.failures),
        "fleet_windows": dict(seen.fleet),
        "thresholds": len(seen.updates),
        "models_published": [f"{m.model_name} {m.version}" for m in seen.published],
        "latency_ms": {
            "edge": percentiles([] if offline else seen.edge_us),
            "uplink": percentiles(seen.uplink_us),
            "final": percentiles([] if offline else seen.final_us),
            "feedback": percentiles(seen.feedback_us),
        },
        "recorded_clock": offline,
        "damaged": list(damaged),
    }


def percentiles(values_us: Sequence[int]) -> dict[str, float | int | None]:
    """p50 and p99 in milliseconds, and of how many: a wrong clock gives no latency."""
    known = [us for value in values_us if (us := latency_us(0, value)) is not None]
    if not known:
        return {"p50": None, "p99": None, "count": 0}
    p50, p99 = np.percentile(np.array(known, np.float64) / 1000.0, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "count": len(known)}


def write(seen: Survey, found: dict[str, Any], paths: Sequence[Path], out: Path) -> None:
    """The page. Raises ConfigError: it cannot be written."""
    devices = sorted(seen.devices.values(), key=lambda d: (-d.events, d.device_id))
    page = render(
        "explain/report.html.j2",
        title=", ".join(path.name for path in paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else ""),
        r=found,
        headline=_headline(found),
        latencies=[(name, found["latency_ms"][key]) for name, key in _LATENCIES],
        devices=[_device(d) | {"status": d.status} for d in devices],
        drawn=[row for d in devices[:DRAWN] if (row := _drawn(seen, d, len(devices)))["svg"]],
        not_drawn=max(0, len(devices) - DRAWN),
        failures=[(reason, n, seen.failed_example[reason]) for reason, n in seen.failures.most_common(20)],
        kept=_kept(seen),
        updates=sorted(seen.updates.values(), key=lambda u: u.issued_at)[-200:],
        records=plots.bars(seen.records.most_common()),
    )
    write_page(out, page)


def text(found: dict[str, Any], say: Callable[[str], None]) -> None:
    """A few lines for the terminal."""
    say(", ".join(f"{value} {name}" for name, value in _headline(found)))
    for device in found["devices"]:
        rate = f"one every {duration(1e6 / device['rate_hz'])}" if device["rate_hz"] else "no rate"
        gaps = f", {device['gaps']} gaps, longest {duration(1000 * device['longest_gap_ms'])}" if device["gaps"] else ""
        say(safe(f"  {device['device']}: {device['readings']:,} readings, {rate}{gaps}, {device['events']} events"))


_LATENCIES = (
    ("last reading of a window – provisional decision at the edge", "edge"),
    ("provisional decision – in the topic, by the broker's clock", "uplink"),
    ("last reading of a window – final decision", "final"),
    ("feedback issued – applied at the edge", "feedback"),
)


def _headline(found: dict[str, Any]) -> list[tuple[str, str]]:
    agreement = "–" if found["agreement"] is None else f"{found['agreement']:.1%}"
    return [
        ("devices", f"{len(found['devices']):,}"),
        ("readings", f"{found['readings']:,}"),
        ("events", f"{found['events']:,}"),
        ("audit samples", f"{found['audits']:,}"),
        ("final decisions", f"{found['decisions']:,}"),
        ("edge answers confirmed", agreement),
        ("anomalies", f"{found['outcomes'].get('ANOMALY', 0):,}"),
        ("without a decision", f"{found['undecided']:,}"),
        ("doubled", f"{sum(found['doubled'].values()):,}"),
        ("dead letters", f"{sum(found['dead_letters'].values()):,}"),
    ]


def _device(d: Device) -> dict[str, Any]:
    return {
        "device": d.device_id,
        "cohort": d.cohort,
        "channels": len(d.channels),
        "readings": d.readings,
        "not_finite": d.invalid,
        "labelled": d.labelled,
        "begins": None if d.first_us is None else utc(d.first_us),
        "ends": None if d.last_us is None else utc(d.last_us),
        "rate_hz": d.rate_hz,
        "gaps": d.gaps,
        "longest_gap_ms": d.longest_gap_us / 1000,
        "jumps_back": d.jumps_back,
        "events": d.events,
        "audits": d.audits,
        "outcomes": dict(d.outcomes),
        "verdicts": dict(d.verdicts),
        "models": sorted(d.models),
    }


def _drawn(seen: Survey, d: Device, devices: int) -> dict[str, Any]:
    """One device's plot; of many devices with fewer dots each, so that the page stays one that a browser likes."""
    dots = max(150, plots.DOTS // min(devices, DRAWN))
    return {
        "id": d.device_id,
        "channels": ", ".join(d.channels[: plots.CHANNELS]),
        "left": len(d.channels) - plots.CHANNELS,
        "svg": plots.over_time(seen.picture(d, dots)),
    }


def _kept(seen: Survey) -> list[tuple[str, int]]:
    """Why provisional decisions stood, most frequent first."""
    whys = [(who, count) for who, count in seen.decided_by.most_common() if who.startswith("EDGE: ")]
    return [(who.removeprefix("EDGE: "), count) for who, count in whys[:10]]


def _sum(counters: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for counter in counters:
        for name, count in counter.items():
            total[name] = total.get(name, 0) + count
    return total
