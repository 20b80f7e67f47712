"""One run of the live pipeline: build, submit, watch, stop. On Prism it runs under supervisor.py."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions, PortableOptions, StandardOptions
from apache_beam.runners.runner import PipelineState

from pipelines import limits
from pipelines.graph import BRANCHES, INPUTS, LANES, GraphConfig, Sinks, build
from pipelines.heavy import open_shelf
from pipelines.io import flow as flows
from pipelines.io.chunk import Record
from pipelines.io.models import WatchSettings
from pipelines.io.probe import Probe
from pipelines.io.sink import WriteToKafka, close_producers
from pipelines.io.source import ReadFromKafka
from pipelines.options import TidegateOptions
from schemas import topics
from schemas.codec import decode, is_a, peek_identity
from schemas.errors import DecodeError, PipelineError
from schemas.ids import Identity
from schemas.records import EdgeAggregate

log = logging.getLogger(__name__)

#: How soon a stop is heard, and how often the runner is asked how it is; an answer costs it milliseconds.
POLL_S = 0.2
ASK_EVERY_S = 1.0
REPORT_EVERY_S = 10.0
#: How long a stop waits for what is in flight.
STOP_TIMEOUT_S = 20.0


def event_time(record: Record) -> int:
    """Event time of a record for the watermark, microseconds: the end of an aggregate's window.

    Only aggregates are windowed, so only they move the watermark by what they say; the broker's time stands for the
    rest.
    """
    value = record.value or b""
    if is_a(value, EdgeAggregate):
        with contextlib.suppress(DecodeError):
            return decode(value, EdgeAggregate).window_end
    return record.append_time_ms * 1000


def identity(record: Record) -> Identity | None:
    """Identity for the dedupe."""
    return peek_identity(record.value or b"")


def prepare(argv: Sequence[str]) -> PipelineOptions:
    """Beam options with what Prism needs filled in where the user left it open."""
    options = PipelineOptions(list(argv))
    options.view_as(StandardOptions).streaming = True
    if on_flink(options):
        return _for_flink(argv)
    if (options.view_as(StandardOptions).runner or "").lower().endswith(("prism", "prismrunner")):
        portable = options.view_as(PortableOptions)
        portable.environment_type = portable.environment_type or "LOOPBACK"
        # It is the deadline of every stream to the job server, also of those that live as long as the job.
        portable.job_server_timeout = 10 * 365 * 24 * 3600
        # The source has one restriction and cannot be split; asking it to has crashed workers.
        debug = options.view_as(DebugOptions)
        debug.add_experiment("prism_disable_sdf_split")
    return options


#: What the job asks of Flink where the user says nothing. A bundle must be shorter than the grid of the source, whose
#: watermark moves between bundles only, and the next tick must not fall into the one before.
FLINK_DEFAULTS = {
    "--max_bundle_time_mills": "20",
    "--max_bundle_size": "1000",
    "--checkpointing_interval": "2000",
    "--number_of_execution_retries": "2147483647",
    "--execution_retry_delay": "1000",
}


def on_flink(options: PipelineOptions) -> bool:
    """Whether the job goes to Flink: by Beam's FlinkRunner, or handed to a job server by the PortableRunner."""
    runner = (options.view_as(StandardOptions).runner or "").lower()
    return runner.endswith(("flink", "flinkrunner", "portable", "portablerunner"))


def _for_flink(argv: Sequence[str]) -> PipelineOptions:
    """Options with FLINK_DEFAULTS in them: Beam hears of these only from the job server, and parses them then."""
    given = {word.partition("=")[0] for word in argv}
    filled = [f"{name}={value}" for name, value in FLINK_DEFAULTS.items() if name not in given]
    options = PipelineOptions([*argv, *filled])
    options.view_as(StandardOptions).streaming = True
    # it is the deadline of the streams to the job server, too
    options.view_as(PortableOptions).job_server_timeout = 10 * 365 * 24 * 3600
    return options


def spare_the_collector() -> None:
    """Let the garbage collector look at what a chunk makes, and not at everything that Beam has loaded.

    Half a million objects are there for as long as the process; and the thousand records of a chunk hold no cycles,
    but at Python's threshold of 700 objects they set the collector going several times.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


class Stop:
    """A plain flag: an Event that a signal handler sets can wait for itself, when the signal comes inside of wait()."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        """Ask the job to stop."""
        self._set = True

    def is_set(self) -> bool:
        """Whether it was asked."""
        return self._set


class Job:
    """The live pipeline on some runner."""

    def __init__(self, options: PipelineOptions) -> None:
        ours = options.view_as(TidegateOptions)
        self._flink = on_flink(options)
        self._options = options
        self._asking = threading.Lock()  # the probe's thread asks too
        prefix, servers, client = ours.kafka_topic_prefix, ours.kafka_bootstrap_servers, ours.client()
        window, policy = ours.window(), ours.policy()
        # a runner that keeps offsets in its checkpoints cannot put them into a transaction of ours
        exact = ours.delivery == "exactly-once" and not self._flink
        self._source = ReadFromKafka(
            [topic.named(prefix) for topic in INPUTS],
            servers,
            ours.kafka_group_id,
            # Flink keeps offsets in its checkpoints; Prism forgets everything, so offsets follow the sinks' answers.
            branches=() if self._flink else BRANCHES,
            lanes={} if self._flink else dict.fromkeys(LANES, window.lateness_us / 1e6),
            exact=[topics.EVENTS.named(prefix)] if exact else [],
            event_time=event_time,
            identity=identity,
            memory_topic=topics.SEEN.named(prefix),
            disorder_s=ours.disorder / 1e6,
            idle_s=ours.idle / 1e6,
            grid_s=ours.source_grid / 1e6,
            eager=not self._flink,
            start_deadline_s=ours.kafka_start_deadline / 1e6,
            client=client,
            library=ours.kafka_client_library,
        )
        self._config = GraphConfig(
            models=WatchSettings(servers, prefix, ours.kafka_start_deadline / 1e6, json.dumps(client, sort_keys=True)),
            window=window,
            policy=policy,
            topic_prefix=prefix,
            flow="" if self._flink else self._source.flow,
            spread=self._flink,
            limit=ours.limit(),
        )

        def to(topic: topics.Topic, branch: str | None = None) -> WriteToKafka:
            asked_of = None if self._flink else branch
            return WriteToKafka(
                topic.named(prefix),
                servers,
                branch=asked_of,
                with_positions=exact,
                client=client,
                library=ours.kafka_client_library,
            )

        self._sinks = Sinks(
            decisions=to(topics.DECISIONS, "decisions"),
            fleet=to(topics.FLEET),
            thresholds=to(topics.THRESHOLDS),
            failed=to(topics.DEAD_LETTERS, "failed"),
        )

    def graph(self) -> beam.Pipeline:
        """The pipeline, not yet run."""
        pipeline = beam.Pipeline(options=self._options)
        build(pipeline, self._source, self._sinks, self._config)
        return pipeline

    def run(self, stop: Stop, submitted: Callable[[], None] = lambda: None) -> None:
        """Run until `stop` is set, then end in good order. `submitted` is called once the runner has the job.

        Raises PipelineError: the runner gave up. UnavailableError: the broker or the topics are not there.
        """
        ours = self._options.view_as(TidegateOptions)
        probe = None
        if ours.metrics_port is not None:
            flow = "" if self._flink else self._source.flow
            probe = Probe(ours.metrics_host, ours.metrics_port, ours.kafka_group_id, flow)
        try:
            self._run(stop, submitted, probe)
        finally:
            if probe is not None:
                probe.close()

    def _run(self, stop: Stop, submitted: Callable[[], None], probe: Probe | None) -> None:
        # here a broker that is away is a sentence; inside of a worker it would be a traceback
        shelf = None if self._flink else open_shelf(self._config.models)
        limits.take_stopped()  # of an earlier job of this process
        result = self.graph().run()
        submitted()
        spare_the_collector()
        if probe is not None:
            probe.runs(lambda: self._counters(result), shelf)
        log.info("the pipeline runs on %s", self._options.view_as(StandardOptions).runner)
        report_at_s = time.monotonic() + REPORT_EVERY_S
        ask_at_s = 0.0
        try:
            while not stop.is_set():
                time.sleep(POLL_S)
                if why := flows.failure(self._source.flow):
                    raise why
                if probe is not None:
                    probe.turned()
                if time.monotonic() < ask_at_s:
                    continue
                ask_at_s = time.monotonic() + ASK_EVERY_S
                state = result.state
                if self._flink and state == PipelineState.DONE:
                    log.info("the job was stopped in the cluster; a savepoint goes on with --savepoint_path")
                    return
                if PipelineState.is_terminal(state):
                    if why := limits.take_stopped():
                        raise why
                    raise PipelineError(
                        "the runner ended the pipeline",
                        state=state,
                        fix="its log above names the cause; what was not answered is read again at the next start",
                    )
                # a job server on Flink knows no counters of a job that runs: zeros would be a lie
                if not self._flink and time.monotonic() >= report_at_s:
                    report_at_s += REPORT_EVERY_S
                    log.info("progress: %s", self._progress(result))
        except BaseException:
            flows.abandon(self._source.flow)
            raise
        if self._flink and self._options.view_as(PortableOptions).environment_type != "LOOPBACK":
            # To cancel it would throw its offsets away: only a savepoint keeps them, and only the cluster can write it.
            log.info("the job runs on in the cluster; `tidegate flink stop` ends it with a savepoint")
            return
        clean = flows.stop(self._source.flow, STOP_TIMEOUT_S)
        result.cancel()
        close_producers()
        log.info("stopped%s", "" if clean else "; some records were not answered in time and will be read again")

    def _counters(self, result: Any) -> dict[tuple[str, str], int]:
        """The runner's counters by namespace and name."""
        with self._asking:
            # A portable result keeps the first answer it got for ever; dropping it is the only way to a newer one.
            result._metrics = None
            counters = result.metrics().query()["counters"]
        totals: dict[tuple[str, str], int] = defaultdict(int)
        for counter in counters:
            totals[counter.key.metric.namespace, counter.key.metric.name] += counter.committed or 0
        return totals

    def _progress(self, result: Any) -> str:
        totals = {name: count for (_, name), count in self._counters(result).items()}
        names = (
            "records",
            "duplicates",
            "decided",
            "overridden",
            "windows",
            "corrections",
            "threshold_updates",
            "failed",
        )
        return ", ".join(f"{name} {totals.get(name, 0)}" for name in names)


def run_until_signal(argv: Sequence[str]) -> None:
    """Run one job until SIGTERM or SIGINT. Raises TidegateError."""
    stop = Stop()

    def listen() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())

    listen()
    Job(prepare(argv)).run(stop, submitted=listen)  # again: Beam's job server took SIGINT for itself
