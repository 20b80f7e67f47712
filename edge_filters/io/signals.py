"""An event for signal handlers."""

from __future__ import annotations

import threading
import time

_STEP_S = 0.02


class SignalledEvent(threading.Event):
    """An Event that a signal handler may set while the same thread waits for it.

    The handler runs in the thread that waits. In threading.Event that thread may just then hold the lock that `set`
    needs, and would wait for itself for ever; here waiting holds none, and looks again every few milliseconds.
    """

    def wait(self, timeout: float | None = None) -> bool:
        """See threading.Event.wait."""
        end_s = float("inf") if timeout is None else time.monotonic() + timeout
        while not self.is_set() and (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, _STEP_S))
        return self.is_set()
