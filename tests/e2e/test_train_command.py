"""`tidegate train` on a recording that nothing is said about, twice, and `tidegate replay` with what it made."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from deploy.demo.recordings import DATA
from tests.command import tidegate

RECORDING = DATA / "machine-temperature.live.avro"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("models") / "machine"
    return folder, tidegate("train", str(RECORDING), "-o", str(folder), "--false-alarms", "1/week")


def test_a_recording_alone_is_enough(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = trained
    assert done.returncode == 0, done.stderr[-3000:]
    assert "windows of 16 readings (80 min at one reading every 5 min)" in done.stderr
    assert "false alarms: 1/week is 0.00794 of the windows" in done.stderr
    assert "machine-temperature" in done.stdout
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["pooled"]["heavy_auc"] > 0.85
    assert evaluation["pooled"]["heavy_ap"] > 3 * evaluation["pooled"]["constant_ap"]
    assert evaluation["pooled"]["confirmed_of_normal"] < 0.03
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["name"] == "machine"
    assert manifest["lineage"]["false_alarms"] == "1/week"


def test_another_run_in_another_process_gives_the_same_bytes(
    trained: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, _ = trained
    again = tmp_path / "machine"
    done = tidegate("train", str(RECORDING), "-o", str(again), "--false-alarms", "1/week", "--quiet")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == ""
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }


def test_what_was_trained_decides_a_replay(
    trained: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, _ = trained
    done = tidegate("replay", str(RECORDING), "--models", str(folder), "-o", str(tmp_path / "out"), "--format", "json")
    assert done.returncode == 0, done.stderr[-3000:]
    (result,) = json.loads(done.stdout)["models"]
    assert result["ledger"]["windows_scored"] > 1_000
    assert result["outcomes"]["ANOMALY"] > 0


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ([], 78, "there is nothing to learn from"),
        ([str(RECORDING), "--normal", str(RECORDING)], 78, "given both plainly and with --normal"),
        ([str(RECORDING), "--false-alarms", "often"], 78, "not a false-alarm rate: 'often'"),
        ([str(RECORDING), "--false-alarms", "9/h"], 78, "more than every second window"),
        (["gone.avro"], 78, "the recording cannot be read"),
        ([str(Path(__file__))], 65, "not an Avro container file"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(words: list[str], code: int, sentence: str, tmp_path: Path) -> None:
    done = tidegate("train", *words, "-o", str(tmp_path / "p"), "--quiet")
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "p").exists()
