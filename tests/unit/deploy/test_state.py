"""The state file: found again from another terminal, and recognised when it is stale."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from deploy import stack, state
from deploy.state import StackState
from schemas.errors import ConfigError


def of_process(pid: int) -> StackState:
    return StackState(
        pid=pid,
        created_s=psutil.Process(pid).create_time(),
        bootstrap_servers="127.0.0.1:9092",
        folder="/data",
        log="/data/broker.log",
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = of_process(os.getpid())
    state.write(tmp_path, written)
    assert state.read(tmp_path) == written
    assert stack.current(tmp_path) == written
    state.remove(tmp_path)
    assert state.read(tmp_path) is None


def test_a_pid_that_another_process_uses_now_is_stale(tmp_path: Path) -> None:
    mine = of_process(os.getpid())
    state.write(tmp_path, replace(mine, created_s=mine.created_s - 100))
    assert stack.current(tmp_path) is None


def test_a_process_that_ended_is_stale_and_down_clears_it_away(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    state.write(tmp_path, of_process(child.pid))
    assert stack.current(tmp_path) is not None
    child.communicate(b"\n")
    assert stack.current(tmp_path) is None
    assert stack.down(tmp_path) is None
    assert state.read(tmp_path) is None


def test_down_never_ends_a_process_that_only_has_the_pid(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        alive = of_process(child.pid)
        state.write(tmp_path, replace(alive, created_s=alive.created_s - 100))
        assert stack.down(tmp_path) is None
        assert child.poll() is None
        child.communicate(b"\n")
    assert child.returncode == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_damaged_file_is_a_sentence_with_the_next_step(tmp_path: Path, content: str) -> None:
    (tmp_path / "stack.json").write_text(content)
    with pytest.raises(ConfigError, match=r"state of the local stack cannot be read.*remove the file"):
        stack.current(tmp_path)


def test_down_without_anything_makes_no_folder(tmp_path: Path) -> None:
    assert stack.down(tmp_path / "never") is None
    assert not (tmp_path / "never").exists()
