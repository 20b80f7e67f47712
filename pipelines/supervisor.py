"""Keeps the pipeline up where the engine does not: Prism holds everything in memory and fails as a whole.

The job runs in a child with a session of its own, so that everything it starts (Prism among it) can be ended with it.
After a crash of either the whole group is ended and a new child goes on from the committed offsets.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.io.trail import FOLDER, Isolation, read_step
from schemas.errors import EXIT_CODES, ConfigError, LeaseError, ModelError, PipelineError, TooManyFailed

log = logging.getLogger(__name__)

#: A child that ends like this would end like this again.
FINAL_CODES = frozenset({2, *(EXIT_CODES[family] for family in (ConfigError, LeaseError, ModelError, TooManyFailed))})
_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class RestartPolicy:
    """When to start again: after a pause that doubles with each crash in a row, and not for ever. Pure.

    A child that lived for `healthy_s` starts the count anew; `max_crashes` in a row are a crash loop.
    """

    first_pause_s: float = 0.5
    max_pause_s: float = 10.0
    healthy_s: float = 15.0
    max_crashes: int = 8
    crashes: int = field(default=0, init=False)

    def after_crash(self, lived_s: float) -> float | None:
        """Seconds to wait before the next start; None: give up."""
        self.crashes = 1 if lived_s >= self.healthy_s else self.crashes + 1
        if self.crashes >= self.max_crashes:
            return None
        return float(min(self.max_pause_s, self.first_pause_s * 2 ** (self.crashes - 1)))

    def go_on(self) -> float:
        """What made it crash is out of the way: the count starts anew. Seconds to wait before the next start."""
        self.crashes = 0
        return self.first_pause_s


class Supervisor:
    """Starts `command` again and again until it ends well, ends for good, or a signal says so."""

    def __init__(
        self,
        command: Sequence[str],
        policy: RestartPolicy,
        stop_timeout_s: float = 30.0,
        watch: Callable[[bool, int, int], None] = lambda up, restarts, crashes: None,
        trail: Path | None = None,
    ) -> None:
        """`watch` is told whether the child is up, how often it was started again, and how many crashes in a row.

        `trail`: folder in which the child notes what it is at; see pipelines/io/trail.py.
        """
        self._command, self._policy, self._stop_timeout_s = list(command), policy, stop_timeout_s
        self._watch, self._restarts = watch, 0
        self._trail, self._isolation = trail, Isolation()
        self._child: subprocess.Popen[bytes] | None = None
        # A plain flag: an Event that a signal handler sets can wait for itself, when the signal comes inside of wait().
        self._stopping = False

    def run(self) -> int:
        """Exit code for this process. Raises PipelineError: a crash loop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        while True:
            started_s = time.monotonic()
            self._watch(True, self._restarts, self._policy.crashes)
            code = self._run_child()
            self._watch(False, self._restarts, self._policy.crashes)
            if code == 0 or self._stopping or code in FINAL_CODES:
                return code if code >= 0 else 128 - code
            pause_s = self._policy.after_crash(time.monotonic() - started_s)
            if self._isolate(code):
                pause_s = self._policy.go_on()
            if pause_s is None:
                raise PipelineError(
                    "the pipeline keeps failing and is not started again",
                    crashes_in_a_row=self._policy.crashes,
                    last_exit=_describe(code),
                    fix="the log above names the cause; `python -m pipelines job …` runs it once without supervision",
                )
            log.warning("the pipeline ended (%s); starting again in %.1f s", _describe(code), pause_s)
            self._watch(False, self._restarts, self._policy.crashes)
            if not self._pause(pause_s):
                return 0
            self._restarts += 1

    def _isolate(self, code: int) -> bool:
        """See what the child was at when it died; whether a record that kills is out of the way now.

        A child that ended with a reason of its own, such as a broker that is away, has not died of a record.
        """
        if self._trail is None or not (code < 0 or code >= 128 or code == EXIT_CODES[PipelineError]):
            return False
        known = len(self._isolation.kills)
        if sentence := self._isolation.after_death(read_step(self._trail)):
            log.warning("%s", sentence)
        self._isolation.write(self._trail)
        return len(self._isolation.kills) > known

    def _pause(self, seconds: float) -> bool:
        """Wait. False: a signal said to stop meanwhile."""
        end_s = time.monotonic() + seconds
        while not self._stopping and (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(0.1, left_s))  # noqa: TID251  # a shell: it waits
        return not self._stopping

    def _run_child(self) -> int:
        child = subprocess.Popen(self._command, start_new_session=True, preexec_fn=_die_with_parent())
        self._child = child
        try:
            if self._stopping:
                child.send_signal(signal.SIGTERM)
            while (code := self._poll(child)) is None and not self._stopping:
                continue
            deadline_s = time.monotonic() + self._stop_timeout_s
            while code is None and time.monotonic() < deadline_s:
                code = self._poll(child)
            if code is None:
                log.warning("the pipeline did not stop within %.0f s and is killed", self._stop_timeout_s)
            return -signal.SIGKILL if code is None else code
        finally:
            self._child = None
            _end_group(child)

    @staticmethod
    def _poll(child: subprocess.Popen[bytes]) -> int | None:
        try:
            return child.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            return None

    def _on_signal(self, number: int, _frame: object) -> None:
        self._stopping = True
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)


def supervise(argv: Sequence[str]) -> int:
    """Run `python -m pipelines job` with these arguments under supervision; the exit code."""
    command = [sys.executable, "-m", "pipelines", "job", *argv]
    os.environ["TIDEGATE_SUPERVISED"] = "run"  # what the user called it, for the sentences of the job
    given = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    given.add_argument("--supervisor_metrics_port", type=int, default=None)
    given.add_argument("--metrics_host", default="127.0.0.1")
    ours = given.parse_known_args(list(argv))[0]  # the job checks them again, with all of Beam's
    with tempfile.TemporaryDirectory(prefix="tidegate-trail-") as folder:
        os.environ[FOLDER] = folder
        if ours.supervisor_metrics_port is None:
            return Supervisor(command, RestartPolicy(), trail=Path(folder)).run()
        from pipelines.io.probe import SupervisorProbe

        probe = SupervisorProbe(ours.metrics_host, ours.supervisor_metrics_port)
        try:
            return Supervisor(command, RestartPolicy(), watch=probe.tell, trail=Path(folder)).run()
        finally:
            probe.close()


def _die_with_parent() -> Callable[[], None]:
    """For the child: SIGTERM when this process is gone, so that kill -9 of the supervisor leaves no orphan."""
    libc = ctypes.CDLL(None, use_errno=True)

    def arm() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return arm


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """End whatever is left of the child's session, Prism included."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _describe(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
