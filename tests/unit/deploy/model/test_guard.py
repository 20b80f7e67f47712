"""What somebody's model may use while it is looked at. The processes are real, and end by themselves."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.model.card import card
from deploy.model.guard import bounded
from deploy.model.words import code, plain
from deploy.paths import ROOT
from tests.doubles import odd_models
from tests.doubles.packages import package

_LOOK = """\
import sys
from pathlib import Path
from deploy.model import guard, verbs, options
import argparse
guard.TIME_S = float(sys.argv[2])
parser = argparse.ArgumentParser()
options.add_verbs(parser)
sys.exit(verbs.run(parser.parse_args(["inspect", sys.argv[1]])))
"""


def look(path: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _LOOK, str(path), str(seconds)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_model_without_an_end_ends_the_command_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "endless.onnx").write_bytes(odd_models.endless())
    looked = look(tmp_path / "endless.onnx", 2.0)
    assert looked.returncode == 65
    assert "the model did not answer in time" in looked.stderr
    assert "endless.onnx" in looked.stderr


def test_a_model_that_asks_for_all_memory_is_refused_it(tmp_path: Path) -> None:
    (tmp_path / "greedy.onnx").write_bytes(odd_models.greedy())
    looked = look(tmp_path / "greedy.onnx", 120.0)
    assert looked.returncode == 65
    assert "cannot run: the model failed" in looked.stdout


def test_the_bound_is_lifted_again() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with bounded(2**30):
        assert resource.getrlimit(resource.RLIMIT_AS) != before
        with pytest.raises(MemoryError):
            bytearray(2**33)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_names_out_of_a_file_cannot_steer_a_terminal_or_a_page() -> None:
    assert plain("a\x1b[2J\nb\u202e") == "a_[2J_b_"
    assert code("`x` | <b>") == "_x_ _ _b_"
    made = package(odd_models.mean_of(["b", 4, 1]), channels=("</h1>|`\x1b[1m",))
    assert not {"\x1b", "<", ">"} & set(card(made))
