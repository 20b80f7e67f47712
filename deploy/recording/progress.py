"""How far a long command is: a bar where somebody looks on, else a line now and then. To stderr, never to stdout."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

from deploy.output import note

#: Between two lines where no terminal is.
EVERY_S = 10.0


class Progress:
    """Counts units of one task; use it as a context manager."""

    def __init__(self, what: str, total: int | None, unit: str, *, quiet: bool = False) -> None:
        """`total`: None where it is not known."""
        self._what, self._total, self._unit, self._quiet = what, total, unit, quiet
        self.done = 0
        self._bar: Any = None
        self._task: Any = None
        self._started_s = self._said_s = self._drawn_s = time.monotonic()

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(self._unit))
            self._bar = Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=self._total)
        elif not self._quiet:
            note(self._what)
        return self

    def advance(self, count: int) -> None:
        """So many more are done. Cheap: it draws a few times a second at most."""
        self.done += count
        now_s = time.monotonic()
        if now_s - self._drawn_s < 0.1:
            return
        self._drawn_s = now_s
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)
        elif not self._quiet and now_s - self._said_s >= EVERY_S:
            self._said_s = now_s
            note(f"{self._what}: {self.text()}")

    def text(self) -> str:
        """`120,000 of 1,000,000 readings (12 %)`."""
        if not self._total:
            return f"{self.done:,} {self._unit}"
        return f"{self.done:,} of {self._total:,} {self._unit} ({min(1.0, self.done / self._total):.0%})"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)
            self._bar.stop()
