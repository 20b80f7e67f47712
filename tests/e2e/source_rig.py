"""Rig for tests and benches of the Kafka source: topics, a Prism job in a process of its own, a reader.

The pipelines run in child processes, so that a test can kill them, and so that the DoFns here travel by name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from deploy.cluster import Cluster, TopicState

ROOT = Path(__file__).resolve().parents[2]


def new_topic(bootstrap_servers: str, prefix: str, partitions: int = 1) -> str:
    """A fresh topic stamped by the broker; its name."""
    name = f"{prefix}-{uuid.uuid4().hex[:8]}"
    create_topic(bootstrap_servers, name, partitions)
    return name


def create_topic(bootstrap_servers: str, name: str, partitions: int = 1) -> None:
    with Cluster(bootstrap_servers) as cluster:
        cluster.create([TopicState(name, partitions, {"message.timestamp.type": "LogAppendTime"})])


def producer(bootstrap_servers: str, **extra: Any) -> KafkaProducer:
    settings = {"linger_ms": 2, "acks": "all", "batch_size": 256 << 10, "reconnect_backoff_max_ms": 1000, **extra}
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
