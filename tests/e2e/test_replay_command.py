"""`tidegate replay` over a recording that ships with the product: edge and cloud, offline."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.demo.recordings import DATA, DemoDevice, demo_devices
from deploy.replay import assign
from schemas.container import ContainerWriter, read
from schemas.errors import ConfigError
from schemas.records import Decision, EdgeEvent, Outcome
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


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy", "replay", *map(str, words), "--format", "json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)


def test_recorded_topics_are_decided_again_and_a_decision_that_was_another_is_named_and_1(
    package: Path, tmp_path: Path
) -> None:
    first = run(DATA / "ambient-temperature.live.avro", "--models", package, "-o", tmp_path / "one", "--quiet")
    assert (first.returncode, first.stderr) == (0, "")
    again = run(tmp_path / "one", "--models", package, "-o", tmp_path / "two")
    assert again.returncode == 0, again.stderr
    compared = json.loads(again.stdout)["comparison"]
    decisions = [d for d in records(tmp_path / "one" / "cloud.decisions.avro") if isinstance(d, Decision)]
    assert (compared["same"], compared["is_same"]) == (len(decisions), True)

    verified = run(tmp_path / "one", "--models", package, "--verify")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["comparison"]["largest_score_gap"] == 0.0

    wrong = replace(decisions[7], outcome=Outcome.NORMAL, heavy_score=-1.0)
    with (tmp_path / "one" / "cloud.decisions.avro").open("wb") as file:
        writer = ContainerWriter(file, Decision)
        for decision in [*decisions[:7], wrong, *decisions[8:]]:
            writer.write(decision)
        writer.close()
    differing = run(tmp_path / "one", "--models", package, "-o", tmp_path / "three")
    assert differing.returncode == 1
    compared = json.loads(differing.stdout)["comparison"]
    assert (compared["different"], compared["same"]) == (1, len(decisions) - 1)
    assert compared["differences"][0]["event_id"] == wrong.identity.event_id
    assert compared["differences"][0]["differs"]["heavy_score"][0] == -1.0
    assert run(tmp_path / "one", "--models", package, "--verify").returncode == 1


def test_there_must_be_decisions_to_verify(package: Path, tmp_path: Path) -> None:
    done = run(DATA / "ambient-temperature.live.avro", "--models", package, "--verify")
    assert done.returncode == 78
    assert "no recorded decisions are there to verify" in done.stderr
    assert "--compare" in done.stderr


def test_of_a_recording_only_what_lies_between_two_times_is_replayed(package: Path, tmp_path: Path) -> None:
    recording = DATA / "ambient-temperature.live.avro"
    done = run(recording, "--models", package, "-o", tmp_path / "out", "--from", "24h", "--to", "72h")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["models"]
    assert result["ledger"]["readings_sensed"] == 48  # one an hour
    whole = run(recording, "--models", package, "-o", tmp_path / "whole")
    assert whole.returncode == 0
    part = run(tmp_path / "whole", "--models", package, "-o", tmp_path / "part", "--to", "240h")
    assert part.returncode == 0, part.stderr
    compared = json.loads(part.stdout)["comparison"]
    assert 0 < compared["same"] == compared["recorded"] < 4267 // 16
    nothing = run(recording, "--models", package, "-o", tmp_path / "none", "--from", "2030-01-01")
    assert nothing.returncode == 78
    assert "nothing of the recording lies between --from and --to" in nothing.stderr


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["-o", "OUT"], 78, "no model is named"),
        (["--models", "MODEL"], 78, "there is nowhere to write to"),
        (["--models", "MODEL", "-o", "OUT", "--speed", "fast"], 2, "not a speed: 'fast'; write it like 10x, or max"),
        (["--models", "MODEL", "-o", "OUT", "--from", "soon"], 2, "neither a time nor a duration"),
        (["--models", "MODEL", "-o", "OUT", "--from", "2h", "--to", "1h"], 78, "--to is not later than --from"),
        (["--models", "MODEL", "-o", "OUT", "--compare", "nowhere"], 78, "there are no recorded decisions"),
        (["--models", "MODEL", "--kafka", "127.0.0.1:1"], 69, "127.0.0.1:1"),
        (["--models", "MODEL", "--kafka", "127.0.0.1:1", "--speed", "max", "--times", "now"], 78, "ahead of the clock"),
    ],
)
def test_what_is_wrong_with_the_command_is_one_line(
    package: Path, tmp_path: Path, words: list[str], code: int, sentence: str
) -> None:
    named = {"MODEL": package, "OUT": tmp_path / "out"}
    done = run(DATA / "ambient-temperature.live.avro", *[named.get(word, word) for word in words], "--quiet")
    assert done.returncode == code
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recording_that_no_model_fits_is_refused_with_the_channels(package: Path) -> None:
    with pytest.raises(ConfigError, match="no model fits the recording"):
        assign([DATA / "machine-2-8.live.avro"], [package])
