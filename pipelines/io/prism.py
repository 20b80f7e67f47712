"""Driving a job on Prism: the options it needs, watching it, and stopping it in good order.

Prism keeps everything in memory and fails as a whole; durability is the commit ledger and a restart (see flow.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from apache_beam.runners.runner import PipelineState

from pipelines.io import flow as flows
from pipelines.io.sink import close_producers
from schemas.errors import PipelineError

#: Seconds; Beam's default of 300 is a deadline on the job's streams and ends a healthy job after five minutes.
JOB_SERVER_TIMEOUT_S = 10 * 365 * 24 * 3600
WATCH_EVERY_S = 0.5


def prism_options(prism_location: str = "") -> list[str]:
    """Command-line options with which a streaming job of ours runs well on Prism."""
    options = [
        "--runner=PrismRunner",
        "--environment_type=LOOPBACK",
        "--streaming",
        "--experiments=prism_disable_sdf_split",  # a parked source gains nothing from splits, and one crashed a job
        f"--job_server_timeout={JOB_SERVER_TIMEOUT_S}",
    ]
    return [*options, f"--prism_location={prism_location}"] if prism_location else options


def counters(result: Any) -> dict[str, int]:
    """Counters of the running job, by `namespace.name`."""
    result._metrics = None  # Beam caches the first answer
    found = result.metrics().query()["counters"]
    out: dict[str, int] = {}
    for m in found:
        name = f"{m.key.metric.namespace}.{m.key.metric.name}"
        out[name] = out.get(name, 0) + int(m.result)
    return out


def watch(
    result: Any,
    flow: str,
    stop: threading.Event,
    stop_timeout_s: float = 10.0,
    on_tick: Callable[[], None] | None = None,
) -> bool:
    """Wait until the job ends by itself or `stop` is set, then end source, ledger and job in that order.

    Returns whether everything handed out was answered for and committed.
    Raises PipelineError: the job failed, or was ended by somebody else.
    """
    try:
        while not stop.wait(WATCH_EVERY_S):
            state = result.state
            if state in (PipelineState.FAILED, PipelineState.CANCELLED, PipelineState.DONE):
                raise PipelineError(f"the job ended by itself, in state {state}", fix="see the log above for the cause")
            if on_tick is not None:
                on_tick()
        clean = flows.stop(flow, stop_timeout_s)
        _cancel(result)
    except BaseException:
        flows.abandon(flow)
        raise
    finally:
        close_producers()
    return clean


def _cancel(result: Any) -> None:
    result.cancel()
    deadline_s = time.monotonic() + 5.0
    while result.state not in (PipelineState.CANCELLED, PipelineState.FAILED) and time.monotonic() < deadline_s:
        time.sleep(0.02)
