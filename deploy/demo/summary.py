"""From what the observer saw to the figures of the report, and the verdict. Pure.

The books must balance, per device: every reading that was sensed is in an aggregate, every window that was escalated is
an event in the topic, every event has exactly one final decision, every aggregate is in a fleet window, and every
feedback message that was published in time was applied. What is missing anywhere counts as lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploy.demo.observer import Seen
from schemas.records import FeedbackKind, Verdict

#: Feedback published this shortly before a device stopped could not be applied any more.
IN_FLIGHT_US = 2_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    what: str
    count: int


def percentiles(values_us: Sequence[int]) -> dict[str, float | None]:
    """p50 and p99 in milliseconds, None where nothing was measured."""
    if not values_us:
        return {"p50": None, "p99": None}
    p50, p99 = np.percentile(np.array(values_us) / 1000.0, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def summarise(seen: Seen, devices: Sequence[str], streamed_s: float) -> dict[str, Any]:
    """The report's figures. `devices`: those that the demo started."""
    lost, doubled, unapplied = _lost(seen, devices), _doubled(seen), _unapplied(seen)
    verdicts = [d.verdict for d in seen.decisions.values()]
    agreed, overridden = verdicts.count(Verdict.CONFIRMED), verdicts.count(Verdict.OVERRIDDEN)
    sensed = sum(_counter(seen, d, "readings_sensed") for d in devices)
    bytes_sensed = sum(_counter(seen, d, "bytes_sensed") for d in devices)
    finals = [at - seen.decisions[key].sensed_to for key, at in seen.decided_at.items()]
    accepted = [a for a in seen.applied.values() if a.accepted]
    return {
        "seconds": round(streamed_s, 1),
        "devices": len(devices),
        "readings_sensed": sensed,
        "windows_scored": sum(_counter(seen, d, "windows_scored") for d in devices),
        "events_sent": sum(seen.event_copies.values()),
        "audits_sent": len(seen.samples),
        "bytes_sensed": bytes_sensed,
        "bytes_sent": seen.bytes_sent,
        "provisional": len(seen.events),
        "final": len(seen.decisions),
        "confirmed": agreed,
        "overridden": overridden,
        "resolved": verdicts.count(Verdict.RESOLVED),
        "agreement": round(agreed / (agreed + overridden), 4) if agreed + overridden else None,
        "fleet_windows": len(seen.fleet),
        "edge_latency_ms": percentiles([e.decided_at - e.sensed_to for e in seen.events.values()]),
        "final_latency_ms": percentiles(finals),
        "feedback_latency_ms": percentiles([a.applied_at - a.issued_at for a in accepted]),
        "lost": sum(f.count for f in lost),
        "doubled": sum(f.count for f in doubled),
        "dead_lettered": len(seen.failures) + seen.unreadable,
        "not_applied": sum(f.count for f in unapplied),
        "thresholds_applied": sum(a.kind is FeedbackKind.THRESHOLDS for a in accepted),
        "models": {d: _models(seen, d) for d in devices},
        "findings": [f"{f.what}: {f.count}" for f in (*lost, *doubled, *unapplied)],
    }


def _counter(seen: Seen, device: str, name: str) -> int:
    status = seen.status.get(device)
    return status.counters.get(name, 0) if status else 0


def _models(seen: Seen, device: str) -> dict[str, Any]:
    first, last = seen.first_status.get(device), seen.status.get(device)
    if first is None or last is None:
        return {"before": None, "after": None}
    return {
        "name": last.model_name,
        "before": first.model_version,
        "after": last.model_version,
        "sha256": last.model_sha256.hex(),
        "thresholds_version": last.thresholds_version,
        "thresholds": last.thresholds_source.value.lower(),
    }


def _lost(seen: Seen, devices: Sequence[str]) -> list[Finding]:
    found = [Finding("device never reported", 1) for d in devices if d not in seen.status]
    for device in devices:
        sensed = _counter(seen, device, "readings_sensed")
        escalated = _counter(seen, device, "windows_escalated")
        in_topic = sum(key[0] == device for key in seen.events)
        found += [
            Finding(f"{device}: readings in no aggregate", abs(sensed - seen.aggregated[device])),
            Finding(f"{device}: escalated windows that are no event", abs(escalated - in_topic)),
        ]
    found.append(Finding("events without a final decision", len(seen.events.keys() - seen.decisions.keys())))
    found.append(Finding("final decisions of no event", len(seen.decisions.keys() - seen.events.keys())))
    merged = sum(w.readings + w.invalid for w in seen.fleet.values())
    found.append(Finding("aggregated readings in no fleet window", abs(sum(seen.aggregated.values()) - merged)))
    return [f for f in found if f.count]


def _doubled(seen: Seen) -> list[Finding]:
    found = [
        Finding("events sent twice", sum(n - 1 for n in seen.event_copies.values())),
        Finding("events decided twice", sum(n - 1 for n in seen.decision_copies.values())),
    ]
    return [f for f in found if f.count]


def _unapplied(seen: Seen) -> list[Finding]:
    found = []
    for target, updates in seen.thresholds.items():
        status = seen.status.get(target)
        due = [u for u in updates if status is not None and u.issued_at < status.at - IN_FLIGHT_US]
        newest = max((u.version for u in due), default=0)
        if newest and not any(
            a.accepted and a.version >= newest
            for (d, kind, _), a in seen.applied.items()
            if (d, kind) == (target, "THRESHOLDS")
        ):
            found.append(Finding(f"{target}: newest thresholds not applied", 1))
    for update in seen.models:
        for device, status in seen.status.items():
            if status.cohort == update.cohort and status.model_version < update.version:
                found.append(Finding(f"{device}: model {update.model_name} version {update.version} not applied", 1))
    return found
