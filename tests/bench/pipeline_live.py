"""The whole pipeline on Prism under a steady load of events, as a user runs it; prints one JSON object.

    python -m tests.bench.pipeline_live --seconds 60 --rate 1000
    python -m tests.bench.pipeline_live --seconds 600 --rate 1000        the soak: books and memory of every process

An event carries a window of 64 x 8 float32 and goes through the heavy model. Latency is from the last reading of its
window (stamped when it is sent) to the broker having its final decision.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from deploy import paths
from deploy.broker import Broker
from deploy.cluster import Cluster, TopicState
from pipelines.publish import publish, read_package
from schemas.codec import decode, encode
from schemas.ids import Identity
from schemas.records import Decision, EdgeEvent, Outcome, Transition
from schemas.topics import CATALOGUE, DECISIONS, EVENTS
from tests.doubles.tiny_model import write_package
from tests.wait import until

READINGS, CHANNELS, DEVICES = 64, 8, 16


class Watch(threading.Thread):
    """Reads decisions as they come: copies per identity, and latencies in milliseconds."""

    def __init__(self, servers: str) -> None:
        super().__init__(daemon=True)
        self.copies: Counter[Identity] = Counter()
        self.latencies_ms: list[float] = []
        self.done = threading.Event()
        self._consumer = KafkaConsumer(
            bootstrap_servers=servers, auto_offset_reset="earliest", isolation_level="read_committed"
        )
        self._consumer.assign([TopicPartition(DECISIONS.name, p) for p in range(DECISIONS.partitions)])

    def run(self) -> None:
        while not self.done.is_set():
            for messages in self._consumer.poll(timeout_ms=100).values():
                for message in messages:
                    decision = decode(message.value, Decision)
                    self.copies[decision.identity] += 1
                    at_us = max(decision.decided_at, message.timestamp * 1000)
                    self.latencies_ms.append((at_us - decision.sensed_to) / 1000)
        self._consumer.close()


def event(device: int, seq: int, values: bytes) -> EdgeEvent:
    """An event whose window ended just now."""
    now_us = time.time_ns() // 1000
    return EdgeEvent(
        device_id=f"d{device}", boot_epoch=1, seq=seq, cohort="pumps", sensed_from=now_us - 64_000, sensed_to=now_us,
        decided_at=now_us, model_name="tiny", model_version=1, model_sha256=b"m" * 32, thresholds_version=0,
        policy_version=1, score=2.5, outcome=Outcome.ANOMALY, transition=Transition.NONE, reason="alarm",
        readings=READINGS, channels=CHANNELS, values=values,
    )  # fmt: skip


def memory_mb(root: psutil.Process) -> dict[str, float]:
    """Resident memory of the pipeline's processes: supervisor, worker, prism."""
    found = {"supervisor": root.memory_info().rss / 2**20}
    for child in root.children(recursive=True):
        name = "prism" if "prism" in child.name() else "worker"
        found[name] = found.get(name, 0.0) + child.memory_info().rss / 2**20
    return found


def run(seconds: float, rate: float, folder: Path) -> dict[str, Any]:
    """One run; see the module."""
    package = write_package(folder / "tiny", channels=CHANNELS, window_readings=READINGS)
    with Broker(folder / "broker") as broker:
        servers = broker.bootstrap_servers
        with Cluster(servers) as cluster:
            cluster.create(TopicState(t.name, t.partitions, t.config) for t in CATALOGUE)
        publish(read_package(str(package)), servers)
        command = [
            sys.executable, "-m", "pipelines", "run", "--runner=PrismRunner", f"--prism_location={paths.prism()}",
            f"--kafka_bootstrap_servers={servers}",
        ]  # fmt: skip
        with (folder / "pipeline.log").open("wb") as log:
            pipeline = subprocess.Popen(command, stdout=log, stderr=log)
        watch = Watch(servers)
        watch.start()
        producer = KafkaProducer(bootstrap_servers=servers, linger_ms=2)
        try:
            sent = _load(producer, watch, seconds, rate, psutil.Process(pipeline.pid))
            until(lambda: len(watch.copies) >= sent["events"], "every event is decided", within_s=60)
        finally:
            pipeline.send_signal(signal.SIGTERM)
            code = pipeline.wait(60)
            watch.done.set()
            watch.join()
            producer.close()
    steady = np.array(watch.latencies_ms[int(rate) :])
    memory = sent.pop("memory_mb")
    return sent | {
        "rate": rate,
        "decided": len(watch.copies),
        "lost": sent["events"] - len(watch.copies),
        "doubled": sum(n - 1 for n in watch.copies.values()),
        "latency_ms": {f"p{q}": round(float(np.percentile(steady, q)), 1) for q in (50, 90, 99)},
        "memory_mb": {
            name: [round(m[name]) for m in memory if name in m] for name in ("supervisor", "worker", "prism")
        },
        "exit_code": code,
    }


def _load(
    producer: KafkaProducer, watch: Watch, seconds: float, rate: float, pipeline: psutil.Process
) -> dict[str, Any]:
    values = np.random.default_rng(1).random((READINGS, CHANNELS)).astype("<f4").tobytes()
    seqs = [0] * DEVICES
    count = 0

    def send() -> None:
        nonlocal count
        device = count % DEVICES
        payload = encode(event(device, seqs[device], values))
        producer.send(EVENTS.name, key=f"d{device}".encode(), value=payload)
        seqs[device] += 1
        count += 1

    send()
    until(lambda: watch.copies, "the first decision", within_s=90)
    memory = []
    begun_s = time.monotonic()
    cpu_before = _cpu_s(pipeline)
    while (elapsed_s := time.monotonic() - begun_s) < seconds:
        while count < elapsed_s * rate:
            send()
        if elapsed_s >= len(memory) * max(5.0, seconds / 20):
            memory.append(memory_mb(pipeline))
        time.sleep(0.002)
    producer.flush()
    cores = round((_cpu_s(pipeline) - cpu_before) / (time.monotonic() - begun_s), 2)
    return {"events": count, "seconds": seconds, "cores_used": cores, "memory_mb": memory}


def _cpu_s(root: psutil.Process) -> float:
    return sum(sum(p.cpu_times()[:2]) for p in [root, *root.children(recursive=True)])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(args.seconds, args.rate, Path(folder)), indent=2))


if __name__ == "__main__":
    main()
