"""What an edge process says of itself: metrics, and what is missing for it to be ready. Pure.

The loop counts into Meters as it goes and notes the state of its ports a few times a second; `/metrics` and `/readyz`
are made from that and from the devices' counters by another thread, which only reads. A scrape costs the loop nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_filters.engine import Engine
from schemas.clocks import latency_us
from schemas.metrics import Histogram, Process, Readings, of_ledger
from schemas.probes import Readiness
from schemas.records import LEDGER, EdgeEvent, Outcome, ThresholdsSource

#: A loop that has not turned for so long hangs: it turns 20 times a second, and no step takes seconds.
HANGS_S = 10.0
#: Share of the spool above which the process is not ready: it is about to lose records.
BACKLOG = 0.9
_NAMED = 5


@dataclass(slots=True)
class Meters:
    """What the loop counts and notes; it is the only one that writes here. `turned_s` is of time.monotonic."""

    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    latency: Histogram = field(default_factory=Histogram)
    latency_unknown: int = 0
    step: Histogram = field(default_factory=Histogram)
    send_errors: int = 0
    refused: int = 0
    spool_records: int = 0
    spool_bytes: int = 0
    fullness: float = 0.0
    spool: str = ""
    broker: str = "not asked yet"
    feedback: str = "not asked yet"
    sensed: bool = False
    turned_s: float = 0.0

    def decided(self, event: EdgeEvent) -> None:
        """Count an escalated window."""
        self.outcomes[event.outcome] += 1
        found_us = latency_us(event.sensed_to, event.decided_at)
        if found_us is None:
            self.latency_unknown += 1
        else:
            self.latency.observe(found_us / 1e6)


def readings(engine: Engine, meters: Meters, edge_id: str, version: str) -> Readings:
    """All metrics of the process."""
    out = Readings(Process.EDGE)
    devices = list(engine.devices.values())
    totals = {name: sum(device.counters[name] for device in devices) for name in LEDGER}
    for name, total in totals.items():
        out.set(of_ledger(name), total)
    for outcome, count in meters.outcomes.items():
        answered = totals["windows_answered"] if outcome is Outcome.NORMAL else 0
        if outcome is not Outcome.UNKNOWN:
            out.set("tidegate_edge_decisions_total", count + answered, outcome.value.lower())
    out.set("tidegate_edge_decision_latency_seconds", meters.latency)
    out.set("tidegate_edge_decision_latency_unknown_total", meters.latency_unknown)
    out.set("tidegate_edge_step_seconds", meters.step)
    out.set("tidegate_edge_send_errors_total", meters.send_errors)
    out.set("tidegate_edge_records_refused_total", meters.refused)
    out.set("tidegate_edge_spool_records", meters.spool_records)
    out.set("tidegate_edge_spool_bytes", meters.spool_bytes)
    out.set("tidegate_edge_spool_fullness_ratio", meters.fullness)
    out.set("tidegate_edge_broker_up", float(not meters.broker))
    out.set("tidegate_edge_feedback_up", float(not meters.feedback))
    in_force = [device.thresholds.in_force for device in devices]
    for source in ThresholdsSource:
        out.set("tidegate_edge_devices", sum(f.source is source for f in in_force), source.value.lower())
    out.set("tidegate_edge_thresholds_version", max((f.version for f in in_force), default=0))
    out.set("tidegate_edge_sensors_failed", sum(bool(device.problem) for device in devices))
    for slot in engine.slots:
        sha256 = slot.sha256.hex()[:12]
        out.set("tidegate_edge_model_info", 1.0, slot.name, str(slot.version), sha256, slot.cohort)
    out.set("tidegate_edge_build_info", 1.0, edge_id, version)
    return out


def readiness(engine: Engine, meters: Meters) -> Readiness:
    """Whether broker, feedback, models, sensors and spool are as they should be."""
    out = Readiness()
    out.need("broker", meters.broker)
    out.need("feedback", meters.feedback)
    out.need("models", "" if engine.slots else "no model runs")
    silent = [device.device_id for device in engine.devices.values() if device.problem]
    if silent:
        more = f" and {len(silent) - _NAMED} more" if len(silent) > _NAMED else ""
        out.need("sensors", f"failed: {', '.join(silent[:_NAMED])}{more}")
    else:
        out.need("sensors", "" if meters.sensed else "no reading has come yet")
    out.need("spool", meters.spool)
    full = meters.fullness
    out.need("backlog", f"the spool is {full:.0%} full with {meters.spool_records} records" if full > BACKLOG else "")
    return out


def hanging(meters: Meters, now_s: float) -> str:
    """Why the process is not alive; empty: its loop turns. `now_s` of time.monotonic."""
    since_s = now_s - meters.turned_s
    return f"the loop has not turned for {since_s:.0f} s" if since_s > HANGS_S else ""
