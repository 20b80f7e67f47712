"""The whole pipeline on Prism under a steady load of events, as a user runs it; prints one JSON object.

    python -m tests.bench.pipeline_live --seconds 60 --rate 1000
    python -m tests.bench.pipeline_live --seconds 600 --rate 1000        the soak: books and memory of every process

An event carries a window of 64 x 8 float32 and goes through the heavy model. Latency is from the last reading of its
window (stamped when it is sent) to a reader of committed records having its final decision, without the first seconds
(WARM_UP_S). Options that are not of this program go to the pipeline, such as --delivery=at-least-once.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
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
#: A broker of the JVM compiles itself first; figures count from here on.
WARM_UP_S = 15.0


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
            polled = self._consumer.poll(timeout_ms=100)
            now_us = time.time_ns() // 1000
            for messages in polled.values():
                for message in messages:
                    decision = decode(message.value, Decision)
                    self.copies[decision.identity] += 1
                    self.latencies_ms.append((now_us - decision.sensed_to) / 1000)
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


def processes(root: psutil.Process) -> dict[str, psutil.Process]:
    """The pipeline's processes, and on whose account the rest of the cores goes: the broker and this load."""
    found = {"supervisor": root, "load": psutil.Process()}
    for child in root.children(recursive=True):
        found["prism" if "prism" in child.name() else "worker"] = child
    for child in psutil.Process().children():
        if "java" in child.name():
            found["broker"] = child
    return found


def memory_mb(root: psutil.Process) -> dict[str, float]:
    """Resident memory of the pipeline's processes."""
    return {name: p.memory_info().rss / 2**20 for name, p in processes(root).items() if name not in ("load", "broker")}


def cpu_s(root: psutil.Process) -> dict[str, float]:
    """CPU seconds used up to now."""
    return {name: sum(p.cpu_times()[:2]) for name, p in processes(root).items()}


def run(seconds: float, rate: float, folder: Path, extra: Sequence[str] = ()) -> dict[str, Any]:
    """One run; see the module."""
    package = write_package(folder / "tiny", channels=CHANNELS, window_readings=READINGS)
    with Broker(folder / "broker") as broker:
        servers = broker.bootstrap_servers
        with Cluster(servers) as cluster:
            cluster.create(TopicState(t.name, t.partitions, t.config) for t in CATALOGUE)
        publish(read_package(str(package)), servers)
        command = [
            sys.executable, "-m", "pipelines", "run", "--runner=PrismRunner", f"--prism_location={paths.prism()}",
            f"--kafka_bootstrap_servers={servers}", *extra,
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
    steady = np.array(watch.latencies_ms[int(rate * WARM_UP_S) :])
    memory = sent.pop("memory_mb")
    return sent | {
        "rate": rate,
        "decided": len(watch.copies),
        "lost": sent["events"] - len(watch.copies),
        "doubled": sum(n - 1 for n in watch.copies.values()),
        "latency_ms": _quantiles(steady),
        "latency_ms_over_time": [_quantiles(part)["p99"] for part in np.array_split(steady, 10)],
        "memory_mb": {
            name: [round(m[name]) for m in memory if name in m] for name in ("supervisor", "worker", "prism")
        },
        "exit_code": code,
    }


def _quantiles(latencies_ms: npt.NDArray[np.float64]) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(latencies_ms, q)), 1) for q in (50, 90, 99)}


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
    memory: list[dict[str, float]] = []
    begun_s = time.monotonic()
    cpu_before, cpu_from_s = cpu_s(pipeline), begun_s
    while (elapsed_s := time.monotonic() - begun_s) < seconds:
        while count < elapsed_s * rate:
            send()
        if cpu_from_s == begun_s and elapsed_s >= WARM_UP_S:
            cpu_before, cpu_from_s = cpu_s(pipeline), time.monotonic()
        if elapsed_s >= len(memory) * max(5.0, seconds / 20):
            memory.append(memory_mb(pipeline))
        time.sleep(0.002)
    producer.flush()
    passed_s = time.monotonic() - cpu_from_s
    cores = {name: round((used - cpu_before[name]) / passed_s, 2) for name, used in cpu_s(pipeline).items()}
    return {"events": count, "seconds": seconds, "cores_used": cores, "memory_mb": memory}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=1000)
    args, extra = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(args.seconds, args.rate, Path(folder), extra), indent=2))


if __name__ == "__main__":
    main()
