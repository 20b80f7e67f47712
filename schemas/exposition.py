"""Values of the catalogue to Prometheus' text format, by prometheus-client. Pure: values in, bytes out.

Apart from schemas/metrics.py, because only what serves `/metrics` needs the library.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from schemas.metrics import Histogram, Kind, Labels, Metric, Readings, Value

CONTENT_TYPE = CONTENT_TYPE_LATEST


class _Collector:
    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    def collect(self) -> Iterable[Any]:
        for metric, series in self._readings.series():
            yield _family(metric, series)


def expose(readings: Readings) -> bytes:
    """Prometheus' text format, with the process_* metrics of this process."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_Collector(readings))
    return generate_latest(registry)


def _family(metric: Metric, series: dict[Labels, Value]) -> Any:
    if metric.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in series.items():
            assert isinstance(value, Histogram)
            histogram.add_metric(labels, _cumulative(value), value.sum)
        return histogram
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in series.items():
        assert not isinstance(value, Histogram)
        family.add_metric(labels, value)
    return family


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    out: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), list(histogram.counts), strict=True):
        total += count
        out.append((bound, total))
    return out
