"""Named places at which a test can kill a process: `reach("spool.append.written")`.

With TIDEGATE_FAILPOINT=name:n in the environment of a process, that process dies the n-th time (1 is the first) it
reaches the place of that name, at once and without any clean-up, as after kill -9. Unset, which is every process that
is no test, a call compares with None and returns.
"""

from __future__ import annotations

import os

from schemas.errors import ConfigError

#: What the environment variable is called.
VARIABLE = "TIDEGATE_FAILPOINT"
#: The exit code that a shell shows for a process that was killed by SIGKILL.
KILLED = 137

_armed: str | None = None
_left = 0


def parse(value: str) -> tuple[str, int]:
    """Name and count of `name:n`. Raises ConfigError.

    >>> parse("spool.append.written:3")
    ('spool.append.written', 3)
    """
    name, _, count = value.rpartition(":")
    if not name or not (count.isascii() and count.isdigit()) or int(count) < 1:
        raise ConfigError(f"not a failpoint: {value!r}", fix="write it name:n, n counted from 1", variable=VARIABLE)
    return name, int(count)


def arm(value: str | None) -> None:
    """Count from now on for `name:n`; None or empty: switch off. Raises ConfigError."""
    global _armed, _left
    _armed, _left = parse(value) if value else (None, 0)


def reach(name: str) -> None:
    """The process has come to the place of this name; it does not come further if this is where it shall die."""
    global _left
    if name != _armed:
        return
    _left -= 1
    if _left == 0:
        os._exit(KILLED)


arm(os.environ.get(VARIABLE))
