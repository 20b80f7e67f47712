"""A thread that asks the broker where the topics end, and the server that answers scrapes from what is known.

The thread asks every few seconds, however often somebody scrapes, and a broker that is away keeps nobody waiting.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError

from pipelines.io import flow as flows
from pipelines.io.http import HttpServer
from pipelines.io.models import Shelves
from pipelines.io.partition import Partition
from pipelines.telemetry import Counters, State, hanging, readiness, readings
from schemas.errors import ConfigError
from schemas.exposition import CONTENT_TYPE, expose
from schemas.metrics import Process, Readings
from schemas.probes import Page, Pages, Readiness, alive

log = logging.getLogger(__name__)

EVERY_S = 2.0
REQUEST_MS = 5_000
#: How long a port that is in use is waited for: longer than a worker drains.
PATIENCE_S = 25.0


class Probe:
    """Metrics and probes of a live pipeline; the job says what it knows by `runs` and `turned`."""

    def __init__(self, host: str, port: int, job: str, flow: str) -> None:
        """Listen and start to ask. `flow`: of the source in this process; empty where workers are elsewhere.

        Raises ConfigError: the address cannot be had.
        """
        self.state = State(turned_s=time.monotonic())
        self._flow = flow
        self._counters: Callable[[], Counters] | None = None
        self._shelf: object = None
        self._asker: Any = None
        self._stop = threading.Event()
        state, version = self.state, product_version()
        self._server = listen(
            host,
            port,
            {
                "/metrics": lambda: metrics_page(readings(state, job, version, time.time_ns() // 1000)),
                "/livez": lambda: alive(hanging(state, time.monotonic())),
                "/readyz": lambda: readiness(state).page(),
            },
        )
        log.info("metrics and probes are on http://%s:%d", self._server.host, self._server.port)
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
        self._thread.start()

    def runs(self, counters: Callable[[], Counters], shelf: object) -> None:
        """The runner has the job. `counters` asks it; `shelf` holds the models, None where it is not here."""
        self._counters, self._shelf = counters, shelf
        self.turned()
        self.state.runner = ""

    def turned(self) -> None:
        """The main loop turns."""
        self.state.turned_s = time.monotonic()

    def close(self) -> None:
        """Stop both."""
        self._stop.set()
        self._server.close()
        self._thread.join(2.0)

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S if self.state.counters else EVERY_S / 4):
            try:
                self._ask()
            except Exception as failed:  # whoever looks must not disturb what he looks at
                log.debug("the state of the pipeline could not be read", exc_info=failed)
        if self._asker is not None:
            self._asker.close(autocommit=False, timeout_ms=1_000)

    def _ask(self) -> None:
        state = self.state
        if self._counters is not None:
            state.counters = self._counters()
        if isinstance(self._shelf, Shelves):
            state.models = self._shelf.in_force
        found = flows.find(self._flow)
        if found is None or found.ledger is None:
            state.broker = "the source has not started yet" if self._flow else ""
            return
        state.standing = found.ledger.standing()
        state.in_flight = found.ledger.in_flight()
        state.open_windows = sum(found.ledger.open_windows().values())
        try:
            if self._asker is None:
                self._asker = found.config.feed.consumer(isolation_level="read_uncommitted", group_id=None)
            tps = {TopicPartition(*p): p for p in state.standing}
            ends = self._asker.end_offsets(list(tps), timeout_ms=REQUEST_MS) if tps else {}
            state.ends = {Partition(*tps[tp]): int(end) for tp, end in ends.items()}
            state.broker = "" if tps else "no partition has been found yet"
        except (KafkaError, OSError) as away:
            state.broker = f"the broker does not answer: {type(away).__name__}"


class SupervisorProbe:
    """The same for the supervisor, whose state is three numbers."""

    def __init__(self, host: str, port: int) -> None:
        """Listen. Raises ConfigError: the address cannot be had."""
        self.restarts = self.crashes = 0
        self.up = False
        self._version = product_version()
        self._server = listen(
            host,
            port,
            {
                "/metrics": lambda: metrics_page(self._readings()),
                "/livez": lambda: alive(""),
                "/readyz": lambda: Readiness({"worker": "" if self.up else "the pipeline's process is down"}).page(),
            },
        )
        log.info("metrics and probes of the supervisor are on http://%s:%d", self._server.host, self._server.port)

    def tell(self, up: bool, restarts: int, crashes: int) -> None:
        """What the supervisor knows."""
        self.up, self.restarts, self.crashes = up, restarts, crashes

    def close(self) -> None:
        """Stop listening."""
        self._server.close()

    def _readings(self) -> Readings:
        out = Readings(Process.SUPERVISOR)
        out.set("tidegate_supervisor_restarts_total", self.restarts)
        out.set("tidegate_supervisor_crashes_in_a_row", self.crashes)
        out.set("tidegate_supervisor_worker_up", float(self.up))
        out.set("tidegate_supervisor_build_info", 1.0, "supervisor", self._version)
        return out


def listen(host: str, port: int, pages: Pages, patience_s: float = PATIENCE_S) -> HttpServer:
    """A server. A port that is taken is waited for: after kill -9 of a supervisor its worker still drains.

    Raises ConfigError: the address cannot be had.
    """
    deadline_s = time.monotonic() + patience_s
    said = False
    while True:
        try:
            return HttpServer(host, port, pages)
        except ConfigError as wrong:
            if wrong.where.get("errno") != errno.EADDRINUSE or time.monotonic() >= deadline_s:
                raise
            if not said:
                log.warning("port %d is in use; waiting up to %.0f s for it", port, patience_s)
            said = True
            time.sleep(0.25)


def metrics_page(found: Readings) -> Page:
    """Page of /metrics."""
    return Page(expose(found), CONTENT_TYPE)


def product_version() -> str:
    """Version of Tidegate; "unknown" where it is used from a tree that is not installed."""
    try:
        return metadata.version("tidegate")
    except metadata.PackageNotFoundError:
        return "unknown"
