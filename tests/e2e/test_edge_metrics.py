"""What a real edge process says of itself: metrics that agree with its books, readiness, logs a machine can read."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.broker import Broker
from schemas import topics
from schemas.metrics import EDGE, of_ledger, series_names
from schemas.records import LEDGER
from tests.doubles import recording, scrape
from tests.e2e.test_edge_process import Rig, signal_of
from tests.wait import until

pytestmark = pytest.mark.kafka

HTTP = "[http]\nport = 0"


@pytest.fixture
def rig(tmp_path: Path, broker: Broker, catalogue: str) -> Iterator[Rig]:
    made = Rig(tmp_path, broker, catalogue)
    recording.write(tmp_path / "r.avro", signal_of(60), step_us=10_000, per_block=50)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def test_the_metrics_are_those_of_the_catalogue_and_agree_with_the_status(rig: Rig) -> None:
    rig.configure(
        'id = "p"\nsensor = { kind = "recorded", path = "r.avro", speed = "1x" }',
        'id = "q"\nsensor = { kind = "recorded", path = "r.avro", speed = "1x" }',
        more=HTTP,
    )
    process = rig.start()
    base = scrape.address(rig.folder / "log")
    until(lambda: scrape.get(f"{base}/readyz")[0] == 200, "readiness")
    assert scrape.ready(base)[1]["missing"] == {}
    assert scrape.get(f"{base}/livez") == (200, b"alive\n")
    until(lambda: scrape.metrics(base)["tidegate_edge_windows_escalated_total"][()] >= 6, "escalated windows")
    found = scrape.metrics(base)
    assert {name for name in found if name.startswith("tidegate_")} == {
        name for metric in EDGE for name in series_names(metric)
    }
    assert found["tidegate_edge_devices"][("thresholds", "default"),] == 2
    assert found["tidegate_edge_broker_up"][()] == 1
    decided = sum(found["tidegate_edge_decisions_total"].values())
    until(lambda: scrape.metrics(base)["tidegate_edge_windows_scored_total"][()] > decided, "more windows")
    assert found["tidegate_edge_decision_latency_seconds_count"][()] > 0
    assert found["process_resident_memory_bytes"][()] < 120 * 1024 * 1024
    (labels,) = found["tidegate_edge_model_info"]
    assert dict(labels)["sha256"] == rig.statuses()[0].model_sha256.hex()[:12]
    assert not [name for series in found.values() for labels in series for name, _ in labels if "device" in name]

    before = rig.statuses()
    after = scrape.metrics(base)
    newest = {status.device_id: status for status in before}
    for name in LEDGER:  # the status was first, so the scrape has at least as much
        assert after[of_ledger(name)][()] >= sum(status.counters[name] for status in newest.values())
    assert rig.end() == 0, rig.said()
    assert process.returncode == 0


def test_it_says_what_is_missing_and_a_broker_that_comes_back_is_no_longer(rig: Rig) -> None:
    rig.broker.stop()
    rig.configure('id = "p"\nsensor = { kind = "recorded", path = "r.avro", speed = "1x" }', more=HTTP)
    rig.start()
    base = scrape.address(rig.folder / "log")
    until(lambda: scrape.get(f"{base}/readyz")[0] == 503, "the answer that it is not ready")
    until(lambda: list(scrape.ready(base)[1]["missing"]) == ["broker", "feedback"], "only the broker to be missing")
    assert scrape.get(f"{base}/livez")[0] == 200  # a restart would not bring the broker back
    until(lambda: scrape.metrics(base)["tidegate_edge_spool_records"][()] > 0, "records in the spool")
    assert scrape.metrics(base)["tidegate_edge_broker_up"][()] == 0
    rig.broker.start()
    until(lambda: scrape.get(f"{base}/readyz")[0] == 200, "readiness", within_s=60)
    until(lambda: scrape.metrics(base)["tidegate_edge_records_acked_total"][()] > 0, "acknowledgements")
    assert rig.end() == 0, rig.said()


def test_a_sensor_that_fails_is_named(rig: Rig) -> None:
    good = (rig.folder / "r.avro").read_bytes()
    (rig.folder / "bad.avro").write_bytes(good[:-2000])  # its last block is damaged, those before are well
    rig.configure(
        'id = "p"\nsensor = { kind = "recorded", path = "r.avro", speed = "1x" }',
        'id = "broken-7"\nsensor = { kind = "recorded", path = "bad.avro", speed = "max" }',
        more=HTTP,
    )
    rig.start()
    base = scrape.address(rig.folder / "log")
    until(lambda: "broken-7" in scrape.ready(base)[1]["missing"].get("sensors", ""), "the sensor that failed")
    assert scrape.metrics(base)["tidegate_edge_sensors_failed"][()] == 1
    assert rig.end() != 0


def test_with_log_format_json_every_line_is_an_object_and_no_password_is_in_it(rig: Rig) -> None:
    rig.configure('id = "p"\nsensor = { kind = "recorded", path = "r.avro", speed = "1x" }', more=HTTP)
    config = rig.folder / "edge.toml"
    config.write_text(
        config.read_text().replace(
            "[model]", 'sasl_plain_password = "hunter2-canary"\nsasl_plain_username = "u"\n[model]'
        )
    )
    rig.start("--log-format", "json")
    until(lambda: rig.records(topics.EVENTS), "events")
    assert rig.end(signal.SIGTERM) == 0, rig.said()
    lines = [json.loads(line) for line in rig.said().splitlines()]
    assert len(lines) >= 3
    for line in lines:
        assert {"timestamp", "severity", "process", "logger", "body"} <= set(line)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])
    assert lines[-1]["body"].startswith("stopped: ")
    assert "hunter2" not in rig.said()
