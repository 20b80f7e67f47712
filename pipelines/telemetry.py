"""What a pipeline says of itself: from the runner's counters and the ledger to metrics and readiness. Pure.

Counters and histograms come from the runner, so they are whole wherever the workers are. What is known of offsets and
of the watermark comes from the source's ledger, where this process has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.io.ledger import Standing
from pipelines.io.partition import Partition
from pipelines.metering import histogram
from schemas.clocks import AHEAD, UNSET
from schemas.metrics import Process, Readings
from schemas.probes import Readiness

Counters = Mapping[tuple[str, str], int]

#: Namespace and name of a Beam counter -> metric.
COUNTERS = {
    ("source", "records"): "tidegate_pipeline_records_read_total",
    ("source", "duplicates"): "tidegate_pipeline_duplicates_total",
    ("source", "unverified_duplicates"): "tidegate_pipeline_unverified_duplicates_total",
    ("source", "lost_records"): "tidegate_pipeline_lost_records_total",
    ("source", "implausible_event_times"): "tidegate_pipeline_implausible_event_times_total",
    ("tidegate.split", "records"): "tidegate_pipeline_decoded_total",
    ("tidegate.heavy", "decided"): "tidegate_pipeline_decided_total",
    ("tidegate.heavy", "overridden"): "tidegate_pipeline_overridden_total",
    ("tidegate.heavy", "unanswered"): "tidegate_pipeline_unanswered_total",
    ("tidegate.heavy", "latency_unknown"): "tidegate_pipeline_decision_latency_unknown_total",
    ("tidegate.fleet", "windows"): "tidegate_pipeline_fleet_windows_total",
    ("tidegate.fleet", "corrections"): "tidegate_pipeline_fleet_corrections_total",
    ("tidegate.fleet", "too_late"): "tidegate_pipeline_fleet_late_total",
    ("tidegate.feedback", "threshold_updates"): "tidegate_pipeline_threshold_updates_total",
}
#: Namespace and beginning of a name -> metric; the rest of the name is its label.
FAMILIES = {
    ("tidegate.split", "failed."): "tidegate_pipeline_dead_letters_total",
    ("tidegate.split", "clock."): "tidegate_pipeline_clock_suspect_total",
    ("sink", "records."): "tidegate_pipeline_records_written_total",
}
HISTOGRAMS = {
    ("tidegate.heavy", "seconds"): "tidegate_pipeline_heavy_seconds",
    ("tidegate.heavy", "latency"): "tidegate_pipeline_decision_latency_seconds",
}
#: Reasons of dead letters that are there from the start, so that the first one counts as an increase.
REASONS = ("DecodeError", "LateData", "LostRecords", "Diverged", "IdentityTaken")
#: Unread records above which the pipeline is not ready, and seconds after which its main loop counts as hanging.
BACKLOG = 100_000
HANGS_S = 30.0


@dataclass(slots=True)
class State:
    """What is known; `ends` are the topics' ends as the broker told them last. `turned_s` is of time.monotonic."""

    counters: Counters = field(default_factory=dict)
    standing: Mapping[Partition, Standing] = field(default_factory=dict)
    ends: Mapping[Partition, int] = field(default_factory=dict)
    in_flight: int | None = None
    open_windows: int = 0
    broker: str = "not asked yet"
    models: int | None = None
    runner: str = "the pipeline is being submitted"
    turned_s: float = 0.0

    def lag(self) -> dict[str, int]:
        """Records by topic that were not read yet."""
        out: dict[str, int] = defaultdict(int)
        for partition, end in self.ends.items():
            standing = self.standing.get(partition)
            if standing is not None:
                out[partition.topic] += max(0, end - standing.read)
        return dict(out)


def readings(state: State, job: str, version: str, now_us: int) -> Readings:
    """All metrics of the process."""
    out = Readings(Process.PIPELINE)
    for key, metric in COUNTERS.items():
        out.set(metric, state.counters.get(key, 0))
    for reason in REASONS:
        out.set("tidegate_pipeline_dead_letters_total", 0, reason)
    for clock in (AHEAD, UNSET):
        out.set("tidegate_pipeline_clock_suspect_total", 0, clock)
    for (namespace, name), count in state.counters.items():
        for (family, beginning), metric in FAMILIES.items():
            if namespace == family and name.startswith(beginning):
                out.set(metric, count, name.removeprefix(beginning))
    for (namespace, name), metric in HISTOGRAMS.items():
        out.set(metric, histogram(state.counters, namespace, name))
    for topic, lag in state.lag().items():
        out.set("tidegate_pipeline_consumer_lag_records", lag, topic)
    behind: dict[str, int] = defaultdict(int)
    for partition, standing in state.standing.items():
        behind[partition.topic] += standing.read - standing.safe
    for topic, unsafe in behind.items():
        out.set("tidegate_pipeline_commit_lag_records", unsafe, topic)
    if state.in_flight is not None:
        out.set("tidegate_pipeline_chunks_in_flight", state.in_flight)
        out.set("tidegate_pipeline_open_windows", state.open_windows)
    watermark_us = min((s.watermark_us for s in state.standing.values()), default=0)
    if watermark_us > 0:
        out.set("tidegate_pipeline_watermark_lag_seconds", max(0.0, (now_us - watermark_us) / 1e6))
    out.set("tidegate_pipeline_broker_up", float(not state.broker))
    if state.models is not None:
        out.set("tidegate_pipeline_models", state.models)
    out.set("tidegate_pipeline_running", float(not state.runner))
    out.set("tidegate_pipeline_build_info", 1.0, job, version)
    return out


def readiness(state: State) -> Readiness:
    """Whether runner, broker, models and backlog are as they should be."""
    out = Readiness()
    out.need("runner", state.runner)
    out.need("broker", state.broker)
    out.need("models", "no heavy model is published; `python -m pipelines publish` does" if state.models == 0 else "")
    unread = sum(state.lag().values())
    out.need("backlog", f"{unread} records wait to be read" if unread > BACKLOG else "")
    return out


def hanging(state: State, now_s: float) -> str:
    """Why the process is not alive; empty: its loop turns, or has not begun to. `now_s` of time.monotonic."""
    since_s = now_s - state.turned_s
    return f"the loop has not turned for {since_s:.0f} s" if since_s > HANGS_S and not state.runner else ""
