"""The dashboard, the alert rules and the scrape configuration name what exists, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.metrics import CATALOGUE, Metric, series_names
from tests.doubles.promql import names

FOLDER = Path(__file__).parents[3] / "deploy" / "monitoring"
BY_SERIES: dict[str, Metric] = {
    name: metric for metrics in CATALOGUE.values() for metric in metrics for name in series_names(metric)
}
#: What Prometheus itself adds.
OF_PROMETHEUS = frozenset({"instance", "job"})
FOREIGN = frozenset({"up", "process_resident_memory_bytes", "process_cpu_seconds_total"})


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    chosen = [v["definition"] for v in dashboard()["templating"]["list"] if v["type"] == "query"]
    return shown + chosen + [rule["expr"] for rule in rules()]


def allowed(series: str) -> frozenset[str]:
    """Labels that a series has."""
    metric = BY_SERIES.get(series)
    own = frozenset(metric.labels) if metric else frozenset()
    return own | OF_PROMETHEUS | (frozenset({"le"}) if series.endswith("_bucket") else frozenset())


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_metrics_of_the_catalogue_with_labels_that_they_have(expression: str) -> None:
    found = names(expression)
    assert found.metrics
    assert found.metrics <= BY_SERIES.keys() | FOREIGN
    for series, label in found.matched:
        assert label in allowed(series), f"{series} has no label {label}"
    for label in found.grouped:
        assert all(label in allowed(series) for series in found.metrics), f"not every series has {label}"
    for series in found.metrics:
        if series.endswith(("_total", "_bucket")) and not series.startswith("tidegate_supervisor"):
            counted = re.search(rf"(?:rate|increase)\({series}(?:\{{[^}}]*\}})?\[", expression)
            assert counted, f"{series} only ever grows: it needs rate() or increase()"


def test_a_made_up_name_would_be_found() -> None:
    assert not names("rate(tidegate_edge_readings_total[5m]) > 1").metrics <= BY_SERIES.keys() | FOREIGN
    with pytest.raises(ValueError, match="brackets"):
        names("sum(rate(x[5m])")


def test_the_dashboard_shows_every_metric_of_the_catalogue() -> None:
    shown = {name for panel in panels() for target in panel["targets"] for name in names(target["expr"]).metrics}
    for metrics in CATALOGUE.values():
        for metric in metrics:
            assert shown & set(series_names(metric)), f"no panel shows {metric.name}"


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_legend_shows_only_labels_that_are_left(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        found = names(target["expr"])
        left = found.grouped or frozenset().union(*map(allowed, found.metrics))
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= left


def test_panels_lie_side_by_side_and_have_ids_of_their_own() -> None:
    every = dashboard()["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    cells = [
        (x, y)
        for panel in every
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_a_rule_says_how_bad_it_is_what_happened_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Tidegate[A-Za-z]+", rule["alert"])
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert {"summary", "description"} == set(rule["annotations"])
    assert re.fullmatch(r"[1-9]m|10m", rule.get("for", "1m"))
    left = names(rule["expr"]).grouped or OF_PROMETHEUS
    for text in rule["annotations"].values():
        assert text.strip()
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= left


def test_the_scrape_configuration_finds_the_rules_and_the_ports_that_the_readme_names() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert [FOLDER / name for name in config["rule_files"]] == [FOLDER / "alerts.yml"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    said = (FOLDER / "README.md").read_text()
    for job, option in (
        ("tidegate-edge", "`port = {}`"),
        ("tidegate-pipeline", "`--metrics_port={}`"),
        ("tidegate-supervisor", "`--supervisor_metrics_port={}`"),
    ):
        (target,) = targets[job]
        assert option.format(target.rpartition(":")[2]) in said
    jobs = {job for expression in expressions() for job in re.findall(r'job="([^"]*)"', expression)}
    assert jobs <= set(targets)
