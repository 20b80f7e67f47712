"""`tidegate train` of long and of wide recordings: seconds and peak memory of the whole process. Prints JSON.

python -m tests.bench.bench_train [--sizes 1000x1,10000000x1,100000x100,1000000x100]

Memory that is bounded does not grow from a hundred thousand rows to a million.
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

from schemas.container import ContainerWriter
from schemas.records import SensorBlock

ROOT = Path(__file__).parents[2]
STEP_US = 10_000


def write_recording(path: Path, rows: int, channels: int) -> None:
    """Sines with noise, one row every 10 ms, of which half a percent are labelled and shifted."""
    random = np.random.default_rng(7)
    block = max(64, min(8_192, 200_000 // (4 * channels)))
    with path.open("wb") as file:
        writer = ContainerWriter(file, SensorBlock, codec="null")
        for seq, first in enumerate(range(0, rows, block)):
            at = np.arange(first, min(first + block, rows))
            values = np.sin(at[:, None] / 50 + np.arange(channels)) + 0.2 * random.standard_normal((len(at), channels))
            labels = at % 20_000 >= 19_900
            values[labels] += 1.5
            writer.write(
                SensorBlock(
                    device_id="bench",
                    boot_epoch=1,
                    seq=seq,
                    cohort="bench",
                    channels=[f"c{number}" for number in range(channels)],
                    event_times=(at * STEP_US).astype("<i8").tobytes(),
                    values=values.astype("<f4").tobytes(),
                    labels=labels.astype(np.uint8).tobytes(),
                )
            )
        writer.close()


def measure(recording: Path, out: Path) -> dict[str, float]:
    """Seconds of the whole command, those of its processor, and its peak resident memory in MiB."""
    command = [sys.executable, "-m", "deploy", "train", str(recording), "-o", str(out), "--false-alarms", "1/day", "-q"]
    clock = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - clock
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"the training ended with {process.returncode}")
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_rss_mib": round(usage.ru_maxrss / 1024, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1000x1,10000000x1,100000x100,1000000x100", help="rows x channels, …")
    args = parser.parse_args()
    runs = []
    for size in args.sizes.split(","):
        rows, channels = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            recording, out = Path(folder) / "bench.avro", Path(folder) / "bench"
            write_recording(recording, rows, channels)
            mib = round(recording.stat().st_size / 2**20, 1)
            measured = measure(recording, out)
            heavy = round((out / "heavy.onnx").stat().st_size / 2**20, 1)
        runs.append({"rows": rows, "channels": channels, "recording_mib": mib, "heavy_model_mib": heavy} | measured)
    print(json.dumps(runs, indent=2))


if __name__ == "__main__":
    main()
