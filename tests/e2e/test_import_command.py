"""`tidegate import` as a user runs it: on the page that explains it, and into what comes after it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from deploy.demo.recordings import DATA
from edge_filters.io.sensors import RecordedSensor, recorded_blocks
from schemas.records import Floats, Times
from tests import command
from tests.wait import until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "import.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


def tidegate(folder: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = command.tidegate(*words, folder=folder)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def rows(path: Path, device: str | None = None) -> tuple[Times, Floats, bytes]:
    blocks = list(recorded_blocks(path, device))
    return (
        np.concatenate([block.times for block in blocks]),
        np.concatenate([block.matrix for block in blocks]),
        b"".join(block.labels or b"" for block in blocks),
    )


def test_the_page_runs_from_top_to_bottom_and_shows_what_it_says(tmp_path: Path) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, words in (("tidegate", "-m deploy"), ("python", "")):
        (bin_folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (bin_folder / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-euc", "\n".join(BLOCKS)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{bin_folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert shown in done.stdout
    report = json.loads((tmp_path / "pump-7.json").read_text())
    assert report["devices"][0]["repeated_times"] == 1
    for name, devices in (("pump-7", ["pump-7"]), ("mill", ["mill"]), ("plant1", ["plant1/A", "plant1/B"])):
        for device in devices:
            assert len(rows(tmp_path / f"{name}.avro", device)[0])
    times = rows(tmp_path / "mill.avro")[0]
    assert times[3_000] - times[0] == 250_000  # a quarter of a second at 12 kHz, though a step is no whole microsecond


def test_a_shipped_recording_that_becomes_csv_and_comes_back_is_the_same_row_for_row(tmp_path: Path) -> None:
    """The temperature of this machine goes back by 55 minutes once and repeats times: no row may be lost."""
    parts = [rows(DATA / f"machine-temperature.{part}.avro") for part in ("normal", "live")]
    times, values = (np.concatenate([part[at] for part in parts]) for at in (0, 1))  # type: ignore[misc]
    labels = parts[0][2] + parts[1][2]
    start = datetime(1970, 1, 1, tzinfo=UTC)
    with (tmp_path / "machine.csv").open("w") as file:
        file.write("timestamp,value,anomaly\n")
        for at, value, flag in zip(times.tolist(), values[:, 0].tolist(), labels, strict=True):
            moment = (start + timedelta(microseconds=at)).replace(tzinfo=None).isoformat(sep=" ")
            file.write(f"{moment},{value!r},{flag}.0\n")
    done = tidegate(tmp_path, "import", "machine.csv", "-o", "machine.avro", "--format", "json")
    again = rows(tmp_path / "machine.avro")
    np.testing.assert_array_equal(again[0], times)
    np.testing.assert_array_equal(again[1], values)
    assert again[2] == labels
    (device,) = json.loads(done.stdout)["devices"]
    assert (device["rows"], device["step_us"]) == (22_695, 300_000_000)
    assert (device["jumps_back"], device["largest_jump_back_us"]) == (1, 55 * 60_000_000)
    assert (device["rows_behind"], device["repeated_times"]) == (11, 12)
    assert device["anomalous_rows"] == sum(labels) > 0


def test_an_edge_replays_what_was_imported(tmp_path: Path) -> None:
    (tmp_path / "pump.csv").write_text("time,a,b\n" + "".join(f"{1_700_000_000 + n},{n},{n * 2}\n" for n in range(600)))
    tidegate(tmp_path, "import", "pump.csv", "-o", "pump.avro")
    sensor = RecordedSensor("pump-live", tmp_path / "pump.avro", speed=None, keep_times=True)
    sensor.start(0.0, 0)
    assert list(sensor.channels) == ["a", "b"]
    seen = []
    while (block := sensor.read()) is not None:
        seen.append(block.values)
    assert np.concatenate(seen)[:, 1].tolist() == [n * 2 for n in range(600)]


def test_labels_of_a_table_are_what_the_trainer_evaluates_with_and_the_replay_decides_its_rows(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    at = np.arange(6_000)
    temp = 20 + np.sin(at / 7) + random.normal(0, 0.1, len(at))
    flow = 3 + np.cos(at / 7) + random.normal(0, 0.1, len(at))
    fault = np.zeros(len(at), int)
    for first in (4_700, 5_100, 5_500):
        temp[first : first + 60] += 4
        fault[first : first + 60] = 1
    with (tmp_path / "pump.csv").open("w") as file:
        file.write("time,temp [°C],flow,fault\n")
        for row in zip(at.tolist(), temp.tolist(), flow.tolist(), fault.tolist(), strict=True):
            file.write(f"{1_700_000_000 + row[0]},{row[1]:.4f},{row[2]:.4f},{row[3]}\n")
    tidegate(tmp_path, "import", "pump.csv", "--label", "fault", "-o", "pump.avro")
    tidegate(tmp_path, "train", "pump.avro", "-o", "models/pump", "--quiet")
    manifest = json.loads((tmp_path / "models" / "pump" / "manifest.json").read_text())
    assert (manifest["channels"], manifest["cohort"]) == (["temp", "flow"], "pump")
    device = json.loads((tmp_path / "models" / "pump" / "evaluation.json").read_text())["devices"]["pump"]
    assert device["anomalous"] > 0
    assert device["edge_auc"] > 0.9
    done = tidegate(tmp_path, "replay", "pump.avro", "--models", "models/pump", "-o", "replayed", "--format", "json")
    (result,) = json.loads(done.stdout)["models"]
    assert result["ledger"]["readings_sensed"] == len(at)


def test_without_a_place_for_the_recording_it_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time,v\n1700000000,1\n")
    done = tidegate(tmp_path, "import", "a.csv", check=False)
    assert done.returncode == 78
    assert "-o REC.avro or --dry-run" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--rate", "50", "--dry-run"], 2, "missing unit"),
        (["--time-format", "%H", "--dry-run"], 2, "without a date"),
        (["--timezone", "Mars/Olympus", "--dry-run"], 2, "no time zone"),
        (["--unit", "temp", "--dry-run"], 2, "temp=celsius"),
        (["--time", "when", "--dry-run"], 78, "there is no column 'when'"),
        (["--channels", "bad", "--dry-run"], 65, "row=2, column='bad', cell='x'"),
        (["--start", "2024-01-01", "--dry-run"], 78, "--rate"),
    ],
)
def test_what_is_wrong_is_a_sentence_and_an_exit_code(tmp_path: Path, words: list[str], code: int, said: str) -> None:
    (tmp_path / "a.csv").write_text("time,v,bad\n1700000000,1,1\n1700000001,2,x\n1700000002,2,3\n")
    done = tidegate(tmp_path, "import", "a.csv", *words, check=False)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_an_import_that_fails_at_its_second_file_leaves_nothing_behind(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")  # would wait for ever, and could be read only once
    (tmp_path / "first.csv").write_text("time,v\n" + "".join(f"{1_700_000_000 + n},{n}\n" for n in range(2_000)))
    done = tidegate(tmp_path, "import", "first.csv", "pipe.csv", "--device", "d", "-o", "out.avro", check=False)
    assert done.returncode == 78
    assert "name files" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.csv", "pipe.csv"]


def test_a_disk_that_is_full_is_a_sentence_and_leaves_nothing_behind(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    (tmp_path / "a.csv").write_text(
        "time,v\n" + "".join(f"{1_700_000_000 + n},{random.normal()}\n" for n in range(60_000))
    )
    done = subprocess.run(
        ["bash", "-c", f'ulimit -f 100; exec "{sys.executable}" -B -m deploy import a.csv -o a.avro'],  # 100 KiB a file
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78, done.stderr
    assert "the recording cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_terminal_sees_how_far_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time,v\n" + "".join(f"{1_700_000_000 + n},{n}\n" for n in range(400_000)))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy", "import", "a.csv", "--dry-run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65_536)
        except OSError:  # the other end is closed: the process has ended
            break
        seen += piece
    os.close(ours)
    assert process.wait(timeout=60) == 0
    assert re.search(rb"[\d,]+ rows", seen)
    assert b"%" in seen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "a.csv").write_text("time,v\n" + "".join(f"{1_700_000_000 + n},{n}\n" for n in range(400_000)))
    process = subprocess.Popen(
        [sys.executable, "-B", "-m", "deploy", "import", *["a.csv"] * 50, "--device", "d", "-o", "a.avro"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # whoever runs the tests may have it ignored
    )
    until(lambda: any(tmp_path.glob(".a.avro.*.part")), "the half-written file")
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
