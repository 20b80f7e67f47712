"""SIGINT and SIGTERM as a wish to end in good order."""

from __future__ import annotations

import signal
from types import TracebackType
from typing import Any, Self


class Stopped:
    """Called, it says whether a signal came. A second signal does what the signal usually does."""

    def __init__(self) -> None:
        self._came = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __call__(self) -> bool:
        """Whether to end."""
        return self._came

    def _note(self, number: int, frame: Any) -> None:
        self._came = True
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
