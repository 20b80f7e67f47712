"""The Kafka source on Prism under a steady load, and from a backlog; prints one JSON line per run.

    python -m tests.bench.source_live --seconds 60 --rate 1000 --dedupe
    python -m tests.bench.source_live --backlog 60000

Latency is from the producer's call to the broker's append time of the record that the sink wrote.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from deploy import paths
from deploy.broker import Broker
from tests.e2e.source_rig import Job, Reader, new_topic, percentile, producer
from tests.wait import until


def load(bootstrap: str, topic: str, partitions: int, rate: float, seconds: float, size: int, first: int = 0) -> int:
    """Send at a steady rate from 16 devices; the number of records sent."""
    out = producer(bootstrap)
    pad = b"x" * size
    begun, n, total = time.monotonic(), 0, int(rate * seconds)
    while n < total:
        due = int((time.monotonic() - begun) * rate)
        while n < min(due, total):
            device = n % 16
            now_us = time.time_ns() // 1000
            out.send(
                topic,
                b"d%d 1 %d %d #%b" % (device, first + n, now_us, pad),
                key=b"d%d" % device,
                partition=device % partitions,
            )
            n += 1
        time.sleep(0.002)
    out.flush()
    out.close()
    return n


class Meter(threading.Thread):
    """CPU seconds and resident memory of the driver and of Prism, sampled once a second."""

    def __init__(self, job: Job) -> None:
        super().__init__(daemon=True)
        self.who = {"python": psutil.Process(job.process.pid), "prism": psutil.Process(job.prism_pid())}
        self.begin = {k: sum(p.cpu_times()[:2]) for k, p in self.who.items()}
        self.begun = time.monotonic()
        self.rss: dict[str, list[float]] = {k: [] for k in self.who}
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(1.0):
            for k, p in self.who.items():
                self.rss[k].append(p.memory_info().rss / 1e6)

    def report(self) -> dict[str, Any]:
        self.done.set()
        wall = time.monotonic() - self.begun
        out: dict[str, Any] = {}
        for k, p in self.who.items():
            out[f"cpu_{k}"] = round((sum(p.cpu_times()[:2]) - self.begin[k]) / wall, 3)
            rss = self.rss[k]
            third = max(1, len(rss) // 3)
            if rss:
                out[f"rss_{k}_mb"] = [round(sum(part) / len(part), 1) for part in (rss[:third], rss[-third:])]
        return out


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--size", type=int, default=2000)
    parser.add_argument("--partitions", type=int, default=2)
    parser.add_argument("--backlog", type=int, default=0)
    parser.add_argument("--idle", type=float, default=0)
    args, extra = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder, Broker(Path(folder)) as broker:
        servers = broker.bootstrap_servers
        topic, out, win = (
            new_topic(servers, "in", args.partitions),
            new_topic(servers, "out"),
            new_topic(servers, "win"),
        )
        total = 0
        if args.backlog:
            total = load(broker.bootstrap_servers, topic, args.partitions, 1e9, args.backlog / 1e9, args.size)
        job = Job(
            paths.prism(), f"--bootstrap={broker.bootstrap_servers}", f"--topics={topic}", f"--out={out}",
            f"--windows={win}", "--group=bench", *extra,
        )  # fmt: skip
        try:
            until(lambda: job.says("reading"), "the job reads", within_s=60)
            warm = 0
            if not args.backlog:
                warm = load(broker.bootstrap_servers, topic, args.partitions, 100, 2, args.size)
            meter = Meter(job)
            meter.start()
            begun = time.monotonic()
            if args.idle:
                time.sleep(args.idle)
            elif not args.backlog:
                total = load(broker.bootstrap_servers, topic, args.partitions, args.rate, args.seconds, args.size, warm)
            reader, windows = Reader(broker.bootstrap_servers, out), Reader(broker.bootstrap_servers, win)
            records = reader.read_until("all", lambda r: len(r) >= total + warm, 120)
            report = meter.report()
            took = max(r.timestamp for r in records) - min(r.timestamp for r in records)

            def in_windows(r: list[Any]) -> int:
                return sum(json.loads(w.value).get("n", 0) for w in r)

            windows.read_until("windows", lambda r: in_windows(r) >= total + warm, 30)
            time.sleep(0.5)
            reader.more()
            distinct = {r.value.rsplit(b" ", 2)[0] for r in reader.records}
            lag = [w["at"] / 1e6 - w["end"] / 1e6 for w in (json.loads(w.value) for w in windows.records) if "end" in w]
            late = sum(json.loads(w.value).get("late", 0) for w in windows.records)
            latency = [r.timestamp / 1000 - int(r.value.split()[3]) / 1e6 for r in records[warm:]] or [0.0]
            report |= {
                "args": extra,
                "partitions": args.partitions,
                "sent": total + warm,
                "out": len(reader.records),
                "distinct": len(distinct),
                "p50": round(percentile(latency, 0.5), 4),
                "p99": round(percentile(latency, 0.99), 4),
                "max": round(max(latency), 3),
                "windowed": in_windows(windows.records),
                "late": late,
                "window_lag_p50": round(percentile(lag, 0.5), 3) if lag else None,
                "wall_s": round(time.monotonic() - begun, 1),
            }
            if args.backlog:
                report["records_per_s"] = round(total / (took / 1000))
            report["exit"] = job.stop()
            print(json.dumps(report), flush=True)
            if report["exit"]:
                print(job.tail(), file=sys.stderr)
        except BaseException:
            print(job.tail(), file=sys.stderr)
            raise
        finally:
            job.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
