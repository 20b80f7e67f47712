"""What a record costs as devices and partitions grow: CPU per record, best of the rounds, with two plots in docs/.

    python -m tests.bench.bench_growth [--devices 1,10,100,1000] [--partitions 1,4,16,64] [--count 20000] [--rounds 3]

Devices: blocks of 64 x 8 float32 through the edge's engine and encoder in steps of 16, every window escalated, without
Kafka. Partitions: events from 256 devices through the whole pipeline on Prism. One JSON object is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from deploy.broker import Broker
from edge_filters.blocks import Block
from edge_filters.device import Device, Rules, Slot
from edge_filters.engine import Engine
from edge_filters.io.onnx import OnnxRuntime
from edge_filters.outgoing import pack
from edge_filters.updates import HashTrust, ModelUpdates
from schemas.scoring import Scorer
from tests.bench.bench_edge import package
from tests.bench.bench_pipeline import create_topics, product
from tests.bench.plot import Point, svg
from tests.bench.yardstick import BLOCK_US, load, pool

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS, STEP = 8000, 16


def edge(devices: int) -> float:
    """CPU of the engine per block, microseconds; nothing of it is building the devices or the blocks."""
    made = package(escalate_at=-1e5)
    slot = Slot(
        Scorer(made, "edge", OnnxRuntime(made.files["mlp.onnx"])),
        "bench",
        ModelUpdates(made, "bench", made.manifest.channels, HashTrust()),
    )
    rules, names = Rules(), [f"plant1/line2/dev-{at:04d}" for at in range(devices)]
    engine = Engine([Device(name, "bench", 1, slot, rules) for name in names], rules)
    values, start_us = pool(), 1_700_000_000_000_000
    times = [block_times(start_us + at * BLOCK_US) for at in range((BLOCKS + 1024) // devices + 1)]
    blocks = [Block(names[at % devices], times[at // devices], values[at % len(values)]) for at in range(BLOCKS + 1024)]
    steps = [blocks[at : at + STEP] for at in range(0, len(blocks), STEP)]
    warm = 1024 // STEP
    for step in steps[:warm]:
        _encode(engine, step)
    begun = time.process_time()
    for step in steps[warm:]:
        _encode(engine, step)
    return (time.process_time() - begun) / BLOCKS * 1e6


def block_times(start_us: int) -> Any:
    """Event times of one block at 1 kHz."""
    return start_us + np.arange(64, dtype=np.int64) * 1000


def _encode(engine: Engine, blocks: list[Block]) -> None:
    for record in engine.step(blocks, lambda: 1_700_000_000_000_000).records:
        pack(record)


def cloud(partitions: int, count: int, rounds: int) -> list[float]:
    """CPU of worker, Prism and supervisor per event, microseconds, of each round."""
    with tempfile.TemporaryDirectory() as name, Broker(Path(name) / "broker") as broker:
        folder, servers = Path(name), broker.bootstrap_servers
        create_topics(servers, "bench.", partitions)
        loaded = load(servers, "bench.", folder / "mlp", count, 256)
        runs = [product(servers, "bench.", loaded, folder, None) for _ in range(rounds)]
    return [1e6 / run["records_per_cpu_s"] for run in runs]


def _points(measured: dict[int, list[float]]) -> list[Point]:
    return [Point(x, min(values), min(values), max(values)) for x, values in measured.items()]


def _growth(points: list[Point]) -> float:
    return round(points[-1].best / points[0].best, 3)


def main() -> None:
    """Run, plot and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--devices", default="1,10,100,1000")
    arguments.add_argument("--partitions", default="1,4,16,64", help="empty: only devices")
    arguments.add_argument("--count", type=int, default=20_000)
    arguments.add_argument("--rounds", type=int, default=3)
    args = arguments.parse_args()
    report: dict[str, Any] = {}
    devices: dict[int, list[float]] = {int(n): [] for n in args.devices.split(",")}
    for _ in range(args.rounds):  # rounds outside: a slow minute of the machine meets every number of devices
        for number, values in devices.items():
            values.append(round(edge(number), 1))
    points = _points(devices)
    report |= {"devices": devices, "devices_growth": _growth(points)}
    title = "Edge: CPU per block of 64 x 8 readings, by devices in one process"
    (DOCS / "growth-devices.svg").write_text(svg(title, "devices", "us per block", [("engine + encoder", points)]))
    if args.partitions:
        partitions = {}
        for number in map(int, args.partitions.split(",")):
            partitions[number] = [round(us, 1) for us in cloud(number, args.count, args.rounds)]
            print(f"{number} partitions: {partitions[number]}", file=sys.stderr)
        points = _points(partitions)
        report |= {"partitions": partitions, "partitions_growth": _growth(points)}
        title = "Pipeline on Prism: CPU per event of 2.1 kB, by partitions of each topic"
        (DOCS / "growth-partitions.svg").write_text(
            svg(title, "partitions", "us per event", [("worker + Prism + supervisor", points)])
        )
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
