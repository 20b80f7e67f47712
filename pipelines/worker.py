"""`python -m pipelines.worker CONTROL ID PARENT`: one Python worker of an engine, as pipelines.workers starts it."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def main(argv: Sequence[str]) -> int:
    """Work until the engine hangs up."""
    control, worker, parent = argv[0], argv[1], int(argv[2])
    if sys.platform == "linux":  # without its pool nobody could end it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            return 1
    from pipelines.cli import log_to_stderr

    log_to_stderr()  # before Beam is imported, which would set logging up in its own way
    from apache_beam.runners.worker.sdk_worker import SdkHarness

    from pipelines.job import spare_the_collector

    spare_the_collector()
    logging.getLogger(__name__).info("works for %s", control)
    SdkHarness(control, worker_id=worker).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
