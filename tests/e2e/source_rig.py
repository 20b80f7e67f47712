"""Rig for tests and benches of the Kafka source: a broker, a Prism job in a process of its own, a loader, a reader.

The pipelines run in child processes, so that a test can kill them, and so that the DoFns here travel by name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_until(what: str, condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """The first true answer of `condition`; AssertionError names `what` did not come in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {timeout_s:g} s")


class LocalBroker:
    """A single-node broker on free loopback ports, with its log in a temporary folder."""

    def __init__(self, libs: Path, heap: str = "512m") -> None:
        self._libs, self._heap = libs, heap
        self._dir = Path(tempfile.mkdtemp(prefix="rig-broker-"))
        self._port, controller = free_port(), free_port()
        self.bootstrap_servers = f"127.0.0.1:{self._port}"
        self._properties = self._dir / "server.properties"
        self._properties.write_text(
            f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{self._port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{self._port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={self._dir / "log"}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.retention.check.interval.ms=500
"""
        )
        self._java(
            "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", str(self._properties)
        ).wait()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def _java(self, *args: str) -> subprocess.Popen[bytes]:
        command = ["java", f"-Xmx{self._heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{self._libs}/*"]
        out = (self._dir / "out").open("ab")
        return subprocess.Popen([*command, *args], stdout=out, stderr=out)

    def start(self) -> None:
        self._process = self._java("kafka.Kafka", str(self._properties))
        wait_until("broker accepts", self._answers, 40)

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise AssertionError("the broker ended: " + (self._dir / "out").read_text()[-2000:])
        try:
            KafkaAdminClient(bootstrap_servers=self.bootstrap_servers, bootstrap_timeout_ms=1000).close()
        except (KafkaError, OSError):
            return False
        return True

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._dir, ignore_errors=True)

    def topics(self, prefix: str, partitions: int = 1, **config: str) -> str:
        """A fresh topic; its name."""
        name = f"{prefix}-{uuid.uuid4().hex[:8]}"
        create_topic(self.bootstrap_servers, name, partitions, **config)
        return name


def create_topic(bootstrap_servers: str, name: str, partitions: int = 1, **config: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        settings = {k.replace("_", "."): v for k, v in config.items()}
        admin.create_topics(
            [NewTopic(name, partitions, 1, topic_configs={"message.timestamp.type": "LogAppendTime", **settings})]
        )
    finally:
        admin.close()


def producer(bootstrap_servers: str, **extra: Any) -> KafkaProducer:
    settings = {"linger_ms": 2, "acks": "all", "batch_size": 256 << 10, **extra}
    return KafkaProducer(bootstrap_servers=bootstrap_servers, **settings)


class Reader:
    """Reads a topic from its beginning, ahead of nothing, for as long as asked."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self._consumer = KafkaConsumer(bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest")
        self._consumer.assign([TopicPartition(topic, p) for p in sorted(self._consumer.partitions_for_topic(topic))])
        self.records: list[Any] = []

    def more(self, timeout_ms: int = 50) -> list[Any]:
        fresh = [r for batch in self._consumer.poll(timeout_ms=timeout_ms, max_records=10_000).values() for r in batch]
        self.records += fresh
        return fresh

    def read_until(self, what: str, enough: Callable[[list[Any]], Any], timeout_s: float = 30.0) -> list[Any]:
        deadline = time.monotonic() + timeout_s
        while not enough(self.records):
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {timeout_s:g} s; {len(self.records)} records came")
            self.more()
        return self.records

    def close(self) -> None:
        self._consumer.close()


class Job:
    """A rig pipeline in a child process, on Prism."""

    def __init__(self, prism: Path, *args: str, log: Path | None = None) -> None:
        self.log = log or Path(tempfile.mkstemp(prefix="rig-job-", suffix=".log")[1])
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.source_rig_job", f"--prism={prism}", *args],
                cwd=ROOT, stdout=out, stderr=out, start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def says(self, text: str) -> bool:
        if text in self.log.read_text(errors="replace"):
            return True
        if self.process.poll() is not None:
            raise AssertionError(f"the job ended with {self.process.returncode}: {self.tail()}")
        return False

    def tail(self, chars: int = 3000) -> str:
        return self.log.read_text(errors="replace")[-chars:]

    def prism_pid(self) -> int:
        children = subprocess.run(
            ["pgrep", "-P", str(self.process.pid), "prism"], capture_output=True, text=True
        ).stdout
        return int(children.split()[0])

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        try:
            return self.process.wait(timeout_s)
        finally:
            self.kill()

    def kill(self) -> None:
        """kill -9 of the driver and of Prism."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
