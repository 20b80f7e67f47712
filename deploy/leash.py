"""`python leash.py PARENT_PID COMMAND…` becomes COMMAND, which dies when the process PARENT_PID dies.

A child in its own session outlives its owner's terminal; on this leash it does not outlive the owner, even after a
kill -9. Standard library only.
It is a program of its own because the request has to be made between fork and exec, where a process with threads
(Beam's gRPC) must not run Python code. Linux only; elsewhere the command runs without a leash.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Set the leash, then become the command; never returns."""
    parent, command = int(argv[0]), argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the owner died before the leash was on
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606  no shell wanted


if __name__ == "__main__":
    main(sys.argv[1:])
