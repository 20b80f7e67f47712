"""The catalogue of every metric: no name is written anywhere else, and docs/reference/metrics.md is made from it. Pure.

Names follow Prometheus: base units, `_total` on counters, `_info` on what is always 1. No label holds a device: what a
process exposes stays as small with a thousand devices as with one, and what one device does is in its status record.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from schemas.records import LEDGER

#: Series of one metric at most; what comes beyond is added up under OTHER.
MAX_SERIES = 64
OTHER = "other"
#: Upper bounds in seconds. Below: a decision on a device. Above: an outage, or a spool that is caught up with.
LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)


class Kind(StrEnum):
    """Prometheus' types, as far as they are used."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Process(StrEnum):
    """Which process exposes a metric."""

    EDGE = "edge"
    PIPELINE = "pipeline"
    SUPERVISOR = "supervisor"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `labels` are the names of its labels; `bounds` the upper bounds of a histogram."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


def _counter(name: str, unit: str, help: str, *labels: str) -> Metric:
    return Metric(name, Kind.COUNTER, unit, help, labels)


def _gauge(name: str, unit: str, help: str, *labels: str) -> Metric:
    return Metric(name, Kind.GAUGE, unit, help, labels)


def _histogram(name: str, help: str) -> Metric:
    return Metric(name, Kind.HISTOGRAM, "seconds", help, (), LATENCY_S)


_LEDGER_HELP = {
    "readings_sensed": ("readings", "Readings that came from sensors."),
    "readings_invalid": ("readings", "Readings left out because a value is not finite or does not fit the channels."),
    "readings_aggregated": ("readings", "Readings that are in a closed aggregate."),
    "bytes_sensed": ("bytes", "Bytes of the sensed readings."),
    "windows_scored": ("windows", "Windows with a score of the light model: each is one decision."),
    "windows_unscored": ("windows", "Windows that the light model has no score for."),
    "windows_answered": ("windows", "Windows that the edge answered by itself."),
    "windows_escalated": ("windows", "Windows sent to the heavy model."),
    "windows_sampled": ("windows", "Answered windows sent as audit sample."),
    "alarms_raised": ("alarms", "Alarms that were raised; a lasting alarm counts once."),
    "records_enqueued": ("records", "Records put into the spool."),
    "records_acked": ("records", "Records that the broker acknowledged."),
    "bytes_acked": ("bytes", "Bytes of the acknowledged records, with their keys."),
    "records_dropped": ("records", "Records lost: thrown out of a full spool, damaged, too large or refused for good."),
    "feedback_accepted": ("messages", "Thresholds and models that were accepted, once per device."),
    "feedback_refused": ("messages", "Thresholds and models that were refused, once per device."),
    "clock_jumps_back": ("jumps", "Times that a device's clock went backwards."),
}


def of_ledger(name: str) -> str:
    """Metric of a counter of the loss ledger.

    >>> of_ledger("records_acked")
    'tidegate_edge_records_acked_total'
    """
    return f"tidegate_edge_{name}_total"


EDGE: tuple[Metric, ...] = (
    *(_counter(of_ledger(name), *_LEDGER_HELP[name]) for name in LEDGER),
    _counter("tidegate_edge_decisions_total", "windows", "Provisional decisions by outcome.", "outcome"),
    _histogram(
        "tidegate_edge_decision_latency_seconds",
        "From the newest reading of an escalated window to its decision; event time against the clock of the process.",
    ),
    _counter(
        "tidegate_edge_decision_latency_unknown_total",
        "windows",
        "Escalated windows whose latency is not known: the reading is of the future, or older than a week.",
    ),
    _histogram("tidegate_edge_step_seconds", "Time of one step: from blocks in hand to records in the spool."),
    _counter("tidegate_edge_send_errors_total", "records", "Records not acknowledged and sent again."),
    _counter("tidegate_edge_records_refused_total", "records", "Records that the broker refused for good."),
    _gauge("tidegate_edge_spool_records", "records", "Records that wait for their acknowledgement."),
    _gauge("tidegate_edge_spool_bytes", "bytes", "Bytes of the records that wait."),
    _gauge("tidegate_edge_spool_fullness_ratio", "ratio", "Share of the spool's allowed bytes that is used, 0..1."),
    _gauge("tidegate_edge_broker_up", "bool", "Whether records get through to the broker."),
    _gauge("tidegate_edge_feedback_up", "bool", "Whether feedback can be heard."),
    _gauge("tidegate_edge_devices", "devices", "Devices by where their thresholds in force come from.", "thresholds"),
    _gauge("tidegate_edge_thresholds_version", "version", "Newest version of thresholds in force on any device."),
    _gauge("tidegate_edge_sensors_failed", "sensors", "Sensors that failed; their devices are silent."),
    _gauge(
        "tidegate_edge_model_info",
        "info",
        "Always 1: a model that runs, with the start of its package's SHA-256.",
        "model",
        "version",
        "sha256",
        "cohort",
    ),
    _gauge("tidegate_edge_build_info", "info", "Always 1: what runs.", "id", "version"),
)

PIPELINE: tuple[Metric, ...] = (
    _counter(
        "tidegate_pipeline_records_read_total", "records", "Records handed out by the source, without duplicates."
    ),
    _counter(
        "tidegate_pipeline_duplicates_total", "records", "Records dropped because their identity was seen before."
    ),
    _counter(
        "tidegate_pipeline_unverified_duplicates_total",
        "records",
        "Those of the duplicates that lie further back than what is remembered of their device.",
    ),
    _counter("tidegate_pipeline_lost_records_total", "records", "Offsets deleted by retention before they were read."),
    _counter(
        "tidegate_pipeline_implausible_event_times_total",
        "records",
        "Records whose event time did not move the watermark: a wrong clock.",
    ),
    _counter("tidegate_pipeline_decoded_total", "records", "Records that could be decoded and belong to a lane."),
    _counter("tidegate_pipeline_dead_letters_total", "records", "Records that became dead letters.", "reason"),
    _counter("tidegate_pipeline_decided_total", "events", "Final decisions."),
    _counter("tidegate_pipeline_overridden_total", "events", "Final decisions against the edge's."),
    _counter("tidegate_pipeline_unanswered_total", "events", "Final decisions without an answer of the heavy model."),
    _counter(
        "tidegate_pipeline_clock_suspect_total",
        "events",
        "Events of devices with a wrong clock: ahead of the broker's, or unset, which is before 2020.",
        "clock",
    ),
    _counter(
        "tidegate_pipeline_decision_latency_unknown_total",
        "events",
        "Final decisions whose latency is not known: the device's clock is wrong by an unknown amount.",
    ),
    _counter("tidegate_pipeline_fleet_windows_total", "windows", "Fleet windows published for the first time."),
    _counter("tidegate_pipeline_fleet_corrections_total", "windows", "Fleet windows published again after late data."),
    _counter("tidegate_pipeline_fleet_late_total", "records", "Aggregates too late for any correction."),
    _counter("tidegate_pipeline_threshold_updates_total", "updates", "Threshold updates issued."),
    _counter("tidegate_pipeline_records_written_total", "records", "Records acknowledged by the broker.", "topic"),
    _histogram("tidegate_pipeline_heavy_seconds", "Time of the heavy models for one chunk of events or samples."),
    _histogram(
        "tidegate_pipeline_decision_latency_seconds",
        "From the newest reading of a window to the final decision; by its device's clock, less what that is ahead.",
    ),
    _gauge("tidegate_pipeline_consumer_lag_records", "records", "Records in a topic that were not read yet.", "topic"),
    _gauge(
        "tidegate_pipeline_commit_lag_records",
        "records",
        "Records read whose offsets are not safe to commit yet: unanswered, or in a fleet window that is open.",
        "topic",
    ),
    _gauge("tidegate_pipeline_chunks_in_flight", "chunks", "Chunks handed out that the sinks have not answered for."),
    _gauge("tidegate_pipeline_open_windows", "windows", "Fleet windows that are open or may still be corrected."),
    _gauge("tidegate_pipeline_watermark_lag_seconds", "seconds", "How far the watermark is behind the clock."),
    _gauge("tidegate_pipeline_broker_up", "bool", "Whether the broker answered the last question about offsets."),
    _gauge("tidegate_pipeline_models", "models", "Heavy models in force."),
    _gauge("tidegate_pipeline_running", "bool", "Whether the runner says that the pipeline runs."),
    _gauge("tidegate_pipeline_build_info", "info", "Always 1: what runs.", "id", "version"),
)

SUPERVISOR: tuple[Metric, ...] = (
    _counter("tidegate_supervisor_restarts_total", "restarts", "Times that the pipeline was started again."),
    _gauge("tidegate_supervisor_crashes_in_a_row", "crashes", "Crashes since the last healthy run; 8 end it."),
    _gauge("tidegate_supervisor_worker_up", "bool", "Whether the pipeline's process is there."),
    _gauge("tidegate_supervisor_build_info", "info", "Always 1: what runs.", "id", "version"),
)

CATALOGUE: dict[Process, tuple[Metric, ...]] = {
    Process.EDGE: EDGE,
    Process.PIPELINE: PIPELINE,
    Process.SUPERVISOR: SUPERVISOR,
}


def series_names(metric: Metric) -> tuple[str, ...]:
    """Names under which Prometheus keeps a metric: a histogram has three.

    >>> series_names(SUPERVISOR[0])
    ('tidegate_supervisor_restarts_total',)
    """
    if metric.kind is Kind.HISTOGRAM:
        return f"{metric.name}_bucket", f"{metric.name}_sum", f"{metric.name}_count"
    return (metric.name,)


class Histogram:
    """Counts per bucket; the last one is for what is beyond every bound. One writer; readers may be other threads."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = LATENCY_S) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value. One below zero, which two clocks can give, counts as zero."""
        value = max(0.0, value)
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


Labels = tuple[str, ...]
Value = float | Histogram


@dataclass(slots=True)
class Readings:
    """What one process has to say: values by metric and labels. `set` takes names of the catalogue only."""

    process: Process
    values: dict[str, dict[Labels, Value]] = field(default_factory=dict)

    def set(self, name: str, value: Value, *labels: str) -> None:
        """One series. Raises KeyError: the catalogue of this process has no such metric, or not with such labels."""
        metric = _BY_NAME[self.process][name]
        if len(labels) != len(metric.labels) or isinstance(value, Histogram) is not (metric.kind is Kind.HISTOGRAM):
            raise KeyError(name, labels)
        self.values.setdefault(name, {})[labels] = value

    def series(self) -> Iterable[tuple[Metric, dict[Labels, Value]]]:
        """Every metric that has a value, in the order of the catalogue, with no more than MAX_SERIES each."""
        for metric in CATALOGUE[self.process]:
            found = self.values.get(metric.name)
            if found:
                yield metric, bounded(metric, found)


def bounded(metric: Metric, series: Mapping[Labels, Value]) -> dict[Labels, Value]:
    """At most MAX_SERIES of them: the first in order, and the sum of all others under OTHER (1 for an info)."""
    if len(series) <= MAX_SERIES:
        return dict(series)
    ordered = sorted(series.items(), key=lambda item: item[0])
    kept: dict[Labels, Value] = dict(ordered[: MAX_SERIES - 1])
    rest = sum(value for _, value in ordered[MAX_SERIES - 1 :] if not isinstance(value, Histogram))
    kept[(OTHER,) * len(metric.labels)] = 1.0 if metric.unit == "info" else rest
    return kept


_BY_NAME = {process: {metric.name: metric for metric in metrics} for process, metrics in CATALOGUE.items()}


_INTRODUCTION = """\
# Metrics

Made from `schemas/metrics.py`. Every process answers on `/metrics` for
Prometheus, on `/livez` with 200 while its loop turns, and on `/readyz` with 200 or 503 and a JSON object that says what
is missing. All of it is off by default, listens on 127.0.0.1 unless told otherwise, and asks for nothing in return.

| process | switched on by |
|---|---|
| edge | `[http]` with `port` in edge.toml; 0 takes a free port and names it in the log |
| pipeline | `--metrics_port`; 0 takes a free port and names it in the log |
| supervisor | `--supervisor_metrics_port`, likewise |

No label holds a device id. A metric has at most {max_series} series; what comes beyond is added up under `{other}`.
Prometheus' own `process_*` metrics are there too. Counters of a pipeline start anew when it is started again. Gauges of
offsets and of the watermark are there where the source is: on Prism in the pipeline's own process. Where a runner has
its workers elsewhere, the counters and histograms still come, by way of the runner."""


def markdown() -> str:
    """docs/reference/metrics.md."""
    out = [_INTRODUCTION.format(max_series=MAX_SERIES, other=OTHER)]
    for process, metrics in CATALOGUE.items():
        out += [
            f"\n## {process.value.capitalize()}\n",
            "| metric | type | unit | labels | meaning |",
            "|---|---|---|---|---|",
        ]
        out += [
            f"| `{m.name}` | {m.kind.value} | {m.unit} | {', '.join(m.labels) or '–'} | {m.help} |" for m in metrics
        ]
    bounds = ", ".join(f"{bound:g}" for bound in LATENCY_S)
    return "\n".join([*out, "", f"Upper bounds of every histogram, seconds: {bounds}, and beyond.", ""])
