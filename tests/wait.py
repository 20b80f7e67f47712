"""Waiting for an event with a deadline: how a test waits for another process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, *, within_s: float = 30.0) -> T:
    """The first true value of `condition`. Fails with `what` when there is none `within_s`.

    >>> until(lambda: 3, "a number")
    3
    """
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {within_s:g} s in vain for: {what}"
        time.sleep(0.02)
    return value
