from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.supervisor import FINAL_CODES, RestartPolicy, Supervisor
from schemas.errors import EXIT_CODES, ConfigError, PipelineError
from tests.wait import until

# --- the rule, pure --------------------------------------------------------------------------------------------------


@given(first=st.floats(0.01, 5), longest=st.floats(0.01, 60), crashes=st.integers(2, 30), lived=st.floats(0, 59.9))
def test_pauses_double_up_to_a_cap_and_then_it_gives_up(
    first: float, longest: float, crashes: int, lived: float
) -> None:
    policy = RestartPolicy(first_pause_s=first, max_pause_s=longest, healthy_s=60.0, max_crashes=crashes)
    pauses = [policy.after_crash(lived) for _ in range(crashes)]
    assert pauses[-1] is None
    assert pauses[:-1] == [min(longest, first * 2**n) for n in range(crashes - 1)]


@given(st.lists(st.booleans(), max_size=40), st.integers(2, 10))
def test_a_healthy_run_starts_the_count_anew(healthy: list[bool], limit: int) -> None:
    policy = RestartPolicy(first_pause_s=1.0, max_pause_s=1e9, healthy_s=60.0, max_crashes=limit)
    in_a_row = 0
    for each in healthy:
        in_a_row = 1 if each else in_a_row + 1
        pause_s = policy.after_crash(60.0 if each else 59.0)
        assert pause_s == (None if in_a_row >= limit else 2.0 ** (in_a_row - 1))


# --- real processes ---


def supervisor_script(folder: Path, child: str, *, stop_timeout_s: float = 5.0, max_crashes: int = 8) -> list[str]:
    """A process that supervises `child`, Python code that finds `folder` in sys.argv[1]."""
    (folder / "child.py").write_text(
        "import os, signal, subprocess, sys, time, pathlib\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "starts = folder / 'starts'\n"
        "with starts.open('a') as f: f.write(f'{os.getpid()}\\n')\n"
        "started = len(starts.read_text().splitlines())\n" + textwrap.dedent(child)
    )
    code = (
        "import sys; from pipelines.supervisor import *; from schemas.errors import *\n"
        f"policy = RestartPolicy(first_pause_s=0.05, max_crashes={max_crashes})\n"
        f"command = [sys.executable, {str(folder / 'child.py')!r}, {str(folder)!r}]\n"
        "try:\n"
        f"    code = Supervisor(command, policy, stop_timeout_s={stop_timeout_s}).run()\n"
        "except TidegateError as error:\n"
        "    print(error, file=sys.stderr); code = exit_code(error)\n"
        "sys.exit(code)"
    )
    return [sys.executable, "-c", code]


class Running:
    def __init__(self, folder: Path, command: list[str]) -> None:
        self.folder = folder
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def starts(self) -> list[int]:
        file = self.folder / "starts"
        return [int(line) for line in file.read_text().splitlines()] if file.exists() else []

    def ended(self) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, err


@pytest.fixture
def run(tmp_path: Path) -> Iterator[object]:
    running: list[Running] = []

    def start(child: str, **options: float) -> Running:
        running.append(Running(tmp_path, supervisor_script(tmp_path, child, **options)))  # type: ignore[arg-type]
        return running[-1]

    yield start
    for each in running:
        each.process.kill()
        each.process.wait()
        for pid in each.starts():
            if psutil.pid_exists(pid):
                os.killpg(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_child_that_crashes_twice_and_then_ends_well_is_started_three_times(run) -> None:  # type: ignore[no-untyped-def]
    running = run("""
        if started == 1: sys.exit(3)
        if started == 2: os.kill(os.getpid(), signal.SIGKILL)
    """)
    code, err = running.ended()
    assert (code, len(running.starts())) == (0, 3), err
    assert "the pipeline ended (exit code 3); starting again in 0.1 s" in err
    assert "the pipeline ended (killed by SIGKILL); starting again" in err


@pytest.mark.parametrize("code", sorted(FINAL_CODES))
def test_a_child_whose_mistake_would_be_the_same_again_is_not_started_again(run, code: int) -> None:  # type: ignore[no-untyped-def]
    running = run(f"sys.exit({code})")
    assert running.ended()[0] == code
    assert len(running.starts()) == 1


def test_a_wrong_configuration_is_one_of_those() -> None:
    assert EXIT_CODES[ConfigError] in FINAL_CODES
    assert 2 in FINAL_CODES


def test_a_crash_loop_ends_with_a_sentence(run) -> None:  # type: ignore[no-untyped-def]
    running = run("sys.exit(9)", max_crashes=3)
    code, err = running.ended()
    assert code == EXIT_CODES[PipelineError]
    assert len(running.starts()) == 3
    assert err.splitlines()[-1] == (
        "the pipeline keeps failing and is not started again (crashes_in_a_row=3, last_exit='exit code 9'); "
        "the log above names the cause; `python -m pipelines job …` runs it once without supervision"
    )


WITH_GRANDCHILD = """
    grandchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
    (folder / 'grandchild').write_text(str(grandchild.pid))
    (folder / 'ready').write_text('')
"""


def grandchild_of(folder: Path) -> int:
    until((folder / "ready").exists, "the grandchild")
    return int((folder / "grandchild").read_text())


def test_sigterm_is_passed_on_and_a_child_that_drains_ends_with_0(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    running = run("""
        signal.signal(signal.SIGTERM, lambda *_: ((folder / 'drained').write_text(''), sys.exit(0)))
        (folder / 'ready').write_text('')
        while True: time.sleep(1)
    """)
    until((tmp_path / "ready").exists, "the child")
    running.process.send_signal(signal.SIGTERM)
    assert running.ended()[0] == 0
    assert (tmp_path / "drained").exists()
    assert len(running.starts()) == 1


def test_a_child_that_ignores_sigterm_is_killed_with_all_it_started(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    running = run(
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WITH_GRANDCHILD + "    while True: time.sleep(1)\n",
        stop_timeout_s=0.5,
    )
    grandchild = grandchild_of(tmp_path)
    running.process.send_signal(signal.SIGTERM)
    code, err = running.ended()
    assert code == 128 + signal.SIGKILL
    assert "the pipeline did not stop within 0 s and is killed" in err
    (child,) = running.starts()
    until(lambda: not alive(child) and not alive(grandchild), "the whole group to be gone")


def test_what_a_crashed_child_leaves_behind_is_ended_before_the_next_start(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    running = run("    if started > 1: sys.exit(0)\n" + WITH_GRANDCHILD + "    sys.exit(1)\n")
    assert running.ended()[0] == 0
    grandchild = grandchild_of(tmp_path)
    until(lambda: not alive(grandchild), "the grandchild to be gone")


def test_sigterm_during_the_pause_after_a_crash_ends_it_at_once(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    command = supervisor_script(tmp_path, "sys.exit(1)")
    running = Running(tmp_path, [*command[:2], command[2].replace("first_pause_s=0.05", "first_pause_s=600")])
    try:
        until(lambda: len(running.starts()) == 1, "the first start")
        until(lambda: not psutil.Process(running.process.pid).children(), "the first crash")
        running.process.send_signal(signal.SIGTERM)
        assert running.ended()[0] == 0
    finally:
        running.process.kill()


def test_when_the_supervisor_is_killed_its_child_is_told_to_stop(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    running = run("""
        signal.signal(signal.SIGTERM, lambda *_: ((folder / 'told').write_text(''), sys.exit(0)))
        (folder / 'ready').write_text('')
        while True: time.sleep(1)
    """)
    until((tmp_path / "ready").exists, "the child")
    running.process.kill()
    until((tmp_path / "told").exists, "SIGTERM at the orphan")
    (child,) = running.starts()
    until(lambda: not alive(child), "the orphan to be gone")


def test_a_program_that_is_not_there_is_not_a_crash_loop() -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(FileNotFoundError):
            Supervisor(["/no/such/program"], RestartPolicy()).run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
