from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from schemas.exposition import expose
from schemas.metrics import (
    CATALOGUE,
    EDGE,
    LATENCY_S,
    MAX_SERIES,
    OTHER,
    Histogram,
    Kind,
    Process,
    Readings,
    markdown,
    of_ledger,
)
from schemas.records import LEDGER

EVERY = [metric for metrics in CATALOGUE.values() for metric in metrics]


def test_the_page_explains_every_metric() -> None:
    page = markdown()
    for metric in EVERY:
        assert f"| `{metric.name}` | {metric.kind.value} | {metric.unit} |" in page


@pytest.mark.parametrize("metric", EVERY, ids=lambda metric: metric.name)
def test_names_are_prometheus_names_with_base_units(metric: object) -> None:
    assert re.fullmatch(r"tidegate_(edge|pipeline|supervisor)_[a-z_]+", metric.name)  # type: ignore[attr-defined]
    assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER)  # type: ignore[attr-defined]
    assert (metric.unit == "seconds") is metric.name.endswith("_seconds")  # type: ignore[attr-defined]
    assert metric.help.endswith(".")  # type: ignore[attr-defined]


def test_no_name_is_used_twice_and_no_label_is_a_device() -> None:
    assert len({metric.name for metric in EVERY}) == len(EVERY)
    assert not {"device", "device_id"} & {label for metric in EVERY for label in metric.labels}


def test_every_counter_of_the_ledger_has_its_metric() -> None:
    assert {of_ledger(name) for name in LEDGER} <= {metric.name for metric in EDGE}


def test_a_name_or_a_label_that_is_not_in_the_catalogue_is_refused() -> None:
    out = Readings(Process.EDGE)
    with pytest.raises(KeyError):
        out.set("tidegate_edge_inventions_total", 1)
    with pytest.raises(KeyError):
        out.set("tidegate_pipeline_decided_total", 1)
    with pytest.raises(KeyError):
        out.set("tidegate_edge_decisions_total", 1)
    with pytest.raises(KeyError):
        out.set("tidegate_edge_step_seconds", 1.0)


def families(readings: Readings) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Exposed samples by name and labels, as prometheus-client's own parser reads them."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(expose(readings).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_what_is_exposed_is_what_was_set_whatever_a_label_holds() -> None:
    out = Readings(Process.EDGE)
    out.set("tidegate_edge_records_acked_total", 7)
    odd = 'a"b\\c\nd{}é'
    out.set("tidegate_edge_model_info", 1.0, odd, "3", "ab", "pumps")
    found = families(out)
    assert found["tidegate_edge_records_acked_total"] == {(): 7.0}
    (labels,) = found["tidegate_edge_model_info"]
    assert dict(labels)["model"] == odd
    assert found["process_resident_memory_bytes"][()] > 1e6


def test_a_thousand_series_stay_few_and_their_sum_is_kept() -> None:
    out = Readings(Process.PIPELINE)
    for n in range(1000):
        out.set("tidegate_pipeline_dead_letters_total", 1, f"reason{n:04d}")
    series = families(out)["tidegate_pipeline_dead_letters_total"]
    assert len(series) == MAX_SERIES
    assert sum(series.values()) == 1000
    assert series[("reason", OTHER),] == 1000 - MAX_SERIES + 1


@given(st.lists(st.floats(-1, 2000), max_size=200))
def test_a_histogram_counts_every_value_in_the_first_bucket_that_holds_it(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    out = Readings(Process.EDGE)
    out.set("tidegate_edge_step_seconds", histogram)
    found = families(out)
    buckets = {dict(labels)["le"]: count for labels, count in found["tidegate_edge_step_seconds_bucket"].items()}
    assert buckets == {
        **{str(bound): sum(value <= bound for value in values) for bound in LATENCY_S},
        "+Inf": len(values),
    }
    assert found["tidegate_edge_step_seconds_count"][()] == len(values)
    assert found["tidegate_edge_step_seconds_sum"][()] == pytest.approx(sum(max(0.0, v) for v in values))
