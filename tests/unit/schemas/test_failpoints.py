"""Failpoints: a process dies where and when it was told to, and nowhere else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from schemas import failpoints
from schemas.errors import ConfigError

REACHES = """
import atexit
from schemas.failpoints import reach
atexit.register(print, "cleaned up", flush=True)
for turn in range(5):
    print(turn, flush=True)
    reach("other")
    reach("here")
"""


def run(value: str | None) -> tuple[int, str]:
    """Exit code and output of a process that reaches `here` five times."""
    env = {} if value is None else {failpoints.VARIABLE: value}
    done = subprocess.run([sys.executable, "-c", REACHES], capture_output=True, text=True, env=env, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("value", [None, "", "elsewhere:1", "here:6"])
def test_a_process_that_is_not_to_die_runs_to_its_end(value: str | None) -> None:
    code, said = run(value)
    assert code == 0
    assert said.split("\n")[:6] == ["0", "1", "2", "3", "4", "cleaned up"]


@pytest.mark.parametrize("turn", [1, 3, 5])
def test_it_dies_the_nth_time_without_cleaning_up(turn: int) -> None:
    code, said = run(f"here:{turn}")
    assert code == failpoints.KILLED
    assert said.split() == [str(done) for done in range(turn)]


@pytest.mark.parametrize("value", ["here", "here:", ":3", "here:0", "here:-1", "here:x", "here:²"])
def test_what_is_not_a_failpoint_is_refused_with_a_sentence(value: str) -> None:
    with pytest.raises(ConfigError, match="not a failpoint") as refused:
        failpoints.parse(value)
    assert refused.value.where == {"variable": failpoints.VARIABLE}


def test_a_process_with_a_misspelt_failpoint_does_not_start() -> None:
    code, said = run("here")
    assert code == 1
    assert "write it name:n, n counted from 1" in said


def test_a_name_may_hold_colons() -> None:
    assert failpoints.parse("spool:urgent:2") == ("spool:urgent", 2)
