"""The local stack in the background: `up` leaves a broker behind, `down` ends it, from whatever terminal."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from deploy import state
from deploy.broker import Broker
from deploy.state import StackState
from schemas.errors import UnavailableError


def up(home: Path, *, port: int | None = None, timeout_s: float = 60.0) -> tuple[StackState, bool]:
    """Start the broker of `home` in the background, unless it runs.

    Returns: its state, and whether it was started now.
    Raises: MissingToolError, UnavailableError: as Broker.start.
    """
    with _lock(home):
        running = current(home)
        if running is not None:
            return running, False
        broker = Broker(home / "kafka", port=port, leashed=False)
        broker.launch()
        assert broker.process is not None
        # Written before it is ready: whatever happens to us now, `down` finds the process.
        now = StackState(
            pid=broker.process.pid,
            created_s=psutil.Process(broker.process.pid).create_time(),
            bootstrap_servers=broker.bootstrap_servers,
            folder=str(broker.folder),
            log=str(broker.log),
        )
        state.write(home, now)
        try:
            broker.wait_ready(timeout_s=timeout_s)
        except BaseException:
            broker.kill()
            state.remove(home)
            raise
        broker.release()
        return now, True


def down(home: Path, *, wipe: bool = False, timeout_s: float = 30.0) -> StackState | None:
    """End the broker of `home` in order, by force after `timeout_s`; `wipe` removes its data as well.

    Returns: the state of what was ended, None when nothing ran (a stale state is removed).
    Raises: UnavailableError: it cannot be ended.
    """
    if not home.exists():
        return None
    with _lock(home):
        ended = current(home)
        process = ended.process() if ended else None
        if ended is not None and process is not None:
            try:
                process.terminate()
                if not _wait(ended, timeout_s):
                    process.kill()
                    _wait(ended, 10.0)
            except psutil.NoSuchProcess:
                pass
            except psutil.AccessDenied as cause:
                raise UnavailableError("the broker belongs to another user", pid=ended.pid) from cause
        state.remove(home)
        if wipe:
            shutil.rmtree(home / "kafka", ignore_errors=True)
        return ended


def current(home: Path) -> StackState | None:
    """State of the broker of `home` if its process lives, else None. Raises ConfigError: the state cannot be read."""
    last = state.read(home)
    return last if last is not None and last.process() is not None else None


def _wait(ended: StackState, timeout_s: float) -> bool:
    """Whether the process is gone within the time. It is not our child, so the system tells us nothing: look."""
    deadline = time.monotonic() + timeout_s
    while ended.process() is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextlib.contextmanager
def _lock(home: Path) -> Iterator[None]:
    """One up or down of a folder at a time; a second one waits. The system frees the lock of a process that dies."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "stack.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
