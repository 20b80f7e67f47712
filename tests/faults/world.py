"""One world under test: oracle, edge process, broker, pipeline, and a watcher that reads what a customer would read.

Everything in it is a real process of the product. The harness starts again what it killed, as a service manager would.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
from kafka import TopicPartition
from kafka.errors import KafkaError

from deploy import paths
from deploy.broker import Broker
from deploy.cluster import Cluster, TopicState
from pipelines.publish import publish, read_package
from schemas.topics import AGGREGATES, CATALOGUE, DEAD_LETTERS, DECISIONS, EVENTS, FLEET, GAPS
from tests.doubles import edge_model
from tests.faults import wire
from tests.faults.checker import Account, Seen, Verdict, check
from tests.faults.disk import PowerDisk, SmallDisk
from tests.faults.source import Key

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")


class Stuck(Exception):
    """Something did not happen in time: a finding of its own, and never waited for again."""


def until(condition: Callable[[], T], what: str, within_s: float) -> T:
    """The first true value of `condition`. Raises Stuck."""
    deadline_s = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline_s:
            raise Stuck(f"waited {within_s:g} s in vain for {what}")
        time.sleep(0.02)
    return value


class Watcher:
    """Reads decisions (or events) as they become visible to a committed reader, and notes when."""

    def __init__(self, servers: str, topic: str) -> None:
        self._servers, self._topic = servers, topic
        self._lock = threading.Lock()
        self._seen: dict[Key, float] = {}
        self._newest: dict[str, int] = {}
        self._heard_s = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        positions: dict[TopicPartition, int] = {}
        while not self._stop.is_set():
            try:
                reader = wire.consumer(self._servers)
                try:
                    names = [TopicPartition(self._topic, n) for n in reader.partitions_for_topic(self._topic) or ()]
                    reader.assign(names)
                    for name in names:
                        reader.seek(name, positions.get(name, 0))
                    while names and not self._stop.is_set():
                        for name, messages in reader.poll(timeout_ms=100).items():
                            self._take(messages)
                            positions[name] = messages[-1].offset + 1
                finally:
                    reader.close()
            except (KafkaError, OSError):
                pass  # the broker is away, which may be the point
            self._stop.wait(0.2)

    def _take(self, messages: list[Any]) -> None:
        now = time.monotonic()
        with self._lock:
            self._heard_s = now
            for message in messages:
                with contextlib.suppress(wire.Unreadable):
                    fields = wire.decode(message.value)
                    key = Key(fields["device_id"], fields["sensed_from"])
                    self._seen.setdefault(key, now)
                    self._newest[key.device] = max(key.sensed_from, self._newest.get(key.device, 0))

    def newest_us(self) -> int:
        """Event time of the newest answer of all devices."""
        with self._lock:
            return max(self._newest.values(), default=0)

    def silent_s(self) -> float:
        """Seconds since anything came, or since the beginning."""
        with self._lock:
            return time.monotonic() - self._heard_s

    def keys(self) -> set[Key]:
        """Everything that was visible up to now."""
        with self._lock:
            return set(self._seen)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(10)


class World:
    """See the module. `start` it, hurt it, `settle` it, `verdict` it, `close` it."""

    def __init__(
        self,
        folder: Path,
        broker: Broker,
        *,
        seed: int,
        devices: int = 4,
        pace_s: float = 0.1,
        pipeline: bool = True,
        state: Path | None = None,
        fsync: str = "always",
        spool_bytes: str = "64MiB",
        mutant: str = "",
        servers: str = "",
        edge_more: str = "",
        pipeline_options: tuple[str, ...] = (),
    ) -> None:
        """`state`: folder of the edge's state, where it is on a disk of its own; `servers`: what the product connects
        to, where that is a proxy.
        """
        self.folder, self.broker, self.seed, self.mutant = folder, broker, seed, mutant
        self.prefix = f"f{os.getpid()}x{time.monotonic_ns() % 10**9}."
        self.devices = [f"plant/p{number}" for number in range(devices)]
        self.servers = servers or broker.bootstrap_servers
        self.state = state or folder / "state"
        self._has_pipeline, self._pace_s = pipeline, pace_s
        self._fsync, self._spool_bytes, self._more = fsync, spool_bytes, edge_more
        self._pipeline_options = pipeline_options
        self.env: dict[str, str] = {}
        self.oracle: subprocess.Popen[bytes] | None = None
        self.edge: subprocess.Popen[bytes] | None = None
        self.pipeline: subprocess.Popen[bytes] | None = None
        self.watcher: Watcher | None = None
        self.disk: PowerDisk | None = None
        self.small: SmallDisk | None = None
        self.kills = self.cuts = 0
        self.recoveries_s: list[float] = []
        self.trouble: list[str] = []

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self) -> World:
        """Everything up, and the first answer there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with Cluster(self.broker.bootstrap_servers) as cluster:
            cluster.create(TopicState(t.named(self.prefix), t.partitions, t.config) for t in CATALOGUE)
        edge_model.write(self.folder / "model")
        self._configure()
        self.oracle = self._spawn("oracle", "-m", "tests.faults.oracle", "--seed", str(self.seed), "--account",
                                  str(self.account_path), "--socket", str(self.socket_path))  # fmt: skip
        until(self.socket_path.exists, "the oracle's socket", 30)
        if self._has_pipeline:
            publish(read_package(str(self.folder / "model")), self.broker.bootstrap_servers, self.prefix)
            self.start_pipeline()
        self.start_edge()
        topic = DECISIONS if self._has_pipeline else EVENTS
        self.watcher = Watcher(self.broker.bootstrap_servers, topic.named(self.prefix))
        until(lambda: self.watcher and self.watcher.keys(), "the first answer", 90)
        return self

    def start_edge(self, failpoint: str = "") -> None:
        """Start the edge process; what it needs is there already."""
        command = self._wrapped("edge_filters", "run", str(self.folder / "edge.toml"))
        self.edge = self._spawn("edge", *command, failpoint=failpoint)

    def start_pipeline(self, failpoint: str = "") -> None:
        """Start the pipeline under its own supervisor."""
        self.pipeline = self._spawn(
            "pipeline", *self._wrapped(
                "pipelines", "run", "--runner=PrismRunner", f"--prism_location={paths.prism()}",
                f"--kafka_bootstrap_servers={self.servers}", f"--kafka_topic_prefix={self.prefix}",
                f"--kafka_group_id={self.group}", "--fleet_window=1s", "--disorder=500ms", "--idle=500ms",
                "--feedback_min_escalated=1000000000", "--feedback_min_audited=1000000000", *self._pipeline_options,
            ),
            failpoint=failpoint,
        )  # fmt: skip

    @property
    def group(self) -> str:
        """The pipeline's consumer group."""
        return f"{self.prefix}pipeline"

    @property
    def account_path(self) -> Path:
        """The oracle's file."""
        return self.folder / "account.jsonl"

    @property
    def socket_path(self) -> Path:
        """The oracle's socket."""
        return self.folder / "oracle"

    def log(self, which: str) -> str:
        """What a process said."""
        path = self.folder / f"{which}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """End everything that is still alive, and remove the topics."""
        if self.watcher is not None:
            self.watcher.close()
        for process in (self.edge, self.pipeline, self.oracle):
            if process is not None and process.poll() is None:
                _end(process, 20.0)
        with contextlib.suppress(Exception), Cluster(self.broker.bootstrap_servers) as cluster:
            cluster.delete(t.named(self.prefix) for t in CATALOGUE)

    def __enter__(self) -> World:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spawn(self, name: str, *command: str, failpoint: str = "") -> subprocess.Popen[bytes]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), **self.env, "TIDEGATE_FAILPOINT": failpoint}
        with (self.folder / f"{name}.log").open("ab") as out:
            return subprocess.Popen(
                [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip

    def _wrapped(self, module: str, *arguments: str) -> list[str]:
        if self.mutant:
            return ["-m", "tests.faults.broken", self.mutant, "--", module, *arguments]
        return ["-m", module, *arguments]

    def _configure(self) -> None:
        tables = "".join(
            f"""
            [[device]]
            id = "{device}"
            sensor = {{ kind = "tests.faults.sensor:make", socket = "{self.socket_path}", pace_s = {self._pace_s} }}
            """
            for device in self.devices
        )
        (self.folder / "edge.toml").write_text(
            f"""
            [edge]
            state_dir = "{self.state}"
            [kafka]
            bootstrap_servers = "{self.servers}"
            topic_prefix = "{self.prefix}"
            [model]
            path = "model"
            [audit]
            rate = 0.1
            [status]
            every = "500ms"
            [spool]
            fsync = "{self._fsync}"
            max_bytes = "{self._spool_bytes}"
            {self._more}
            {tables}
            """
        )

    # -- harm -----------------------------------------------------------------------------------------------------

    def family(self, which: str) -> list[psutil.Process]:
        """Living processes that a fault may hit: edge, broker, pipeline (the supervisor), job, prism, worker."""
        if which == "broker":
            return [psutil.Process(self.broker.process.pid)] if self.broker.process else []
        if which == "edge":
            return [psutil.Process(self.edge.pid)] if self.edge else []
        assert self.pipeline is not None
        try:
            top = psutil.Process(self.pipeline.pid)
            below: list[psutil.Process] = top.children(recursive=True)
            jobs: list[psutil.Process] = top.children()[:1]
            if which == "pipeline":
                return [top]
            if which == "job":
                return jobs
            prism = [p for p in below if "prism" in p.name()]
            if which == "prism":
                return prism
            return [p for p in below if p not in prism and p not in jobs] or jobs
        except psutil.NoSuchProcess:
            return []

    def find(self, which: str, within_s: float = 40.0) -> psutil.Process:
        """One of them. Raises Stuck."""
        return until(lambda: self.family(which), f"a process to be {which}", within_s)[0]

    def kill(self, which: str, failpoint: str = "") -> None:
        """kill -9, and start again what nothing else starts again; then with a failpoint where one is given."""
        self.kills += 1
        if which == "broker":
            self.broker.kill()
            return
        victim = self.find(which)
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
        if which == "edge":
            self.end_edge()
            self.start_edge(failpoint)
        if which == "pipeline" and self.pipeline is not None:
            self.pipeline.wait(10)
            self.start_pipeline(failpoint)

    def end_edge(self) -> None:
        """kill -9 of the edge where it is still alive; it is not started again."""
        assert self.edge is not None
        self.edge.kill()
        self.edge.wait(10)

    @contextlib.contextmanager
    def frozen(self, which: str) -> Iterator[None]:
        """SIGSTOP, and SIGCONT after."""
        victim = self.find(which)
        victim.suspend()
        try:
            yield
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.resume()

    def recovered(self, since_us: int, within_s: float = 60.0) -> float:
        """Seconds until an answer to a reading sensed after `since_us` is visible, counted from now. Raises Stuck."""
        begun = time.monotonic()
        watcher = self.watcher
        assert watcher is not None
        until(lambda: watcher.newest_us() > since_us, "an answer to what was sensed after the fault", within_s)
        return time.monotonic() - begun

    def tell_oracle(self, **what: Any) -> None:
        """One line to the oracle, answered."""
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.socket_path))
            line.sendall(json.dumps(what).encode() + b"\n")
            line.recv(4096)

    # -- the end --------------------------------------------------------------------------------------------------

    def account(self) -> Account:
        """What the oracle has noted up to now."""
        with self.account_path.open() as lines:
            return Account.of((line for line in lines if line.endswith("\n")), self.seed)

    def settle(self, within_s: float = 90.0, patience_s: float = 30.0, *, whole: bool = True) -> None:
        """No more readings; wait until the edge has said good-bye and all that is owed is there. Notes trouble.

        `patience_s`: how long nothing may come before what is missing counts as lost; `whole`: whether that is trouble.
        """
        self.tell_oracle(close=True)
        edge, watcher = self.edge, self.watcher
        assert edge is not None
        assert watcher is not None
        try:
            until(lambda: edge.poll() is not None, "the edge to end with its sensors", within_s)
            if edge.returncode != 0:
                self.trouble.append(f"the edge ended with {edge.returncode}: {self.log('edge')[-300:]}")
            owed = self.account().owed
            until(lambda: owed <= watcher.keys() or watcher.silent_s() > patience_s, "the answers to come in", within_s)
            if (missing := len(owed - watcher.keys())) and whole:
                self.trouble.append(f"{missing} answers that are owed did not come, and nothing for {patience_s:g} s")
        except Stuck as stuck:
            self.trouble.append(str(stuck))
        if self._has_pipeline:
            self._settle_pipeline(patience_s)

    def _settle_pipeline(self, within_s: float) -> None:
        """Until the positions are at the ends and no window is open; then stop the pipeline in good order."""
        events, fleet = EVENTS.named(self.prefix), FLEET.named(self.prefix)
        letters_topic = DEAD_LETTERS.named(self.prefix)
        ends = {m.partition: m.offset + 1 for m in wire.read_all(self.broker.bootstrap_servers, events)}
        aggregates = wire.read_all(self.broker.bootstrap_servers, AGGREGATES.named(self.prefix))
        starts = {(m.partition, m.offset): f["window_start"] for m, f, _ in wire.decoded(aggregates) if f is not None}

        def done() -> bool:
            at = wire.positions(self.broker.bootstrap_servers, self.group, events)
            if any(at.get(partition, 0) < end for partition, end in ends.items()):
                return False
            merged = wire.decoded(wire.read_all(self.broker.bootstrap_servers, fleet))
            letters = wire.decoded(wire.read_all(self.broker.bootstrap_servers, letters_topic))
            refused = {
                (f["partition"], f["offset"])
                for _, f, _ in letters
                if f is not None and f["source"].endswith(AGGREGATES.name)
            }
            due = {start for place, start in starts.items() if place not in refused}
            return due <= {fields["window_start"] for _, fields, _ in merged if fields is not None}

        try:
            until(done, "the positions and windows of the pipeline", within_s)
        except Stuck as stuck:
            self.trouble.append(str(stuck))
        assert self.pipeline is not None
        self.pipeline.send_signal(signal.SIGTERM)
        try:
            code = self.pipeline.wait(60)
            if code != 0:
                self.trouble.append(f"the pipeline ended with {code}: {self.log('pipeline')[-300:]}")
        except subprocess.TimeoutExpired:
            self.trouble.append("the pipeline did not stop in 60 s")
            _end(self.pipeline, 1.0)

    def verdict(self) -> Verdict:
        """Read everything once more from the beginning, and compare with the account."""
        servers = self.broker.bootstrap_servers
        events = wire.read_all(servers, EVENTS.named(self.prefix))
        gaps = wire.read_all(servers, GAPS.named(self.prefix))
        seen = Seen(events, gaps=gaps)
        if self._has_pipeline:
            seen = Seen(
                events,
                wire.read_all(servers, DECISIONS.named(self.prefix)),
                wire.read_all(servers, DEAD_LETTERS.named(self.prefix)),
                wire.read_all(servers, AGGREGATES.named(self.prefix)),
                wire.read_all(servers, FLEET.named(self.prefix)),
                wire.positions(servers, self.group, EVENTS.named(self.prefix)),
                gaps,
            )
        return check(self.account(), seen)


def _end(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """SIGTERM, then kill -9 of its whole session."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout_s)
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
