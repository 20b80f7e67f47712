"""Readings per second of the edge filter on one core, against a bare loop over the same blocks in the same run.

    python tests/bench/bench_edge.py [--bootstrap HOST:PORT] [--blocks 8000] [--batch 16] [--escalated 1.0] [--core 0]

Blocks are 64 x 8 float32 of 16 devices at 1 kHz. The product path is the shell with everything in it: windows,
features, ONNX, decisions, sketches per second, Avro, spool, Kafka, acknowledgements taken in. The bare loop does
features, onnxruntime, Avro and kafka-python only, for the same share of blocks. It is run twice: flushing after every
batch, and, as the product does, only waiting for the last acknowledgement. One JSON object is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import fastavro
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edge_filters.blocks import Block
from edge_filters.device import Device, Rules, Slot
from edge_filters.engine import Engine
from edge_filters.io.kafka import KafkaOutbox
from edge_filters.io.onnx import OnnxRuntime
from edge_filters.io.spool import FileSpool
from edge_filters.shell import Limits, Shell
from edge_filters.updates import HashTrust, ModelUpdates
from schemas.codec import BOOK
from schemas.features import extract, standardise
from schemas.manifest import MANIFEST_FILE, Package, load_package
from schemas.records import EdgeEvent
from schemas.scoring import Scorer
from schemas.topics import CATALOGUE, EVENTS

READINGS, CHANNELS, DEVICES = 64, 8, 16
STATISTICS = ["mean", "std", "min", "max"]


def mlp() -> bytes:
    """An MLP 32-64-16-1 with fixed random weights."""
    random = np.random.default_rng(7)
    nodes, constants, wide, last = [], [], 32, "x"
    for layer, out in enumerate((64, 16, 1)):
        weights = random.normal(0, wide**-0.5, (wide, out)).astype(np.float32)
        constants += [numpy_helper.from_array(weights, f"w{layer}")]
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"h{layer}"]))
        last = f"h{layer}"
        if out > 1:
            nodes.append(helper.make_node("Relu", [last], [f"r{layer}"]))
            last, wide = f"r{layer}", out
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["batch", 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def files(escalate_at: float, heavy_threshold: float = 1e9) -> dict[str, bytes]:
    """The files of the MLP's package, edge and heavy model in one; its thresholds let a chosen share through."""
    data = mlp()
    windows = np.zeros((1, READINGS, CHANNELS))
    half = {
        "file": "mlp.onnx",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "input": "x",
        "feed": "features",
        "statistics": STATISTICS,
        "output": "h2",
        "self_test": {"windows": windows.tolist(), "scores": [0.0], "tolerance": 0.1},
        "threshold": heavy_threshold,
    }
    manifest = {
        "name": "mlp",
        "version": 1,
        "cohort": "bench",
        "channels": [f"c{i}" for i in range(CHANNELS)],
        "window_readings": READINGS,
        "scaling": {"centre": [0.0] * CHANNELS, "scale": [1.0] * CHANNELS},
        "levels": {"escalate_at": escalate_at, "raise_at": 1e6, "clear_at": escalate_at},
        "bounds": {"low": -1e6, "high": 1e6},
        "edge": half,
        "heavy": half,
    }
    return {MANIFEST_FILE: json.dumps(manifest).encode(), "mlp.onnx": data}


def package(escalate_at: float) -> Package:
    """The MLP as the edge has it."""
    made = files(escalate_at)
    return load_package(lambda name: made[name], ("edge",))


def make_blocks(count: int) -> list[Block]:
    """Blocks in the order in which they come: one of each device, then the next of each."""
    random = np.random.default_rng(3)
    pool = random.normal(0, 1, (256, READINGS, CHANNELS)).astype(np.float32)
    step = np.arange(READINGS, dtype=np.int64) * 1000
    start = 1_700_000_000_000_000
    return [
        Block(f"plant1/line2/dev-{at % DEVICES:02d}", start + (at // DEVICES) * READINGS * 1000 + step, pool[at % 256])
        for at in range(count)
    ]


class Queue:
    """A sensor that has its blocks in memory."""

    can_wait = True

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._left: Iterator[Block] = iter(blocks)
        self._more = len(blocks)
        self.channels: Sequence[str] = [f"c{i}" for i in range(CHANNELS)]

    def start(self, monotonic_s: float, wall_us: int) -> None:
        """Nothing to prepare."""

    def due_s(self) -> float | None:
        """At once."""
        return 0.0 if self._more else None

    def read(self) -> Block | None:
        """The next block."""
        self._more -= 1
        return next(self._left)

    def close(self) -> None:
        """Nothing is held."""


def product(
    blocks: list[Block], made: Package, bootstrap: str, prefix: str, batch: int, folder: Path
) -> dict[str, Any]:
    """The shell, until everything is acknowledged."""
    scorer = Scorer(made, "edge", OnnxRuntime(made.files["mlp.onnx"]))
    slot = Slot(scorer, "bench", ModelUpdates(made, "bench", made.manifest.channels, HashTrust()))
    rules = Rules()
    names = sorted({block.device_id for block in blocks})
    engine = Engine([Device(name, "bench", 1, slot, rules) for name in names], rules)
    sensors: dict[str, Any] = {name: Queue([b for b in blocks if b.device_id == name]) for name in names}
    outbox = KafkaOutbox(bootstrap, prefix)
    while not outbox.ready:
        time.sleep(0.01)
    spool = FileSpool(folder / "spool", max_bytes=512 * 1024 * 1024)
    shell = Shell(
        engine, sensors, spool, outbox, None, None, Limits(max_blocks=batch, drain_s=60.0, status_every_s=1e9)
    )
    clock, cpu = time.perf_counter(), time.process_time()
    finished: list[float] = []
    close = shell._close

    def closing() -> None:
        finished.append(time.perf_counter())
        close()

    shell._close = closing  # type: ignore[method-assign]
    shell.run(threading.Event())
    counters = [device.counters for device in engine.devices.values()]
    total = {name: sum(c[name] for c in counters) for name in counters[0]}
    assert total["records_acked"] == total["records_enqueued"], total
    return {
        "readings_per_s": round(len(blocks) * READINGS / (finished[0] - clock)),
        "cpu_us_per_block": round((time.process_time() - cpu) / len(blocks) * 1e6, 1),
        "records_acked": total["records_acked"],
        "events": total["windows_escalated"],
    }


def bare(
    blocks: list[Block], made: Package, bootstrap: str, prefix: str, batch: int, escalate_at: float, each: bool
) -> dict[str, Any]:
    """Features, onnxruntime, Avro, kafka-python. `each`: flush after every batch."""
    from kafka import KafkaProducer

    runtime = OnnxRuntime(made.files["mlp.onnx"])
    producer = KafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        linger_ms=0 if each else 5,
        batch_size=256 * 1024,
        metrics_enabled=False,
    )
    topic = EVENTS.named(prefix)
    producer.partitions_for(topic)
    entry = BOOK.newest(EdgeEvent)
    centre, scale = np.zeros(CHANNELS, np.float32), np.ones(CHANNELS, np.float32)
    sha, sent, seq = made.sha256, [], dict.fromkeys({b.device_id for b in blocks}, 0)
    clock, cpu = time.perf_counter(), time.process_time()
    for at in range(0, len(blocks), batch):
        part = blocks[at : at + batch]
        feed = extract(standardise(np.stack([b.values for b in part]), centre, scale), STATISTICS)
        scores = runtime.run(["h2"], {"x": feed})[0][:, 0].tolist()
        now = time.time_ns() // 1000
        for block, score in zip(part, scores, strict=True):
            seq[block.device_id] += 1
            if score < escalate_at:
                continue
            out = io.BytesIO()
            out.write(entry.header)
            event = {
                "device_id": block.device_id,
                "boot_epoch": 1,
                "seq": seq[block.device_id],
                "cohort": "bench",
                "sensed_from": int(block.times[0]),
                "sensed_to": int(block.times[-1]),
                "decided_at": now,
                "model_name": "mlp",
                "model_version": 1,
                "model_sha256": sha,
                "thresholds_version": 0,
                "policy_version": 1,
                "score": score,
                "outcome": "SUSPECT",
                "transition": "NONE",
                "reason": "suspect",
                "readings": READINGS,
                "channels": CHANNELS,
                "values": block.values.tobytes(),
            }
            fastavro.schemaless_writer(out, entry.parsed, event)
            sent.append(producer.send(topic, value=out.getvalue(), key=block.device_id.encode()))
        if each:
            producer.flush()
    producer.flush()
    took, cpu = time.perf_counter() - clock, time.process_time() - cpu
    assert all(future.succeeded() for future in sent)
    producer.close()
    return {
        "readings_per_s": round(len(blocks) * READINGS / took),
        "cpu_us_per_block": round(cpu / len(blocks) * 1e6, 1),
        "records_acked": len(sent),
    }


@contextlib.contextmanager
def broker(bootstrap: str | None, folder: Path) -> Iterator[str]:
    """The broker that was named, or one of our own, with the catalogue's topics under `bench.`."""
    from deploy.broker import Broker
    from deploy.cluster import Cluster, TopicState

    own = None if bootstrap else Broker(folder / "broker").start()
    servers = bootstrap or (own.bootstrap_servers if own else "")
    topics = [TopicState(t.named("bench."), t.partitions, t.config) for t in CATALOGUE]
    try:
        with Cluster(servers) as cluster:
            cluster.create(topics)
        yield servers
        if own is None:
            with Cluster(servers) as cluster:
                cluster.delete(t.name for t in topics)
    finally:
        if own is not None:
            own.stop()


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--bootstrap", default=None)
    arguments.add_argument("--blocks", type=int, default=8000)
    arguments.add_argument("--batch", type=int, default=16)
    arguments.add_argument("--escalated", type=float, default=1.0, help="share of the blocks that is sent as events")
    arguments.add_argument("--core", type=int, default=None, help="pin this process to one core")
    arguments.add_argument("--rounds", type=int, default=3)
    args = arguments.parse_args()
    blocks = make_blocks(args.blocks)
    runtime = OnnxRuntime(mlp())
    zero, one = np.zeros(CHANNELS, np.float32), np.ones(CHANNELS, np.float32)
    feed = extract(standardise(np.stack([b.values for b in blocks[:256]]), zero, one), STATISTICS)
    scores = np.sort(runtime.run(["h2"], {"x": feed})[0][:, 0])
    escalate_at = float(scores[0]) - 1.0 if args.escalated >= 1 else float(np.quantile(scores, 1 - args.escalated))
    made = package(escalate_at)
    sys.setswitchinterval(0.0005)
    rounds: dict[str, list[dict[str, Any]]] = {"product": [], "bare_flush_each_batch": [], "bare_flush_at_end": []}
    with tempfile.TemporaryDirectory() as folder, broker(args.bootstrap, Path(folder)) as servers:
        if args.core is not None:
            os.sched_setaffinity(0, {args.core})
        for number in range(args.rounds):
            at = Path(folder) / str(number)
            rounds["product"].append(product(blocks, made, servers, "bench.", args.batch, at))
            for name, each in (("bare_flush_each_batch", True), ("bare_flush_at_end", False)):
                rounds[name].append(bare(blocks, made, servers, "bench.", args.batch, escalate_at, each))
    runs = rounds["product"]
    for run in runs:
        run["readings_per_cpu_s"] = round(READINGS / run["cpu_us_per_block"] * 1e6)
    best = {name: max(found, key=lambda r: r["readings_per_s"]) for name, found in rounds.items()}
    report = {
        "blocks": args.blocks,
        "batch": args.batch,
        "escalated": args.escalated,
        **best,
        "runs": runs,
        "ratios": _ratios(runs, rounds["bare_flush_each_batch"]),
        "ratios_to_async": _ratios(runs, rounds["bare_flush_at_end"]),
        "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    print(json.dumps(report, indent=1))


def _ratios(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[float]:
    """Rate of each run over that of the bare run beside it."""
    return [round(a["readings_per_s"] / b["readings_per_s"], 3) for a, b in zip(ours, theirs, strict=True)]


if __name__ == "__main__":
    main()
