"""One process of a cluster: it ends with its children, starts again, and its log is quoted."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from deploy.flink.member import Member
from tests.wait import until

_PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
time.sleep(600)
"""


def _child(member: Member) -> psutil.Process:
    def said() -> int:
        lines = [line for line in member.log.read_text().splitlines() if line.startswith("child ")]
        return int(lines[-1].split()[1]) if lines else 0

    return psutil.Process(until(said, "the child's number"))


def _gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_it_ends_with_its_children_and_starts_again(tmp_path: Path, how: str) -> None:
    member = Member("one", [sys.executable, "-c", _PARENT], tmp_path / "one.log")
    member.start()
    first, child = member.pid, _child(member)
    getattr(member, how)()
    until(lambda: not member.running and _gone(child), "the end of both")
    member.start()
    assert member.pid != first
    assert not _gone(psutil.Process(member.pid))
    member.kill()


def test_children_of_a_process_that_died_by_itself_are_ended_too(tmp_path: Path) -> None:
    member = Member("one", [sys.executable, "-c", _PARENT], tmp_path / "one.log")
    member.start()
    child = _child(member)
    psutil.Process(member.pid).kill()
    until(lambda: not member.running, "its end")
    member.stop()
    until(lambda: _gone(child), "the child's end")


def test_what_it_said_names_errors_before_anything_else(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    member = Member("one", ["true"], log)
    assert member.said() == "it printed nothing"
    log.write_text("begin\n12:00 [main] ERROR no port\nend\n")
    assert member.said() == "12:00 [main] ERROR no port"
    log.write_text("begin\nend\n")
    assert member.said() == "begin | end"


def test_one_that_was_never_started_has_no_number_and_can_be_stopped(tmp_path: Path) -> None:
    member = Member("one", ["true"], tmp_path / "one.log")
    member.stop()
    with pytest.raises(ValueError, match="one was not started"):
        member.pid  # noqa: B018  the property raises
