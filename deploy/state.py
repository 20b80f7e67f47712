"""What `tidegate up` writes down, so that another terminal finds the broker: pid, address, folders."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from schemas.errors import ConfigError

_FILE = "stack.json"


@dataclass(frozen=True)
class StackState:
    """A broker in the background. `created_s` is when process `pid` started, seconds since 1970 by the system."""

    pid: int
    created_s: float
    bootstrap_servers: str
    folder: str
    log: str

    def process(self) -> psutil.Process | None:
        """The process, if it still is the one that was started: a pid is used again, pid and start together are not."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created_s) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def read(home: Path) -> StackState | None:
    """State left by the last `up`, which may be stale; None when there is none.

    Raises: ConfigError: the file is not one of ours.
    """
    path = home / _FILE
    try:
        return StackState(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as cause:
        raise ConfigError(
            f"the state of the local stack cannot be read: {cause}",
            file=str(path),
            fix="remove the file; a broker that still runs is found with `pgrep -f kafka.Kafka`",
        ) from cause


def write(home: Path, state: StackState) -> None:
    """Replace the state in one step."""
    new = home / f"{_FILE}.new"
    new.write_text(json.dumps(asdict(state), indent=2) + "\n")
    os.replace(new, home / _FILE)


def remove(home: Path) -> None:
    """Forget the state."""
    (home / _FILE).unlink(missing_ok=True)
