"""Histograms as Beam counters, one per bucket: any runner carries counters, from wherever its workers are.

Counting costs by the chunk and not by the record: values of a chunk are sorted into buckets in one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from apache_beam.metrics import Metrics

from schemas.metrics import LATENCY_S, Histogram

#: Values of a histogram are added up in whole microseconds: counters are integers.
_SUM = "sum_us"


class LatencyCounters:
    """Counters of one histogram with the bounds LATENCY_S."""

    def __init__(self, namespace: str, name: str) -> None:
        self._buckets = [Metrics.counter(namespace, f"{name}.{at}") for at in range(len(LATENCY_S) + 1)]
        self._sum = Metrics.counter(namespace, f"{name}.{_SUM}")

    def observe(self, seconds: Sequence[float]) -> None:
        """Count values; one below zero, which two clocks can give, counts as zero."""
        if not seconds:
            return
        values = np.maximum(np.asarray(seconds, np.float64), 0.0)
        places, counts = np.unique(np.searchsorted(LATENCY_S, values), return_counts=True)
        for place, count in zip(places.tolist(), counts.tolist(), strict=True):
            self._buckets[place].inc(count)
        self._sum.inc(round(float(values.sum()) * 1e6))


def histogram(counters: Mapping[tuple[str, str], int], namespace: str, name: str) -> Histogram:
    """The histogram that these counters, by namespace and name, stand for."""
    out = Histogram(LATENCY_S)
    out.counts = [counters.get((namespace, f"{name}.{at}"), 0) for at in range(len(LATENCY_S) + 1)]
    out.sum = counters.get((namespace, f"{name}.{_SUM}"), 0) / 1e6
    return out
