"""What a person sees while the demo runs: a table that changes in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from deploy.demo.observer import Seen
from schemas.records import Outcome, Verdict

LINE_EVERY_S = 5.0


class View(Protocol):
    """Where the demo tells what happens."""

    def say(self, line: str) -> None:
        """One step, as a sentence."""
        ...

    def show(self, seen: Seen, elapsed_s: float, total_s: float) -> None:
        """How things stand. The caller holds the observer's lock."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def view(devices: Sequence[str]) -> View:
    """The view that fits where stderr goes."""
    return _TableView(devices) if sys.stderr.isatty() else _LineView()


class _LineView:
    """A line per step, and one about the stream every few seconds."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._next_s = 0.0

    def say(self, line: str) -> None:
        """See View."""
        print(f"[{time.monotonic() - self._started_s:5.1f} s] {line}", file=sys.stderr, flush=True)

    def show(self, seen: Seen, elapsed_s: float, total_s: float) -> None:
        """See View."""
        if elapsed_s < self._next_s:
            return
        self._next_s = elapsed_s + LINE_EVERY_S
        sensed = sum(s.counters.get("readings_sensed", 0) for s in seen.status.values())
        applied = sum(a.accepted for a in seen.applied.values())
        self.say(
            f"{elapsed_s:3.0f} of {total_s:.0f} s: {sensed:,} readings, {len(seen.events)} events, "
            f"{len(seen.decisions)} decided, {applied} feedback applied"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class _TableView:
    """Steps scroll by above a table of the devices."""

    def __init__(self, devices: Sequence[str]) -> None:
        self._devices = devices
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._started_s = time.monotonic()

    def say(self, line: str) -> None:
        """See View."""
        self._console.print(f"[dim]{time.monotonic() - self._started_s:5.1f} s[/]  {line}", highlight=False)

    def show(self, seen: Seen, elapsed_s: float, total_s: float) -> None:
        """See View."""
        table = Table(title=f"streaming, {elapsed_s:.0f} of {total_s:.0f} s", title_justify="left")
        table.add_column("device")
        for heading in (
            "readings",
            "events",
            "decided",
            "anomalies",
            "overridden",
            "escalate at",
            "thresholds",
            "model",
        ):
            table.add_column(heading, justify="right")
        for device in self._devices:
            table.add_row(device, *_row(seen, device))
        self._live.update(table)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


def _row(seen: Seen, device: str) -> list[str]:
    status = seen.status.get(device)
    decisions = [d for key, d in seen.decisions.items() if key[0] == device]
    anomalies = sum(d.outcome is Outcome.ANOMALY for d in decisions)
    overridden = sum(d.verdict is Verdict.OVERRIDDEN for d in decisions)
    events = sum(key[0] == device for key in seen.events)
    counts = [str(events), str(len(decisions)), str(anomalies), str(overridden)]
    if status is None:
        return ["starting", *counts, "", "", ""]
    return [
        f"{status.counters.get('readings_sensed', 0):,}",
        *counts,
        f"{status.escalate_at:.3g}",
        status.thresholds_source.value.lower(),
        f"v{status.model_version}",
    ]
