"""The Kafka source, sink and ledger on a real broker and on Prism: what goes in comes out, once, and on time."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition

from deploy.broker import Broker
from tests.e2e.source_rig import Job, Reader, create_topic, new_topic, producer
from tests.wait import until

pytestmark = [pytest.mark.kafka, pytest.mark.prism, pytest.mark.timeout(120)]


class Sender:
    """Sends records of the rig's form and remembers them."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self._out = producer(broker.bootstrap_servers)
        self.topic, self.sent, self._seq = topic, [], Counter()  # type: list[tuple[str, int, int]]

    def send(self, partition: int, event_us: int, device: str | None = None, seq: int | None = None) -> None:
        device = device or f"p{partition}"
        if seq is None:
            seq = self._seq[device]
            self._seq[device] += 1
            self.sent.append((device, seq, event_us))
        value = f"{device} 1 {seq} {event_us} #".encode() + b"x" * 200
        self._out.send(self.topic, value, key=device.encode(), partition=partition)

    def flush(self) -> None:
        self._out.flush()

    def live(self, seconds: float, rate: float, partitions: list[int], jitter_us: int = 0) -> None:
        begun = time.monotonic()
        n = 0
        while (passed := time.monotonic() - begun) < seconds:
            while n < passed * rate:
                self.send(partitions[n % len(partitions)], now_us() - (n * 7919) % (jitter_us + 1))
                n += 1
            time.sleep(0.005)
        self.flush()

    def windows(self, size_us: int = 1_000_000) -> dict[int, int]:
        return dict(Counter(at // size_us * size_us + size_us for _, _, at in self.sent))


class Rig:
    """Topics, a job and readers of its outputs."""

    def __init__(self, broker: Broker, prism: Path, partitions: int = 1) -> None:
        self.broker, self._prism = broker, prism
        servers = broker.bootstrap_servers
        self.topic = new_topic(servers, "in", partitions)
        self.out, self.win = new_topic(servers, "out"), new_topic(servers, "win")
        self.group = self.topic.replace("in-", "group-")
        self.sender = Sender(broker, self.topic)
        self.reader, self.windows = (
            Reader(broker.bootstrap_servers, self.out),
            Reader(broker.bootstrap_servers, self.win),
        )
        self.partitions = partitions
        self.jobs: list[Job] = []

    def start(self, *args: str, wait: bool = True) -> Job:
        job = Job(
            self._prism, f"--bootstrap={self.broker.bootstrap_servers}", f"--topics={self.topic}", f"--out={self.out}",
            f"--windows={self.win}", f"--group={self.group}", *args,
        )  # fmt: skip
        self.jobs.append(job)
        if wait:
            until(lambda: job.says("reading"), "job reads", within_s=40)
        return job

    def came_out(self, timeout_s: float = 30) -> list[tuple[str, int]]:
        """Identities in the output topic, once all that was sent is among them."""
        want = {(d, s) for d, s, _ in self.sender.sent}
        self.reader.read_until("everything that was sent", lambda r: want <= set(map(identity_of, r)), timeout_s)
        return list(map(identity_of, self.reader.records))

    def window_counts(self) -> dict[int, int]:
        """Count of each window, a later record in the place of an earlier one."""
        return {w["end"]: w["n"] for w in map(json_of, self.windows.records) if "end" in w}

    def windows_are_right(self, timeout_s: float = 20) -> None:
        want = self.sender.windows()
        deadline = time.monotonic() + timeout_s
        while self.window_counts() != want and time.monotonic() < deadline:
            self.windows.more()
        assert self.window_counts() == want
        assert self.late() == 0

    def late(self) -> int:
        return sum(w.get("late", 0) for w in map(json_of, self.windows.records))

    def committed(self) -> dict[int, int | None]:
        consumer = KafkaConsumer(bootstrap_servers=self.broker.bootstrap_servers, group_id=self.group)
        try:
            return {p: consumer.committed(TopicPartition(self.topic, p)) for p in range(self.partitions)}
        finally:
            consumer.close()

    def close(self) -> None:
        for job in self.jobs:
            job.kill()
        self.reader.close()
        self.windows.close()


def now_us() -> int:
    return time.time_ns() // 1000


def identity_of(record: Any) -> tuple[str, int]:
    device, _, seq, _ = record.value.split(b" ", 3)
    return device.decode(), int(seq)


def json_of(record: Any) -> dict[str, int]:
    found: dict[str, int] = json.loads(record.value)
    return found


@pytest.fixture
def rig(broker: Broker, prism: Path, request: pytest.FixtureRequest) -> Iterator[Rig]:
    it = Rig(broker, prism, getattr(request, "param", 1))
    yield it
    for job in it.jobs:  # pytest shows this when the test failed
        print("--- job log ---\n" + job.tail())
    it.close()


@pytest.mark.parametrize("rig", [3], indirect=True)
def test_steady_load_comes_out_once_and_duplicates_are_dropped(rig: Rig) -> None:
    job = rig.start("--dedupe")
    rig.sender.live(4, 500, [0, 1, 2])
    again = rig.sender.sent[-100:]
    for device, seq, at in again:
        rig.sender.send(int(device[1:]), at, device, seq)
    rig.sender.live(1, 100, [0, 1, 2])
    out = rig.came_out()
    rig.windows_are_right()
    assert len(out) == len(set(out)) == len(rig.sender.sent)
    assert job.stop() == 0


@pytest.mark.parametrize("rig", [4], indirect=True)
def test_idle_slow_and_backlogged_partitions_neither_stall_windows_nor_make_data_late(rig: Rig) -> None:
    start = now_us()
    for n in range(6000):  # partition 0: dense and old; 1: sparse and old, then slow; 2: live; 3: never written
        rig.sender.send(0, start - 20_000_000 + n * 3_000)
    for n in range(10):
        rig.sender.send(1, start - 20_000_000 + n * 2_000_000)
    rig.sender.flush()
    rig.start("--max-chunk=200")
    loader = threading.Thread(target=rig.sender.live, args=(6, 200, [2, 2, 2, 0]))
    loader.start()
    until(lambda: len(rig.sender.sent) > 6_610, "half of the live load is sent")
    rig.sender.send(1, now_us())
    rig.sender.flush()
    while loader.is_alive():
        rig.windows.more()
    fired_while_live = [w for w in map(json_of, rig.windows.records) if w.get("end", 0) > start]
    loader.join()
    rig.windows_are_right()
    assert len(fired_while_live) >= 2
    assert sorted(rig.came_out()) == sorted((d, s) for d, s, _ in rig.sender.sent)


def test_a_clock_far_in_the_future_does_not_make_others_late(rig: Rig) -> None:
    rig.start()
    rig.sender.live(1, 100, [0])
    rig.sender.send(0, now_us() + 3_600_000_000, "fast", 0)
    rig.sender.live(3, 100, [0])
    want = rig.sender.windows()
    rig.windows.read_until("every window but the future one", lambda _: rig.window_counts() == want, 15)
    assert rig.late() == 0


@pytest.mark.parametrize("rig", [2], indirect=True)
def test_a_broker_restart_loses_nothing_and_makes_nothing_late(rig: Rig, broker: Broker) -> None:
    job = rig.start("--dedupe")
    loader = threading.Thread(target=rig.sender.live, args=(5, 200, [0, 1]))
    loader.start()
    until(lambda: len(rig.sender.sent) > 400, "two seconds of load are sent")
    broker.kill()
    until(lambda: job.says("waiting for Kafka"), "the source sees the outage")
    broker.start()
    loader.join()
    out = rig.came_out()
    rig.windows_are_right()
    assert len(out) == len(set(out))
    assert job.says("Kafka is back")
    assert job.stop() == 0


@pytest.mark.parametrize("victim", ["driver", "prism"])
@pytest.mark.parametrize("rig", [2], indirect=True)
def test_kill_minus_nine_and_restart_lose_no_record_and_no_part_of_a_window(rig: Rig, victim: str) -> None:
    loader = threading.Thread(target=rig.sender.live, args=(9, 300, [0, 1], 200_000))
    job = rig.start("--dedupe")
    loader.start()
    until(lambda: len(rig.sender.sent) > 990, "a third of the load is sent")
    if victim == "prism":
        os.kill(job.prism_pid(), 9)
        until(lambda: job.process.poll() is not None, "the driver notices", within_s=15)
        assert job.process.returncode != 0
    job.kill()
    rig.start("--dedupe")
    loader.join()
    rig.came_out()
    rig.windows_are_right()


@pytest.mark.parametrize("rig", [2], indirect=True)
def test_sigterm_commits_what_was_answered_and_the_next_run_repeats_nothing(rig: Rig) -> None:
    job = rig.start("--dedupe")
    loader = threading.Thread(target=rig.sender.live, args=(9, 300, [0, 1]))
    loader.start()
    until(lambda: all(rig.committed().values()), "the first windows are closed and their offsets committed")
    assert job.stop() == 0
    assert job.says("CLEAN")
    rig.start("--dedupe")
    loader.join()
    out = rig.came_out()
    rig.windows_are_right()
    assert len(out) == len(set(out))


def test_a_duplicate_of_what_an_earlier_run_committed_is_still_dropped(rig: Rig) -> None:
    job = rig.start("--dedupe")
    rig.sender.live(1, 100, [0])
    rig.came_out()
    until(lambda: (rig.committed()[0] or 0) > 0, "committed")
    assert job.stop() == 0
    for device, seq, at in rig.sender.sent[-20:]:
        rig.sender.send(0, at, device, seq)
    rig.start("--dedupe")
    rig.sender.live(1, 50, [0])
    out = rig.came_out()
    assert len(out) == len(set(out))


def test_a_topic_that_is_missing_at_start_is_waited_for(broker: Broker, prism: Path) -> None:
    rig = Rig(broker, prism)
    rig.topic = rig.sender.topic = rig.topic + "-later"
    try:
        job = rig.start(wait=False)
        until(lambda: job.says("topics are missing"), "says so", within_s=40)
        create_topic(broker.bootstrap_servers, rig.topic)
        rig.sender.live(1, 50, [0])
        rig.came_out()
    finally:
        rig.close()


def test_a_broker_that_never_comes_ends_the_run_with_a_sentence_after_the_deadline(rig: Rig, prism: Path) -> None:
    job = Job(
        prism, "--bootstrap=127.0.0.1:9", f"--topics={rig.topic}", f"--out={rig.out}", "--deadline=2", "--group=g"
    )
    try:
        until(lambda: job.process.poll() is not None, "the job ends", within_s=40)
        assert job.process.returncode != 0
        assert "found no way to start within 2 s" in job.tail(20_000)
    finally:
        job.kill()
