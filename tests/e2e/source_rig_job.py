"""The pipeline that tests and benches of the source run: records pass through, and are counted in windows.

    python -m tests.e2e.source_rig_job --prism=BIN --bootstrap=HOST:PORT --topics=in --out=out --windows=win

The value of an input record is `<device> <boot> <seq> <event time us> <padding>`.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.runners.runner import PipelineState
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from pipelines.io import flow as flows
from pipelines.io.chunk import Batch, Chunk, Outgoing, Record, WindowAck
from pipelines.io.sink import WriteToKafka, close_producers
from pipelines.io.source import ReadFromKafka
from pipelines.job import prepare
from schemas.ids import Identity


def event_time(record: Record) -> int:
    assert record.value is not None
    return int(record.value.split(b" ", 4)[3])


def identity(record: Record) -> Identity | None:
    assert record.value is not None
    device, boot, seq, _ = record.value.split(b" ", 3)
    return Identity(device.decode(), int(boot), int(seq))


class PassOn(beam.DoFn):
    """One batch per chunk: each record's identity, and when it was read, sent on."""

    def process(self, chunk: Chunk) -> Iterator[Batch]:
        out = []
        for r in chunk.fresh():
            assert r.value is not None
            out.append(Outgoing(r.key, r.value[: r.value.index(b" ", r.value.index(b" ", 0) + 1) + 40].split(b"#")[0]))
        yield Batch(out, (chunk.receipt,))


class Contribute(beam.DoFn):
    """Counts per window inside the chunk; (window end, (count, contributions)) with the window's own timestamp."""

    def __init__(self, size_us: int, lateness_us: int) -> None:
        self._size_us, self._lateness_us = size_us, lateness_us

    def process(self, chunk: Chunk) -> Iterator[Any]:
        counts: Counter[int] = Counter()
        first: dict[int, int] = {}
        late = 0
        for r in chunk.records:
            end = event_time(r) // self._size_us * self._size_us + self._size_us
            if end <= chunk.resume.horizon_us("win"):
                late += r.offset >= chunk.resume.position
                continue
            if end + self._lateness_us <= chunk.watermark_us:
                late += 1
                continue
            counts[end] += 1
            first.setdefault(end, r.offset)
        found = flows.find(chunk.flow)
        assert found is not None
        assert found.ledger is not None
        found.ledger.contribute("win", chunk.receipt, [(end, b"all", first[end]) for end in counts])
        if late:
            yield beam.pvalue.TaggedOutput("late", (late, chunk.receipt))
        for end, n in counts.items():
            yield TimestampedValue((chunk.flow, (n, 1)), Timestamp(micros=end - 1))


class Sum(beam.CombineFn):
    def create_accumulator(self) -> tuple[int, int]:
        return 0, 0

    def add_input(self, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        return a[0] + b[0], a[1] + b[1]

    def merge_accumulators(self, parts: Any) -> tuple[int, int]:
        parts = list(parts)
        return sum(p[0] for p in parts), sum(p[1] for p in parts)

    def extract_output(self, a: tuple[int, int]) -> tuple[int, int]:
        return a


class ToWindowBatch(beam.DoFn):
    def process(self, kv: Any, window: Any = beam.DoFn.WindowParam) -> Iterator[Batch]:
        flow, (n, contributions) = kv
        end = window.end.micros
        value = json.dumps({"end": end, "n": n, "at": time.time_ns() // 1000}).encode()
        yield Batch([Outgoing(b"%d" % end, value)], (), (WindowAck(flow, "win", end, b"all", contributions),))


def late_batch(late: tuple[int, Any]) -> Batch:
    return Batch([Outgoing(b"late", json.dumps({"late": late[0]}).encode())])


def build(p: beam.Pipeline, args: argparse.Namespace) -> ReadFromKafka:
    source = ReadFromKafka(
        args.topics.split(","), args.bootstrap, args.group,
        branches=["out"], lanes={"win": args.lateness} if args.windows else {},
        event_time=event_time, identity=identity if args.dedupe else None,
        disorder_s=args.disorder, idle_s=args.idle, grid_s=args.grid, max_chunk=args.max_chunk, shards=args.shards,
        start_deadline_s=args.deadline,
    )  # fmt: skip
    chunks = p | "Read" >> source
    (
        chunks
        | "PassOn" >> beam.ParDo(PassOn())
        | "WriteOut" >> WriteToKafka(args.out, args.bootstrap, branch="out", timeout_s=args.sink_timeout)
    )
    if args.windows:
        size_us = round(args.window * 1e6)
        parts = chunks | "Contribute" >> beam.ParDo(Contribute(size_us, round(args.lateness * 1e6))).with_outputs(
            "late", main="parts"
        )
        (
            parts.parts
            | "Window" >> beam.WindowInto(FixedWindows(args.window), allowed_lateness=args.lateness)
            | "Sum" >> beam.CombinePerKey(Sum())
            | "ToBatch" >> beam.ParDo(ToWindowBatch())
            | "WriteWindows" >> WriteToKafka(args.windows, args.bootstrap)
        )
        parts.late | "LateBatch" >> beam.Map(late_batch) | "WriteLate" >> WriteToKafka(args.windows, args.bootstrap)
    return source


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("prism", "bootstrap", "topics", "out", "windows", "group"):
        parser.add_argument(f"--{name}", default=None)
    for name, default in (
        ("grid", 0.05),
        ("disorder", 0.5),
        ("idle", 0.5),
        ("lateness", 2.0),
        ("window", 1.0),
        ("sink-timeout", 30.0),
    ):
        parser.add_argument(f"--{name}", type=float, default=default)
    parser.add_argument("--max-chunk", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--deadline", type=float, default=None)
    parser.add_argument("--dedupe", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("pipelines").setLevel(logging.INFO)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    p = beam.Pipeline(options=prepare(["--runner=PrismRunner", f"--prism_location={args.prism}"]))
    source = build(p, args)
    result = p.run()
    print("RUNNING", flush=True)
    while not stop.wait(0.2):
        if PipelineState.is_terminal(result.state):
            flows.abandon(source.flow)
            print("FAILED", flush=True)
            return 1
    clean = flows.stop(source.flow)
    result.cancel()
    close_producers()
    print("CLEAN" if clean else "NOT CLEAN", flush=True)
    return 0 if clean else 3


if __name__ == "__main__":
    sys.exit(main())
