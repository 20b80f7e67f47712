"""`tidegate ledger --in`: recorded topics, balanced offline; what it prints and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.cli import main
from deploy.recording.files import Stamp, TopicFile
from pipelines.decide import by_edge
from schemas.topics import by_name
from tests.doubles.life import AGGREGATES, EVENTS, SAMPLES, Run


def record(folder: Path, run: Run, *, first: int = 0, report: bool = True, decisions: bool = True) -> Path:
    """A folder as `tidegate record` leaves it; its partitions begin at offset `first`."""
    folder.mkdir()
    given: dict[str, list[Any]] = {
        EVENTS: list(run.events.values()),
        AGGREGATES: list(run.aggregates.values()),
        SAMPLES: list(run.samples.values()),
        "edge.status": [run.report()] if report else [],
        "cloud.decisions": [by_edge(event, "test", 5) for event in run.events.values()],
    }
    for name, records in given.items():
        if name == "cloud.decisions" and not decisions:
            continue
        file = TopicFile(folder / f"{name}.avro", by_name(name).record)
        for offset, one in enumerate(records):
            file.write(one, Stamp(0, first + offset, 1000 + offset))
        file.finish()
    return folder


def test_a_whole_recording_balances(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run()
    assert main(["ledger", "--in", str(record(tmp_path / "run", run)), "--settle", "0s"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("device ")
    assert "UNEXPLAINED" not in shown.out
    assert (
        f"{2 * len(run.events) + len(run.aggregates) + len(run.samples) + 1} records of 1 device(s): balanced"
        in shown.err
    )


def test_what_is_missing_is_a_line_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run()
    del run.aggregates[7]
    assert main(["ledger", "--in", str(record(tmp_path / "run", run))]) == 1
    assert "UNEXPLAINED missing: pump-1, life 1, edge.aggregates: seq 7\n" in capsys.readouterr().out


def test_without_recorded_decisions_none_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = record(tmp_path / "run", Run(), decisions=False)
    assert main(["ledger", "--in", str(folder), "--settle", "0s", "-o", "json"]) == 0
    lanes = json.loads(capsys.readouterr().out)["lanes"]
    assert {lane["decided"] for lane in lanes} == {None}


def test_a_recording_that_begins_in_the_middle_is_not_held_against_the_counters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run()
    for seq in [seq for seq in run.events if seq < 40]:
        del run.events[seq]
    assert main(["ledger", "--in", str(record(tmp_path / "run", run, first=900))]) == 0
    assert "the beginning was not read of: " in capsys.readouterr().err
    assert main(["ledger", "--in", str(record(tmp_path / "whole", run))]) == 1


def test_a_lane_that_was_not_recorded_is_missed_by_nobody(tmp_path: Path) -> None:
    folder = record(tmp_path / "run", Run())
    (folder / f"{SAMPLES}.avro").unlink()
    assert main(["ledger", "--in", str(folder)]) == 0


def test_wrong_places_and_options_are_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "--in", str(tmp_path / "nowhere")]) == 78
    assert main(["ledger", "--in", str(tmp_path), "--from", "-1h"]) == 78
    assert main(["ledger", "--in", str(tmp_path)]) == 78
    folder = record(tmp_path / "run", Run())
    (folder / "edge.events.avro").write_bytes(b"junk")
    assert main(["ledger", "--in", str(folder)]) == 65
    assert "edge.events.avro" in capsys.readouterr().err


def test_only_records_of_one_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = record(tmp_path / "run", Run())
    assert main(["ledger", "--in", str(folder), "--device", "nobody", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["devices"] == []
