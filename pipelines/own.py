"""Run a pipeline of one's own made of our transforms: submitted, watched, stopped in good order on SIGTERM.

It does for any graph what `python -m pipelines job` does for ours. Nothing starts it again after a crash: leave that to
whatever runs it, systemd or Kubernetes. What the sinks had not answered for is read again then.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.runners.runner import PipelineState

from pipelines.io import flow as flows
from pipelines.io.sink import close_producers
from pipelines.io.source import ReadFromKafka
from pipelines.job import Stop, prepare
from pipelines.options import TidegateOptions, check
from schemas.errors import PipelineError

log = logging.getLogger(__name__)

#: Puts a graph into a pipeline and returns the source it reads from, whose offsets are committed at the end.
Build = Callable[[beam.Pipeline, TidegateOptions], ReadFromKafka]

_POLL_S, _ASK_EVERY_S, _STOP_TIMEOUT_S = 0.2, 1.0, 20.0


def run_own(build: Build, argv: Sequence[str]) -> None:
    """Run until SIGTERM or SIGINT; then nothing more is read, and what is in flight is answered and committed.

    Args:
        build: makes the graph.
        argv: options of Beam and of ours, as `python -m pipelines run --help` lists them.

    Raises:
        ConfigError: an option is wrong. PipelineError: the runner gave up.
    """
    check(argv)
    options = prepare(argv)
    stop = Stop()

    def listen() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())

    listen()
    pipeline = beam.Pipeline(options=options)
    flow = build(pipeline, options.view_as(TidegateOptions)).flow
    result = pipeline.run()
    listen()  # again: Beam's job server took SIGINT for itself
    log.info("the pipeline runs on %s", options.view_as(StandardOptions).runner)
    ask_at_s = 0.0
    try:
        while not stop.is_set():
            time.sleep(_POLL_S)  # noqa: TID251  # as in job.py
            if time.monotonic() >= ask_at_s:
                ask_at_s = time.monotonic() + _ASK_EVERY_S
                if PipelineState.is_terminal(result.state):
                    raise PipelineError("the runner ended the pipeline", state=result.state, fix="its log tells why")
    except BaseException:
        flows.abandon(flow)
        raise
    clean = flows.stop(flow, _STOP_TIMEOUT_S)
    result.cancel()
    close_producers()
    log.info("stopped%s", "" if clean else "; some records were not answered in time and will be read again")
