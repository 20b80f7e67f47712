"""CPU time per record of each stage of the pipeline, without Kafka and Beam around it, and a profile of the slowest.

    python -m tests.bench.bench_stages [--rounds 7] [--profile STAGE] [--top 12]

One chunk of 1,000 events of 2.1 kB goes through the same code that the pipeline runs. The best of the rounds counts.
One JSON object is printed; the profile goes to standard error.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import os
import pstats
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from pipelines import decide
from pipelines.dedupe import Dedupe
from pipelines.heavy import _Judge
from pipelines.io.bulk import Lot
from pipelines.io.chunk import Chunk, Record, Resume
from pipelines.io.feed_config import FeedConfig, Start
from pipelines.io.flow import FlowConfig
from pipelines.io.loop import Loop, SourceConfig
from pipelines.io.partition import Partition
from pipelines.io.readahead import Taken
from pipelines.io.shard import At, ShardState
from pipelines.io.watermark import WatermarkRule
from pipelines.job import event_time, identity
from pipelines.limits import FailureLimit
from pipelines.split import WindowRule, _Split
from schemas import topics
from schemas.codec import decode, encode
from schemas.records import EdgeEvent
from tests.bench.bench_edge import files
from tests.bench.yardstick import events

RECORDS = 1000


def _fetched(records: list[Record]) -> bytes:
    """The records as a broker sends them: batches of 16."""
    parts = []
    for at in range(0, len(records), 16):
        builder = MemoryRecordsBuilder(2, 0, 1 << 20)
        for record in records[at : at + 16]:
            builder.append(record.append_time_ms, record.key, record.value, [])
        builder.close()
        parts.append(bytes(builder.buffer()))
    return b"".join(parts)


def stages(folder: Path) -> dict[str, Callable[[], Any]]:
    """Name -> what it does with 1,000 records."""
    for name, data in files(escalate_at=0.0, heavy_threshold=0.0).items():
        (folder / name).write_bytes(data)
    made = events(RECORDS, 1_700_000_000_000_000)
    payloads = [encode(event) for event in made]
    records = [
        Record(i, e.device_id.encode(), p, 1_700_000_900_000)
        for i, (e, p) in enumerate(zip(made, payloads, strict=True))
    ]
    chunk = Chunk("", topics.EVENTS.name, 0, 0, RECORDS, 0, records, Resume())
    rule = WatermarkRule(disorder_us=2_000_000, idle_us=1_000_000, future_us=1_000_000)
    nowhere = FeedConfig(topics=(topics.EVENTS.name,), bootstrap_servers="")
    flow = FlowConfig(name="", feed=nowhere)
    loop = Loop(SourceConfig(flow=flow, rule=rule, event_time=event_time, identity=identity))
    partition, start = Partition(topics.EVENTS.name, 0), Start(0, 0, Resume())
    splitter = _Split("", WindowRule(size_us=5_000_000, lateness_us=60_000_000), False, FailureLimit())
    lanes = next(splitter.process(chunk))
    judge = _Judge((str(folder),), recorded_clock=False)
    judge.setup()
    batch = next(judge.process(lanes))
    decided = [decode(r.value, topics.DECISIONS.record) for r in batch.records]
    fetched = _fetched(records)

    def source() -> Any:
        shard = ShardState(at={partition: At(0, 0)})
        flow: Any = types.SimpleNamespace(ledger=None)
        return loop._advance(flow, shard, partition, start, Taken(records, RECORDS), Dedupe())

    def fetch() -> Any:
        return [Record(r.offset, r.key, r.value, r.timestamp) for part in MemoryRecords(fetched) for r in part]

    return {
        "fetch: record batches to records": fetch,
        "source: times, dedupe, watermark": source,
        "split: decode and check": lambda: list(splitter.process(chunk)),
        "split, of this decode": lambda: [decode(p, EdgeEvent) for p in payloads],
        "heavy: features, model, decisions, encode": lambda: list(judge.process(lanes)),
        "heavy, of this decisions": lambda: [decide.by_heavy_model(e, 1.0, 0.0, 1, b"m" * 32, 1) for e in lanes.events],
        "heavy, of this encode": lambda: [encode(d) for d in decided],
        "sink: record batches": lambda: Lot("t", 4, 256 << 10, 1 << 20).add(batch.records),
    }


def measure(work: Callable[[], Any], rounds: int) -> float:
    """Microseconds of CPU per record, the best of the rounds."""
    work()
    best = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        work()
        best = min(best, time.process_time() - begun)
    return best / RECORDS * 1e6


def profile(work: Callable[[], Any], top: int) -> str:
    """Where the time goes, by function."""
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(5):
        work()
    profiler.disable()
    out = io.StringIO()
    pstats.Stats(profiler, stream=out).strip_dirs().sort_stats("tottime").print_stats(top)
    return out.getvalue()


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--profile", default="", help="part of the name of the stage; default: the slowest one")
    arguments.add_argument("--top", type=int, default=12)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = stages(Path(folder))
        took = {name: round(measure(step, args.rounds), 2) for name, step in work.items()}
        whole = {name: us for name, us in took.items() if ", of this" not in name}
        slowest = next((n for n in took if args.profile and args.profile in n), max(whole, key=lambda n: whole[n]))
        table = profile(work[slowest], args.top)
    print(f"profile of the slowest stage, {slowest}:\n{table}", file=sys.stderr)
    print(json.dumps({"us_per_record": took, "sums": [round(sum(whole.values()), 1)], "slowest": slowest}, indent=1))


if __name__ == "__main__":
    main()
