"""Dashboard and alert rules against what a whole running loop exposes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from deploy.broker import Broker
from pipelines.publish import publish, read_package
from tests.doubles import recording, scrape
from tests.doubles.promql import names
from tests.e2e.test_edge_process import Rig
from tests.e2e.test_pipeline_prism import Live
from tests.wait import until

pytestmark = [pytest.mark.kafka, pytest.mark.prism]

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"


def named() -> dict[str, frozenset[tuple[str, str]]]:
    """Every metric that dashboard and rules name, with the labels that they match or group by."""
    dashboard = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    rules = yaml.safe_load((FOLDER / "alerts.yml").read_text())
    expressions = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", ())]
    expressions += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    found: dict[str, frozenset[tuple[str, str]]] = {}
    for expression in expressions:
        for metric in names(expression).metrics:
            found[metric] = found.get(metric, frozenset()) | {m for m in names(expression).matched if m[0] == metric}
    return found


def test_every_metric_that_is_shown_or_alerted_on_is_exposed_by_a_running_loop(
    broker: Broker, catalogue: str, prism: Path, tmp_path: Path
) -> None:
    rig = Rig(tmp_path / "edge", broker, catalogue)
    recording.write(rig.folder / "r.avro", [2.5] * 6000, step_us=10_000, per_block=50)
    rig.configure('id = "p"\nsensor = { kind = "recorded", path = "r.avro", speed = "1x" }', more="[http]\nport = 0")
    publish(read_package(str(rig.folder / "model")), broker.bootstrap_servers, catalogue)
    log = tmp_path / "pipeline.log"
    live = Live(broker, catalogue, prism, log, "--metrics_port=0", "--supervisor_metrics_port=0")
    rig.start()
    try:
        processes = [
            scrape.address(rig.folder / "log"),
            scrape.address(log),
            scrape.address(log, "metrics and probes of the supervisor are on "),
        ]
        for base in processes:
            until(lambda base=base: scrape.get(f"{base}/readyz")[0] == 200, f"readiness of {base}", within_s=60)  # type: ignore[misc]
        until(lambda: scrape.metrics(processes[1])["tidegate_pipeline_decided_total"][()] > 0, "decisions")
        until(lambda: "tidegate_pipeline_records_written_total" in scrape.metrics(processes[1]), "written records")
        scraped: dict[str, scrape.Series] = {}
        for base in processes:
            scraped |= scrape.metrics(base)
        wanted = named()
        assert len(wanted) > 40
        assert wanted.keys() <= scraped.keys() | {"up"}
        for metric, matched in wanted.items():
            for _, label in matched:
                if label not in ("instance", "job"):
                    assert all(label in dict(labels) for labels in scraped[metric]), f"{metric} has no {label}"
        assert live.stop() == 0
        assert rig.end() == 0, rig.said()
    finally:
        live.producer.close()
        for process in (live.process, rig.process):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
