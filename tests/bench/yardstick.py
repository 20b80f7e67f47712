"""The yardstick job: 60,000 events of 2.1 kB to decisions and 1 s windows, as peers of this project do it too.

64 x 8 float32 -> 32 features -> MLP 32-64-16-1 -> a decision per record, and statistics per second of event time. The
input, the model and what a finished run must show are here; bench_pipeline.py and yardstick_bare.py run it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from pipelines.publish import publish, read_package
from schemas import topics
from schemas.codec import decode, encode
from schemas.features import extract
from schemas.records import Decision, EdgeAggregate, EdgeEvent, FleetWindow, Outcome, Transition
from schemas.sketch import Sketch
from tests.bench.bench_edge import CHANNELS, READINGS, STATISTICS, files

DEVICES = 16
WINDOW_US = 1_000_000
#: Readings come at 1 kHz, so a block is 64 ms and a device fills a window of a second with 15 or 16 of them.
BLOCK_US = READINGS * 1_000
COHORT = "bench"
MODEL = "mlp"


class Loaded(NamedTuple):
    """What was written: events, aggregates, and the distinct windows of these."""

    events: int
    aggregates: int
    windows: int


def pool(count: int = 256) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Windows of readings, float32[count, 64, 8]; every run has the same."""
    return np.random.default_rng(3).normal(0, 1, (count, READINGS, CHANNELS)).astype(np.float32)


def events(count: int, start_us: int, devices: int = DEVICES) -> list[EdgeEvent]:
    """Events of all devices in turn; one in four already was an alarm at the edge."""
    windows = pool()
    scores = extract(windows, STATISTICS).mean(axis=1).tolist()
    values = [window.tobytes() for window in windows]
    out = []
    for at in range(count):
        seq, device = divmod(at, devices)
        sensed_from = start_us + seq * BLOCK_US
        outcome = Outcome.ANOMALY if at % 4 == 0 else Outcome.SUSPECT
        out.append(
            EdgeEvent(
                device_id=f"plant1/line2/dev-{device:04d}", boot_epoch=1, seq=seq, cohort=COHORT,
                sensed_from=sensed_from, sensed_to=sensed_from + BLOCK_US - 1_000, decided_at=sensed_from + BLOCK_US,
                model_name=MODEL, model_version=1, model_sha256=b"m" * 32, thresholds_version=0, policy_version=1,
                score=scores[at % len(scores)], outcome=outcome, transition=Transition.NONE, reason="bench",
                readings=READINGS, channels=CHANNELS, values=values[at % len(values)],
            )
        )  # fmt: skip
    return out


def aggregates(count: int, start_us: int, devices: int = DEVICES) -> list[EdgeAggregate]:
    """The sketches per second that edges send beside so many events, in order of time."""
    seconds = (count // devices * BLOCK_US) // WINDOW_US
    statistics: dict[str, Any] = Sketch.of(pool(16).reshape(-1, CHANNELS)[:1000]).fields()
    names = [f"c{i}" for i in range(CHANNELS)]
    start_us -= start_us % WINDOW_US
    return [
        EdgeAggregate(
            device_id=f"plant1/line2/dev-{device:04d}", boot_epoch=1, seq=second, cohort=COHORT, channels=names,
            window_start=start_us + second * WINDOW_US, window_end=start_us + (second + 1) * WINDOW_US,
            windows_scored=16, windows_escalated=16, score_max=1.0, **statistics,
        )
        for second in range(seconds)
        for device in range(devices)
    ]  # fmt: skip


def load(
    servers: str, prefix: str, folder: Path, count: int, devices: int = DEVICES, *, windows: bool = True
) -> Loaded:
    """Publish the model and write events and, with `windows`, aggregates; all acknowledged."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files(escalate_at=0.0, heavy_threshold=0.0).items():
        (folder / name).write_bytes(data)
    publish(read_package(str(folder)), servers, prefix)
    span_us = (count // devices + 1) * BLOCK_US
    start_us = time.time_ns() // 1000 - span_us - 60_000_000
    start_us -= start_us % WINDOW_US
    beside = aggregates(count, start_us, devices) if windows else []
    producer = KafkaProducer(bootstrap_servers=servers, linger_ms=20, batch_size=512 << 10, metrics_enabled=False)
    sent = []
    for record in beside:
        sent.append(producer.send(topics.AGGREGATES.named(prefix), encode(record), record.device_id.encode()))
    for event in events(count, start_us, devices):
        sent.append(producer.send(topics.EVENTS.named(prefix), encode(event), event.device_id.encode()))
    producer.flush()
    for future in sent:
        future.get(timeout=30)
    producer.close()
    return Loaded(count, len(beside), len({a.window_start for a in beside}))


class Topic:
    """Where a topic ends, and what is in it from a point on. Records are counted: some offsets end transactions."""

    def __init__(self, servers: str, name: str) -> None:
        self._consumer, self._counter = (
            KafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest", isolation_level="read_committed")
            for _ in range(2)
        )
        self._parts = [TopicPartition(name, p) for p in sorted(self._consumer.partitions_for_topic(name) or ())]
        self._consumer.assign(self._parts)
        self.begun = self.ends()
        self._counter.assign(self._parts)
        for part, offset in self.begun.items():
            self._counter.seek(part, offset)
        self._grown = 0

    def ends(self) -> dict[TopicPartition, int]:
        """End of each partition."""
        found: dict[TopicPartition, int] = self._consumer.end_offsets(self._parts)
        return found

    def grown(self) -> int:
        """Records since this object was made."""
        while records := sum(map(len, self._counter.poll(timeout_ms=0, max_records=20_000).values())):
            self._grown += records
        return self._grown

    def read(self) -> list[Any]:
        """What came since this object was made."""
        ends = self.ends()
        for part, offset in self.begun.items():
            self._consumer.seek(part, offset)
        out: list[Any] = []
        while any(self._consumer.position(part) < end for part, end in ends.items()):
            for records in self._consumer.poll(timeout_ms=200, max_records=20_000).values():
                out += records
        return out

    def close(self) -> None:
        """Let go."""
        self._consumer.close()
        self._counter.close()


def check_decisions(records: list[Any], loaded: Loaded) -> dict[str, Any]:
    """What a finished run decided. Raises AssertionError: not every event exactly once."""
    scores, seen = [], set()
    for record in records:
        decision = decode(record.value, Decision)
        seen.add(decision.identity)
        assert decision.heavy_score is not None, decision.reason
        scores.append(decision.heavy_score)
    assert len(seen) == len(records) == loaded.events, f"{len(seen)} of {loaded.events}, {len(records)} records"
    return {"decisions": len(records), "mean_score": round(float(np.mean(scores)), 6)}


def windowed(records: list[Any]) -> tuple[int, int]:
    """Aggregates in the newest revision of each fleet window, and how many windows there are."""
    newest: dict[int, int] = {}
    for record in records:
        window = decode(record.value, FleetWindow)
        newest[window.window_start] = max(window.revision, newest.get(window.window_start, 0))
    return sum(newest.values()), len(newest)


def cpu_s(processes: list[psutil.Process]) -> dict[str, float]:
    """CPU seconds of each process so far, by name."""
    used: dict[str, float] = {}
    for process in processes:
        name = "prism" if "prism" in process.name() else "python"
        used[name] = used.get(name, 0.0) + sum(process.cpu_times()[:2])
    return used
