"""The pipeline on a real Flink cluster as a user runs it: `python -m pipelines run`, topics in, topics out."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from deploy.broker import Broker
from deploy.flink.cluster import FlinkCluster
from deploy.flink.rest import Checkpoint
from schemas import topics
from schemas.codec import decode, encode
from schemas.records import FleetWindow
from schemas.topics import Topic
from tests.wait import until

#: A cluster shares two cores with its tests: what takes seconds on a quiet machine may take minutes.
PATIENCE_S = 240.0


class OnFlink:
    """One pipeline on one cluster."""

    def __init__(self, broker: Broker, prefix: str, cluster: FlinkCluster, log: Path) -> None:
        self._broker, self._prefix, self._log = broker, prefix, log
        self.cluster = cluster
        self.producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, acks="all")
        self.submitter: subprocess.Popen[bytes] | None = None

    def submit(self, *more: str) -> str:
        """Hand the pipeline in and wait until all of it runs. Returns: the id of the job."""
        before = set(self.cluster.rest.jobs())
        command = [
            sys.executable, "-m", "pipelines", "run", *self.cluster.options(), "--checkpointing_interval=1000",
            f"--kafka_bootstrap_servers={self._broker.bootstrap_servers}", f"--kafka_topic_prefix={self._prefix}",
            "--fleet_window=1s", "--disorder=500ms", "--idle=500ms", "--feedback_min_escalated=10", *more,
        ]  # fmt: skip
        with self._log.open("ab") as out:
            self.submitter = subprocess.Popen(command, stdout=out, stderr=out, env=dict(os.environ))
        handed_in = self.submitter

        def job() -> str:
            assert handed_in.poll() is None, f"it ended with {handed_in.returncode}:\n{self._tail()}"
            return next(iter(set(self.cluster.rest.jobs()) - before), "")

        found = until(job, "a job", within_s=PATIENCE_S)
        self.wait_running(found)
        return found

    def wait_running(self, job: str) -> None:
        """Wait until every subtask of a job runs."""
        until(lambda: set(self.cluster.rest.tasks(job)) == {"RUNNING"}, "every task to run", within_s=PATIENCE_S)

    def checkpoint_after(self, job: str, moment_s: float) -> Checkpoint:
        """The first finished checkpoint that was begun after a moment, seconds since 1970."""

        def found() -> Checkpoint | None:
            every = self.cluster.rest.checkpoints(job)
            return next((one for one in every if one.triggered_ms > moment_s * 1000), None)

        return until(found, "a checkpoint", within_s=PATIENCE_S)  # type: ignore[return-value]

    def stop(self, job: str, folder: Path) -> str:
        """Stop the job with a savepoint; the submitter sees the end and ends. Returns: the savepoint's address."""
        savepoint = self.cluster.rest.stop(job, f"file://{folder}", timeout_s=PATIENCE_S)
        assert self.submitter is not None
        self.submitter.wait(PATIENCE_S)
        return savepoint

    def send(self, topic: Topic, records: Sequence[object]) -> None:
        """Records, all acknowledged."""
        answers = [
            self.producer.send(
                topic.named(self._prefix),
                key=getattr(record, "device_id", "x").encode(),
                value=record if isinstance(record, bytes) else encode(record),  # type: ignore[arg-type]
            )
            for record in records
        ]
        self.producer.flush()
        for answer in answers:
            answer.get(30)

    def read(self, topic: Topic, enough: int, *, distinct: bool = False) -> list[object]:
        """Everything in a topic as soon as it is `enough`, or as soon as so many identities are in it."""
        consumer = KafkaConsumer(bootstrap_servers=self._broker.bootstrap_servers, auto_offset_reset="earliest")
        name = topic.named(self._prefix)
        consumer.assign([TopicPartition(name, p) for p in range(topic.partitions)])
        found: list[object] = []
        deadline_s = time.monotonic() + PATIENCE_S

        def seen() -> int:
            return len({r.identity for r in found}) if distinct else len(found)  # type: ignore[attr-defined]

        try:
            while seen() < enough and time.monotonic() < deadline_s:
                for messages in consumer.poll(timeout_ms=200).values():
                    found += [decode(m.value, topic.record) for m in messages]
        finally:
            consumer.close()
        assert seen() >= enough, f"{seen()} of {enough} in {name}:\n{self._tail()}"
        return found

    def window(self, start: int, devices: int = 2) -> tuple[tuple[str, ...], int]:
        """Devices and readings of a fleet window, as soon as one with so many devices is written."""
        written = self.read(topics.FLEET, 1)
        while True:
            for one in written:
                if isinstance(one, FleetWindow) and one.window_start == start and len(one.devices) >= devices:
                    return tuple(one.devices), one.readings
            written = self.read(topics.FLEET, len(written) + 1)

    def close(self) -> None:
        """End the submitter and whatever still runs of it on the cluster."""
        self.producer.close()
        if self.submitter is not None and self.submitter.poll() is None:
            self.submitter.kill()
            self.submitter.wait()
        for job in self.cluster.rest.running():
            self.cluster.rest.cancel(job)

    def _tail(self) -> str:
        logs = [self._log, *(member.log for member in self.cluster.members)]
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs if log.exists())
