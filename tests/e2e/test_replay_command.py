"""`tidegate replay` over a recording that ships with the product: edge and cloud, offline."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.demo.recordings import DATA, DemoDevice, demo_devices
from deploy.replay import assign
from schemas.container import read
from schemas.errors import ConfigError
from schemas.records import Decision, EdgeEvent
from tests.doubles.tiny_model import write_package


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_package(folder, cohort="temperature", channels=1, window_readings=16)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"channels": list(_ambient().channels)}))
    return folder


def _ambient() -> DemoDevice:
    return next(d for d in demo_devices() if d.device_id == "ambient-temperature")


def replay(recording: Path, package: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy", "replay", str(recording), "--models", str(package), "-o", str(out)]
    return subprocess.run([*command, "--format", "json"], capture_output=True, text=True, timeout=150, check=False)


def records(path: Path) -> list[object]:
    with path.open("rb") as file:
        return list(read(file))


def test_a_recording_is_decided_offline_and_again_the_same(package: Path, tmp_path: Path) -> None:
    recording = DATA / "ambient-temperature.live.avro"
    first, second = (replay(recording, package, tmp_path / name) for name in ("one", "two"))
    assert first.returncode == 0, first.stderr[-3000:]
    (result,) = json.loads(first.stdout)["models"]
    assert result["ledger"]["readings_sensed"] == 4267
    events = records(tmp_path / "one" / "edge.events.avro")
    decisions = records(tmp_path / "one" / "cloud.decisions.avro")
    assert {e.identity for e in events if isinstance(e, EdgeEvent)} == {
        d.identity for d in decisions if isinstance(d, Decision)
    }
    assert len(events) == len(decisions) == result["ledger"]["windows_escalated"] > 0
    for name in ("edge.events", "cloud.decisions", "cloud.aggregates"):
        assert records(tmp_path / "one" / f"{name}.avro") == records(tmp_path / "two" / f"{name}.avro")
    assert second.returncode == 0


def test_a_truncated_recording_is_decided_up_to_the_damage_and_the_place_is_named(
    package: Path, tmp_path: Path
) -> None:
    whole = (DATA / "machine-temperature.live.avro").read_bytes()
    cut = tmp_path / "cut.avro"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    done = replay(cut, package, tmp_path / "out")
    assert done.returncode == 65
    assert "cut.avro" in done.stderr
    assert "Traceback" not in done.stderr
    assert records(tmp_path / "out" / "cloud.decisions.avro")


def test_a_recording_that_no_model_fits_is_refused_with_the_channels(package: Path) -> None:
    with pytest.raises(ConfigError, match="no model fits the recording"):
        assign([DATA / "machine-2-8.live.avro"], [package])
