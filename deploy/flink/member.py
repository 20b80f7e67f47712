"""One process of a cluster: started on a leash, stopped in order or as by a power cut, and what its log says."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deploy import leash

#: For Linux the parent is the thread that forked; this one lives as long as the process. See deploy/broker.py.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flink-spawner")


class Member:
    """A process that may be started again after it ended; its output goes into one file, older output first.

    Args:
        name: what to call it in sentences, and its log.
        command: program and arguments.
        log: file for all that it prints.
        environ: added to the environment.
        leashed: it dies with this process, whatever kills it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        environ: Mapping[str, str] | None = None,
        *,
        leashed: bool = True,
    ) -> None:
        self.name, self.log = name, log
        self._command, self._environ, self._leashed = list(command), dict(environ or {}), leashed
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id. Raises ValueError: it was never started."""
        if self._process is None:
            raise ValueError(f"{self.name} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it without waiting; does nothing when it runs."""
        if self.running:
            return
        command = self._command
        if self._leashed:
            command = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *command]
        with self.log.open("ab") as out:
            # A session of its own: Ctrl-C reaches us, and its children are ended with it as one group.
            self._process = _SPAWNER.submit(
                subprocess.Popen,
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environ},
                start_new_session=True,
            ).result()

    def stop(self, timeout_s: float = 10.0) -> None:
        """SIGTERM to it and its children; kill -9 for what is left after `timeout_s`."""
        self._end(signal.SIGTERM, timeout_s)

    def kill(self) -> None:
        """Kill -9, for it and its children."""
        self._end(signal.SIGKILL, 10.0)

    def release(self) -> None:
        """Let go of it: it lives on in the background and is no longer ours to end."""
        if self._process is not None:
            self._process.returncode = 0  # else Popen warns of a child left behind, which is the point
        self._process = None

    def said(self, lines: int = 5) -> str:
        """The end of its log, errors first where there are any, for the sentence of a failed start."""
        if not self.log.exists():
            return "it printed nothing"
        printed = self.log.read_text(errors="replace").splitlines()
        wrong = [line for line in printed if "ERROR" in line or "Exception" in line or "Error:" in line]
        return " | ".join((wrong or printed)[-lines:]) or "it printed nothing"

    def _end(self, how: signal.Signals, timeout_s: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # Also when it is dead already: what it started may live. Its number is not given away before wait().
        group = process.pid
        if process.returncode is None:
            self._signal(group, how)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._signal(group, signal.SIGKILL)

    @staticmethod
    def _signal(group: int, how: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, how)
