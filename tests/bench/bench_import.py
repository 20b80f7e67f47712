"""`tidegate import` of a CSV file of ROWS x CHANNELS: seconds and peak memory of the whole process. Prints JSON.

python tests/bench/bench_import.py [--rows 1000000] [--channels 8] [--rounds 3]

Two sizes are run: memory that is bounded is the same for both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


def write_csv(path: Path, rows: int, channels: int) -> None:
    """Random walks with six digits, one row every 10 ms, times as text with milliseconds."""
    random = np.random.default_rng(7)
    start = np.datetime64("2024-03-01T00:00:00.000")
    level = np.zeros(channels)
    with path.open("w") as file:
        file.write(",".join(["time", *(f"s{at}" for at in range(channels))]) + "\n")
        for first in range(0, rows, 50_000):
            count = min(50_000, rows - first)
            walk = level + np.cumsum(random.normal(0, 0.1, (count, channels)), axis=0)
            level = walk[-1]
            times = start + np.arange(first, first + count) * np.timedelta64(10, "ms")
            for at, row in zip(times.astype(str).tolist(), walk.tolist(), strict=True):
                file.write(at + "," + ",".join(f"{value:.6f}" for value in row) + "\n")


def measure(table: Path, out: Path) -> tuple[float, float, float]:
    """Seconds of the whole command, those of its processor, and its peak resident memory in MiB."""
    command = [sys.executable, "-m", "deploy", "import", str(table), "-o", str(out), "--quiet", "--format", "json"]
    clock = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - clock
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"the import ended with {process.returncode}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        table, out = Path(folder) / "bench.csv", Path(folder) / "bench.avro"
        for rows in (args.rows // 4, args.rows):
            write_csv(table, rows, args.channels)
            taken = [measure(table, out) for _ in range(args.rounds)]
            runs.append(
                {
                    "rows": rows,
                    "channels": args.channels,
                    "csv_mib": round(table.stat().st_size / 2**20, 1),
                    "recording_mib": round(out.stat().st_size / 2**20, 1),
                    "seconds": [round(seconds, 2) for seconds, _, _ in taken],
                    "best_seconds": round(min(seconds for seconds, _, _ in taken), 2),
                    "best_cpu_seconds": round(min(cpu for _, cpu, _ in taken), 2),
                    "peak_rss_mib": round(max(rss for _, _, rss in taken), 1),
                }
            )
    print(json.dumps(runs, indent=2))


if __name__ == "__main__":
    main()
