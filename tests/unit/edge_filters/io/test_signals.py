from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from edge_filters.io.signals import SignalledEvent


@pytest.fixture
def event() -> Iterator[SignalledEvent]:
    """An event that SIGUSR1 sets."""
    event = SignalledEvent()
    before = signal.signal(signal.SIGUSR1, lambda *_: event.set())
    yield event
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_that_comes_while_the_thread_waits_ends_the_wait(event: SignalledEvent) -> None:
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    assert event.wait(30.0)
    timer.join()


def test_waiting_ends_at_its_time_without_a_signal() -> None:
    begun_s = time.monotonic()
    assert not SignalledEvent().wait(0.05)
    assert time.monotonic() - begun_s >= 0.05


def test_waiting_holds_no_lock_that_setting_needs() -> None:
    """What deadlocks a plain Event: `set` from inside of `wait`, in the same thread."""

    class SetsItself(SignalledEvent):
        def is_set(self) -> bool:
            if not super().is_set():
                self.set()  # as a handler would, at any point of wait
            return super().is_set()

    assert SetsItself().wait(1.0)
