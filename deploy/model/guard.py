"""Bounds on what somebody's model may use while it is looked at: onnxruntime itself has none.

A file of a few hundred bytes can ask for all memory, or never end. Neither can be undone from within a call of the
runtime, so memory is bounded for the process, and a process whose time is over ends with a sentence.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import EXIT_CODES, ModelError

#: Memory that a model may add to what the process has already.
MEMORY_BYTES = 4 * 1024**3
#: Time for loading a model and trying it on a few windows, seconds.
TIME_S = 60.0


@contextmanager
def bounded(memory_bytes: int = MEMORY_BYTES) -> Iterator[None]:
    """Within, allocations beyond the bound fail, and onnxruntime says so; afterwards the limit is what it was."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    want = used + memory_bytes
    if soft == resource.RLIM_INFINITY or want < soft:
        resource.setrlimit(resource.RLIMIT_AS, (want, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def in_time(what: str) -> Iterator[None]:
    """Within, a call that does not come back ends the process, with the exit code of a model that cannot run."""
    seconds = TIME_S

    def end() -> None:
        sys.stdout.flush()
        error = ModelError(
            "the model did not answer in time",
            file=what,
            waited_s=seconds,
            fix="it may hold a loop without an end: do not run it, or export it again",
        )
        print(f"tidegate: {error}", file=sys.stderr, flush=True)
        os._exit(EXIT_CODES[ModelError])

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
