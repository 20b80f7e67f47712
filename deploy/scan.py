"""`python scan.py MEMORY CPU_S <recording`: walk a stranger's recording, within limits; the process that may die of it.

Before each block it writes where the block begins and how many records lie before it to stdout, two int64, so that
whoever waits for it knows where it died. It is a program of its own because limits can be set for a process only, and
because what crashes takes the process with it.
"""

from __future__ import annotations

import os
import resource
import struct
import sys

PLACE = struct.Struct("<qq")


def main(memory_bytes: int, cpu_s: int) -> None:
    """Scan stdin. `memory_bytes` is what it may take in addition to what a Python with the codec has."""
    from schemas.container import Block, scan

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    for which, most in (
        (resource.RLIMIT_AS, used + memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, 0),  # it has nothing to write to a disk, and dumps no core
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(which)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))

    def begins(block: Block) -> None:
        os.write(1, PLACE.pack(*block))

    scan(sys.stdin.buffer, begins)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
