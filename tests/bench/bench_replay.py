"""Readings per second of an offline replay: recording in, edge model, decisions and records out, in one process.

    python -m tests.bench.bench_replay [--readings 2000000] [--devices 4] [--rounds 3] [--escalated 0.01]

Readings of 8 channels at 1 kHz in a compressed recording, as `tidegate import` writes it. One JSON object is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from edge_filters.io.onnx import OnnxRuntime
from edge_filters.run import replay
from schemas.container import ContainerWriter
from schemas.features import extract
from schemas.records import Floats, SensorBlock
from tests.bench.bench_edge import CHANNELS, READINGS, STATISTICS, files, mlp

BLOCK = 4096


def noise() -> Floats:
    """A block of noise in steps of 1/256, which compresses about as far as measured signals do."""
    random = np.random.default_rng(5)
    return np.round(random.normal(0, 1, (BLOCK, CHANNELS)) * 256).astype(np.float32) / np.float32(256)


def record(path: Path, device: str, readings: int) -> None:
    """A recording of that block again and again, each time shifted by a window."""
    rows = noise()
    start_us = 1_700_000_000_000_000
    with path.open("wb") as file:
        writer = ContainerWriter(file, SensorBlock)
        for seq, at in enumerate(range(0, readings, BLOCK)):
            count = min(BLOCK, readings - at)
            times = start_us + (at + np.arange(count, dtype="<i8")) * 1000
            writer.write(
                SensorBlock(
                    device_id=device, boot_epoch=1, seq=seq, cohort="bench",
                    channels=[f"c{i}" for i in range(CHANNELS)], event_times=times.tobytes(),
                    values=np.roll(rows, seq * READINGS, axis=0)[:count].tobytes(),
                )
            )  # fmt: skip
        writer.close()


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--readings", type=int, default=2_000_000)
    arguments.add_argument("--devices", type=int, default=4)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--escalated", type=float, default=0.01)
    args = arguments.parse_args()
    feed = extract(noise().reshape(-1, READINGS, CHANNELS), STATISTICS)
    scores = OnnxRuntime(mlp()).run(["h2"], {"x": feed})[0][:, 0]
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").mkdir()
        for file, data in files(escalate_at=float(np.quantile(scores, 1 - args.escalated))).items():
            (folder / "model" / file).write_bytes(data)
        paths = [folder / f"dev-{number}.avro" for number in range(args.devices)]
        for path in paths:
            record(path, path.stem, args.readings // args.devices)
        for number in range(args.rounds):
            clock, cpu = time.perf_counter(), time.process_time()
            ledger = replay(paths, folder / "model", folder / f"out-{number}")
            took, used = time.perf_counter() - clock, time.process_time() - cpu
            assert ledger["readings_sensed"] == args.readings // args.devices * args.devices, ledger
            runs.append(
                {
                    "readings_per_s": round(ledger["readings_sensed"] / took),
                    "readings_per_cpu_s": round(ledger["readings_sensed"] / used),
                    "windows_scored": ledger["windows_scored"],
                    "windows_escalated": ledger["windows_escalated"],
                }
            )
    print(json.dumps({"readings": args.readings, "devices": args.devices, "runs": runs}, indent=1))


if __name__ == "__main__":
    main()
