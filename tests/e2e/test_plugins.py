"""The example of docs/plugins.md as a user runs it: own sensor, feature, detector and sink in a real edge process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.broker import Broker
from schemas import topics
from schemas.records import DeviceStatus, EdgeAggregate, EdgeEvent, Health, Transition
from tests.doubles import edge_model, recording
from tests.e2e.test_init_command import ROOT, check, everything
from tests.wait import until

EXAMPLE = ROOT / "docs" / "examples" / "my_plugins.py"
PAGE = (ROOT / "docs" / "plugins.md").read_text()


def blocks(language: str) -> list[str]:
    """Code blocks of the page."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("page", ["plugins.md", "own-pipeline.md"])
def test_every_link_of_a_page_leads_to_a_file(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "docs" / page).read_text())
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """What the page says up to the configuration, word for word: a site, and the example in its folder of plug-ins."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    script = f'set -eu\ntidegate() {{ {sys.executable} -m deploy "$@"; }}\n' + blocks("sh")[0]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(["sh", "-c", script], cwd=tmp_path, env=environ, check=True, stdout=subprocess.DEVNULL)
    return tmp_path / "plant1"


def test_the_configuration_of_the_page_is_valid_as_it_stands(site: Path) -> None:
    (site / "edge.toml").write_text(blocks("toml")[0])
    assert [device["id"] for device in check(site)] == ["plant1/host"]


@pytest.mark.kafka
def test_own_sensor_detector_and_sink_in_a_live_edge(site: Path, broker: Broker, catalogue: str) -> None:
    config = blocks("toml")[0].replace("${KAFKA:-127.0.0.1:9092}", broker.bootstrap_servers)
    config = config.replace('topic_prefix = ""', f'topic_prefix = "{catalogue}"')
    # fast, and a band so narrow that this machine leaves it at once
    config = config.replace("rate_hz = 10.0", "rate_hz = 200.0").replace("width = 0.2", "width = 1e-6")
    (site / "edge.toml").write_text(config)
    with (site / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_filters", "run", "edge.toml"],
            stderr=log,
            cwd=site,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    try:
        raised = until(
            lambda: [
                e for e in everything(broker, catalogue, topics.EVENTS) if e.transition is Transition.RAISED
            ],
            "an alarm by the detector",
        )  # fmt: skip
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, (site / "log").read_text()
    finally:
        process.kill()
        process.wait()
    events = [e for e in everything(broker, catalogue, topics.EVENTS) if isinstance(e, EdgeEvent)]
    package = json.loads((site / "models" / "starter" / "manifest.json").read_text())
    assert {e.model_name for e in events} == {package["name"]}
    assert raised[0].device_id == "plant1/host"
    lines = [json.loads(line) for line in (site / "alarms.jsonl").read_text().splitlines()]
    assert lines == [
        {"device": e.device_id, "alarm": e.transition.value, "score": e.score}
        for e in sorted(events, key=lambda e: e.seq)
        if e.transition is not Transition.NONE
    ]
    sensed = [s for s in everything(broker, catalogue, topics.STATUS) if isinstance(s, DeviceStatus)][-1]
    aggregated = [a for a in everything(broker, catalogue, topics.AGGREGATES) if isinstance(a, EdgeAggregate)]
    assert sensed.health is Health.STOPPED
    assert sum(a.readings for a in aggregated) == sensed.counters["readings_sensed"] > 0


@pytest.mark.kafka
def test_own_feature_in_a_package_that_is_published_and_scored_live(site: Path, broker: Broker, catalogue: str) -> None:
    model = edge_model.write(site / "models" / "pumps")
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["edge"]["statistics"] = ["crest"]
    manifest["edge"]["self_test"]["scores"] = [0.0, 1.0]  # the crest of a window of zeros, and of a constant one
    (model / "manifest.json").write_text(json.dumps(manifest))
    recording.write(site / "r.avro", [0.0, 0.0, 0.0, 8.0] * 5 + [8.0, 8.0, 8.0, 8.0] * 5, step_us=10_000)
    (site / "edge.toml").write_text(
        f"""
        [edge]
        state_dir = "state"
        [kafka]
        bootstrap_servers = "{broker.bootstrap_servers}"
        topic_prefix = "{catalogue}"
        [plugins]
        path = "plugins"
        [features.crest]
        kind = "my_plugins:crest"
        [model]
        path = "models/pumps"
        [[device]]
        id = "pump-7"
        sensor = {{ kind = "recorded", path = "r.avro", speed = "max" }}
        """
    )
    done = subprocess.run(
        [sys.executable, "-m", "edge_filters", "run", str(site / "edge.toml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    events = everything(broker, catalogue, topics.EVENTS)
    assert [(e.seq, e.score) for e in events] == [(n, pytest.approx(2.0)) for n in range(5)]

    # the program of the page, word for word but for the address
    program = blocks("python")[0].replace('"127.0.0.1:9092"', f'"{broker.bootstrap_servers}", "{catalogue}"')
    environ = os.environ | {"PYTHONPATH": f"{ROOT}:{site / 'plugins'}"}
    subprocess.run([sys.executable, "-c", program], cwd=site, env=environ, check=True, timeout=60)
    (update,) = everything(broker, catalogue, topics.MODELS)
    assert update.manifest_sha256 == events[0].model_sha256


BAD = """
import numpy as np
from edge_filters.blocks import Block

class Flaky:
    channels = ["a", "b"]
    can_wait = False
    def __init__(self, device_id, options):
        self.calls = 0
    def start(self, monotonic_s, wall_us):
        self.at_s, self.at_us = monotonic_s, wall_us
    def due_s(self):
        return None if self.calls >= 20 else self.at_s
    def read(self):
        self.calls += 1
        if self.calls == 5:
            raise OSError("line down")
        times = np.arange(4, dtype=np.int64) * 1000 + self.at_us
        self.at_us += 4000
        return Block("", times, np.full((4, 2), 2.5, np.float32))
    def close(self):
        pass

class Broken:
    def __init__(self, channels, window_readings, options):
        self.first = True
    def score(self, windows, devices):
        if self.first:
            self.first = False
            return [0.0] * len(windows)
        return [float("nan")] * len(windows)

class Deaf:
    def __init__(self, options):
        pass
    def write(self, records):
        raise RuntimeError("no one listens")
    def close(self):
        pass
"""


@pytest.mark.kafka
def test_bad_plugins_are_named_and_cost_no_reading(tmp_path: Path, broker: Broker, catalogue: str) -> None:
    (tmp_path / "bad_plugins.py").write_text(BAD)
    edge_model.write(tmp_path / "model")
    recording.write(tmp_path / "r.avro", [2.5] * 400, step_us=10_000)
    (tmp_path / "edge.toml").write_text(
        f"""
        [edge]
        state_dir = "state"
        [kafka]
        bootstrap_servers = "{broker.bootstrap_servers}"
        topic_prefix = "{catalogue}"
        [model]
        path = "model"
        [plugins]
        path = "."
        [[sink]]
        kind = "bad_plugins:Deaf"
        [[device]]
        id = "flaky"
        sensor = {{ kind = "bad_plugins:Flaky" }}
        [[device]]
        id = "unscored"
        model = "model"
        detector = {{ kind = "bad_plugins:Broken" }}
        sensor = {{ kind = "recorded", path = "r.avro", speed = "max" }}
        """
    )
    done = subprocess.run(
        [sys.executable, "-m", "edge_filters", "run", str(tmp_path / "edge.toml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "the sensor 'bad_plugins:Flaky' failed in read(): OSError: line down" in done.stderr
    assert "the sensor 'bad_plugins:Flaky' gives readings again" in done.stderr
    assert "the detector 'bad_plugins:Broken' gave a score that is not finite" in done.stderr
    assert "the sink 'bad_plugins:Deaf' failed in write(): RuntimeError: no one listens" in done.stderr
    assert "did not get" in done.stderr
    last = {s.device_id: s for s in everything(broker, catalogue, topics.STATUS)}
    sensed = {name: s.counters["readings_sensed"] for name, s in last.items()}
    assert sensed == {"flaky": 19 * 4, "unscored": 400}
    assert last["unscored"].counters["windows_unscored"] == 100
    assert len([e for e in everything(broker, catalogue, topics.EVENTS) if e.device_id == "flaky"]) == 19
    aggregates = everything(broker, catalogue, topics.AGGREGATES)
    assert {n: sum(a.readings for a in aggregates if a.device_id == n) for n in sensed} == sensed


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution with entry points, as pip installs it."""
    folder = tmp_path / "site-packages"
    (folder / "my_plugins-1.0.dist-info").mkdir(parents=True)
    (folder / "my_plugins-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: my-plugins\nVersion: 1.0\n"
    )
    (folder / "my_plugins-1.0.dist-info" / "entry_points.txt").write_text(blocks("ini")[0])
    (folder / "my_plugins.py").write_text(EXAMPLE.read_text())
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{ROOT}")
    return folder


def test_entry_points_of_an_installed_package_are_found_by_name(site: Path, installed: Path) -> None:
    config = blocks("toml")[0]
    for kind, name in (("Host", "host"), ("Band", "band"), ("crest", "crest"), ("Siren", "siren")):
        assert f"my_plugins:{kind}" in config
        config = config.replace(f"my_plugins:{kind}", name)
    config = re.sub(r"\[plugins\]\npath = .*\n", "", config)
    (site / "edge.toml").write_text(config)
    done = subprocess.run(
        [sys.executable, "-m", "edge_filters", "run", str(site / "edge.toml"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
