"""The cluster of `tidegate up --engine flink`: left behind in the background, found and ended from any terminal."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from deploy.flink.cluster import FlinkCluster
from schemas.errors import ConfigError

_FILE = "flink.json"
#: How long a process may take to end in order.
END_S = 15.0


@dataclass(frozen=True)
class FlinkState:
    """A cluster in the background.

    `processes`: name -> [pid, when it started, seconds since 1970]; `options`: with which the pipeline is run on it.
    """

    url: str
    folder: str
    options: list[str]
    processes: dict[str, list[float]] = field(default_factory=dict)

    def alive(self) -> dict[str, psutil.Process]:
        """Those of its processes that live: a pid is used again, pid and start together are not."""
        found = {}
        for name, (pid, created_s) in self.processes.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(pid))
                if abs(process.create_time() - created_s) < 1.0 and process.status() != psutil.STATUS_ZOMBIE:
                    found[name] = process
        return found

    def missing(self) -> list[str]:
        """Names of those that do not live."""
        return sorted(set(self.processes) - set(self.alive()))


def up(home: Path, *, taskmanagers: int = 2, timeout_s: float = 120.0) -> tuple[FlinkState, bool]:
    """Start the cluster of `home` in the background, unless it runs; the rest of one that half died is ended first.

    Returns: its state, and whether it was started now.
    Raises: MissingToolError, UnavailableError: as FlinkCluster.start.
    """
    last = current(home)
    if last is not None and not last.missing():
        return last, False
    down(home)
    cluster = FlinkCluster(home / "flink", taskmanagers=taskmanagers, leashed=False)
    cluster.start(timeout_s=timeout_s)
    state = FlinkState(
        url=cluster.url,
        folder=str(cluster.folder),
        options=cluster.options(),
        processes={m.name: [m.pid, psutil.Process(m.pid).create_time()] for m in cluster.members},
    )
    _write(home, state)
    for member in cluster.members:
        member.release()
    return state, True


def current(home: Path) -> FlinkState | None:
    """State of the cluster of `home` if anything of it lives. Raises ConfigError: the state cannot be read."""
    path = home / _FILE
    try:
        told = json.loads(path.read_text())
        state = FlinkState(
            str(told["url"]), str(told["folder"]), [str(o) for o in told["options"]], dict(told["processes"])
        )
        return state if state.alive() else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as cause:
        raise ConfigError(
            f"the state of the local Flink cluster cannot be read: {cause}",
            file=str(path),
            fix="remove the file; processes that still run are found with `pgrep -f org.apache.flink`",
        ) from cause


def down(home: Path, *, wipe: bool = False) -> FlinkState | None:
    """End the cluster of `home` in order, by force what is left. Returns: the state of what was ended."""
    ended = current(home)
    if ended is not None:
        family: list[psutil.Process] = []
        for process in reversed(ended.alive().values()):
            with contextlib.suppress(psutil.NoSuchProcess):
                family += [process, *process.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        for left in psutil.wait_procs(family, END_S)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
    (home / _FILE).unlink(missing_ok=True)
    if wipe:
        shutil.rmtree(home / "flink", ignore_errors=True)
    return ended


def _write(home: Path, state: FlinkState) -> None:
    new = home / f"{_FILE}.new"
    new.write_text(json.dumps(asdict(state), indent=2) + "\n")
    os.replace(new, home / _FILE)
