"""The demo, step by step: broker, topics, pipeline, models, edges, a model update on the way, and the reckoning."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import leash, paths, toolchain
from deploy.broker import Broker
from deploy.cluster import Cluster, TopicState
from deploy.demo.observer import Observer, Seen
from deploy.demo.recordings import demo_devices
from deploy.demo.report import write_report
from deploy.demo.site import AGGREGATE_WINDOW, EdgeProcess, package, processes, write_config
from deploy.demo.summary import summarise
from deploy.demo.view import View
from pipelines.publish import publish, read_package
from schemas.errors import PipelineError, UnavailableError
from schemas.topics import CATALOGUE, EVENTS

GROUP = "demo-pipeline"
#: Share of the streaming time after which version 2 of the updated cohort's model is published.
UPDATE_AT = 0.4
UPDATED_COHORT = "servers"
READY_WITHIN_S, DRAIN_WITHIN_S, STOP_WITHIN_S = 60.0, 30.0, 40.0


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """How long devices stream, seconds, and where everything goes."""

    seconds: float
    folder: Path

    @property
    def cache(self) -> Path:
        """Trained packages; they stay when the rest is cleaned."""
        return self.folder.parent / "models"


def run(settings: DemoSettings, view: View) -> dict[str, Any]:
    """Run the demo; returns the figures that are in report.json too.

    Raises: MissingToolError: no Java, jars or Prism. UnavailableError: a part did not come up. PipelineError: a part
    ended before its time; the sentence has the end of its log.
    """
    toolchain.prism()  # before anything is started: say what is missing
    folder = settings.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    devices = demo_devices()
    edges = processes(devices, folder / "site")
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=3, thread_name_prefix="demo"))
        trained = {e.cohort: pool.submit(package, e, 1, settings.cache, view.say) for e in edges}
        broker = stack.enter_context(Broker(folder / "broker"))
        servers = broker.bootstrap_servers
        view.say(f"broker ready at {servers}")
        with Cluster(servers) as cluster:
            cluster.create(TopicState(t.name, t.partitions, t.config) for t in CATALOGUE)
        pipeline = stack.enter_context(_process("pipeline", _pipeline_command(servers), folder))
        observer = Observer(servers, "")
        stack.callback(observer.close)
        packages = {}
        for edge in edges:
            packages[edge.cohort] = trained[edge.cohort].result()
            publish(read_package(str(packages[edge.cohort])), servers)
            write_config(edge, packages[edge.cohort], servers, "")
        view.say("models published; waiting for the pipeline")
        _wait(lambda: _committed(servers), READY_WITHIN_S, "the pipeline read its topics", [pipeline])
        running = [
            stack.enter_context(_process(f"edge-{e.cohort}", ["edge_filters", "run", str(e.config)], folder))
            for e in edges
        ]
        view.say(f"{len(devices)} devices in {len(edges)} edge processes are starting")
        parts = [pipeline, *running]
        second = pool.submit(_niced, edges, settings.cache, view.say)
        streamed_s, updated = _stream(settings, view, observer, parts, second, servers)
        view.say("stopping the edges")
        for part in running:
            part.stop(STOP_WITHIN_S)
        _wait(lambda: _drained(observer), DRAIN_WITHIN_S, "", [pipeline], required=False)
        view.say("stopping the pipeline")
        pipeline.stop(STOP_WITHIN_S)
    seen = observer.seen
    figures = summarise(seen, [d.device_id for d in devices], streamed_s)
    write_report(folder, figures, seen, devices, [*packages.values(), *updated])
    return figures


class Part:
    """A process of the demo with its log."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.log, self._process = name, log, process

    def check(self) -> None:
        """Raises PipelineError: it has ended."""
        code = self._process.poll()
        if code is not None:
            lines = self.log.read_text(errors="replace").strip().splitlines()[-8:]
            raise PipelineError(
                f"the {self.name} ended by itself", exit_code=code, log=str(self.log), fix="\n".join(lines)
            )

    def stop(self, within_s: float) -> None:
        """SIGTERM, and wait. Raises PipelineError: it did not end well, or not in time."""
        self.check()
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise PipelineError(f"the {self.name} did not stop", waited_s=within_s, log=str(self.log)) from None
        if code:
            raise PipelineError(f"the {self.name} did not stop cleanly", exit_code=code, log=str(self.log))

    def kill(self) -> None:
        """End it whatever it does."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@contextmanager
def _process(name: str, module: Sequence[str], folder: Path) -> Iterator[Part]:
    """`python -m …` in a session of its own, so that Ctrl-C reaches the demo first; it never outlives the demo."""
    log = folder / f"{name}.log"
    command = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), sys.executable, "-m", *module]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd=paths.ROOT
        )
    part = Part(name, process, log)
    try:
        yield part
    finally:
        part.kill()


def _pipeline_command(servers: str) -> list[str]:
    return [
        "pipelines", "run", "--runner=PrismRunner", f"--prism_location={paths.prism()}",
        f"--kafka_bootstrap_servers={servers}", f"--kafka_group_id={GROUP}", f"--fleet_window={AGGREGATE_WINDOW}",
        "--feedback_min_escalated=12", "--feedback_min_audited=12",
    ]  # fmt: skip


def _niced(edges: Sequence[EdgeProcess], cache: Path, say: Callable[[str], None]) -> Path:
    """Version 2 of the updated cohort's model, trained beside the stream when it is not cached."""
    edge = next(e for e in edges if e.cohort == UPDATED_COHORT)
    return package(edge, 2, cache, say)


def _stream(
    settings: DemoSettings, view: View, observer: Observer, parts: Sequence[Part], second: Future[Path], servers: str
) -> tuple[float, list[Path]]:
    """Let it run; publish the update on the way. Returns the seconds streamed and the packages published."""
    _wait(lambda: _look(observer, lambda s: bool(s.status)), READY_WITHIN_S, "a device reported", parts)
    start_s = time.monotonic()
    first_shown = False
    updated: list[Path] = []
    with view:
        while (elapsed_s := time.monotonic() - start_s) < settings.seconds:
            for part in parts:
                part.check()
            with observer.lock:
                view.show(observer.seen, elapsed_s, settings.seconds)
                decided = next(iter(observer.seen.decisions.values()), None)
            if decided is not None and not first_shown:
                first_shown = True
                view.say(f"first final decision: {decided.identity.event_id} is {decided.outcome.value.lower()}")
            if not updated and elapsed_s >= UPDATE_AT * settings.seconds and second.done():
                updated.append(second.result())
                update = publish(read_package(str(updated[0])), servers)
                view.say(f"published {update.model_name} version {update.version}; it rolls through while they run")
            time.sleep(0.25)
    if not updated:
        raise PipelineError(
            "the second model was not trained in time to be rolled out",
            fix="run the demo again (the model is cached when it is done), or give it more time: DEMO_SECONDS=120",
        )
    return time.monotonic() - start_s, updated


def _look(observer: Observer, question: Callable[[Seen], bool]) -> bool:
    with observer.lock:
        return question(observer.seen)


def _drained(observer: Observer) -> bool:
    """Whether everything sent has come out at the other end."""

    def done(seen: Seen) -> bool:
        merged = sum(w.readings + w.invalid for w in seen.fleet.values())
        return len(seen.decisions) >= len(seen.events) and merged >= sum(seen.aggregated.values())

    return _look(observer, done)


def _committed(servers: str) -> bool:
    """Whether the pipeline has committed a position: it reads, and its sinks answer."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=servers, group_id=GROUP, enable_auto_commit=False)
    try:
        return consumer.committed(TopicPartition(EVENTS.name, 0)) is not None
    finally:
        consumer.close()


def _wait(
    condition: Callable[[], bool], within_s: float, what: str, parts: Sequence[Part], *, required: bool = True
) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        for part in parts:
            part.check()
        if time.monotonic() >= deadline_s:
            if required:
                logs = ", ".join(str(part.log) for part in parts)
                raise UnavailableError(f"waited in vain until {what}", waited_s=within_s, fix=f"see {logs}")
            return
        time.sleep(0.2)
