from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deploy.train.cli import main

from .conftest import wave

Write = Callable[..., Path]


def test_the_command_trains_and_prints_a_table(
    recording: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    normal, live = recording(wave(2_000)), recording(wave(900, seed=4), labels=np.arange(900) // 100 % 3 == 2)
    out = str(tmp_path / "p")
    assert main(["--normal", str(normal), "--live", str(live), "-o", out, "--name", "pumps", "--cohort", "pumps"]) == 0
    captured = capsys.readouterr()
    assert "pump-1" in captured.out
    assert "fitting the heavy model" in captured.err
    assert (tmp_path / "p" / "manifest.json").exists()


def test_the_command_prints_its_report_as_json(
    recording: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--normal", str(recording(wave(2_000))), "-o", str(tmp_path / "p"), "--name", "pumps", "--cohort", "pumps"]
    assert main([*words, "--quiet", "--format", "json", "--window-readings", "8"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["model"] == "pumps"
    assert captured.err == ""


def test_what_goes_wrong_is_one_sentence_and_an_exit_code(
    recording: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-o", str(tmp_path / "p"), "--name", "pumps", "--cohort", "pumps", "-q"]
    assert main(["--normal", str(recording(wave(20))), *words]) == 78
    assert capsys.readouterr().err.startswith("train: the recording is too short to learn from")
    damaged = recording(wave(2_000))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert main(["--normal", str(damaged), *words]) == 65
    assert capsys.readouterr().err.startswith("train: the recording is damaged: ")
