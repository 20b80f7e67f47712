"""Does the checkpoint of the pipeline on Flink grow? `python -m tests.bench.flink_soak --minutes 60 --rate 100`

A constant load for the first half and nothing for the second, on a real broker and a real cluster of two TaskManagers.
Prints one JSON object with the slope of the checkpoint's size in each half and its standard error, bytes per second,
and writes every checkpoint into a CSV file and a picture. It exits with 1 where a slope is more than twice its error
and would fill 100 MB in a month.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deploy import svg
from deploy.broker import Broker
from deploy.cluster import Cluster, TopicState
from deploy.flink.cluster import FlinkCluster
from deploy.flink.rest import Checkpoint
from pipelines.publish import publish, read_package
from schemas import topics
from schemas.topics import CATALOGUE
from tests.doubles import records as make
from tests.doubles.tiny_model import write_package
from tests.e2e.flink_rig import OnFlink

PREFIX = "soak."
DEVICES = 8
#: State that grows with the devices and with the dedupe's memory of the last records settles in this time, seconds.
SETTLE_S = 60.0
#: 100 MB in thirty days.
TOO_STEEP = 100e6 / (30 * 86400)
WIDTH, HEIGHT, MARGIN = 640.0, 260.0, 50.0


def slope(points: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Least-squares slope of (seconds, bytes), and its standard error, both bytes per second; needs three points."""
    at, size = np.array(points, float).T
    at = at - at.mean()
    spread = float((at**2).sum())
    rise = float((at * size).sum()) / spread
    rest = size - size.mean() - rise * at
    return rise, float(np.sqrt((rest**2).sum() / (len(points) - 2) / spread))


def drawn(points: Sequence[tuple[float, int]], idle_from_s: float) -> str:
    """Checkpoint size over time as a picture."""
    last_s, top = max(p[0] for p in points), max(p[1] for p in points) * 1.1

    def x(at_s: float) -> float:
        return MARGIN + (WIDTH - MARGIN - 20) * at_s / last_s

    def y(size: float) -> float:
        return HEIGHT - MARGIN + (2 * MARGIN - HEIGHT) * size / top

    axis, end = {"font_size": "12", "font_family": "sans-serif"}, {"text_anchor": "end"}
    parts = [
        svg.text("", MARGIN, 20, "Checkpoint of the pipeline on Flink, MB over minutes; idle from the mark on", **axis),
        *(svg.text("", MARGIN - 6, y(v) + 4, f"{v / 1e6:.2f}", **axis, **end) for v in (0.0, top / 2, top)),
        *(svg.text("", x(t), HEIGHT - 28, f"{t / 60:.0f}", **axis) for t in (0.0, last_s / 2, last_s)),
        svg.tag("line", "", x1=x(idle_from_s), x2=x(idle_from_s), y1=y(0), y2=y(top), stroke="#999"),
        *(svg.tag("circle", "", cx=x(t), cy=y(size), r=1.5, fill="#1f5fa8") for t, size in points),
    ]
    return str(svg.picture(WIDTH, HEIGHT, parts, xmlns="http://www.w3.org/2000/svg")) + "\n"


def soak(minutes: float, rate: int, folder: Path) -> tuple[list[tuple[float, int]], float, int]:
    """Run it. Returns: (seconds, bytes) of every checkpoint, when the load ended, seconds, and records sent."""
    with Broker(folder / "broker") as broker, FlinkCluster(folder / "flink") as cluster:
        with Cluster(broker.bootstrap_servers) as admin:
            admin.create(TopicState(t.named(PREFIX), t.partitions, t.config) for t in CATALOGUE)
        publish(read_package(str(write_package(folder / "tiny"))), broker.bootstrap_servers, PREFIX)
        live = OnFlink(broker, PREFIX, cluster, folder / "pipeline.log")
        try:
            job = live.submit()
            seen: dict[int, Checkpoint] = {}
            began_s, sent, ended_s = time.time(), 0, minutes * 60
            while (at_s := time.time() - began_s) < ended_s:
                due = int(min(at_s, ended_s / 2) * rate)
                live.send(topics.EVENTS, [make.event(f"pump-{n % DEVICES}", n // DEVICES) for n in range(sent, due)])
                sent = due
                seen.update((one.number, one) for one in cluster.rest.checkpoints(job))
                time.sleep(1.0)
            live.read(topics.DECISIONS, sent, distinct=True)
        finally:
            live.close()
    points = [(one.triggered_ms / 1000 - began_s, one.bytes) for _, one in sorted(seen.items())]
    return points, ended_s / 2, sent


def main(argv: Sequence[str] | None = None) -> int:
    """See above."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.flink_soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="at least 4 (default: %(default)s)")
    parser.add_argument("--rate", type=int, default=100, help="events per second in the first half")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("build/flink-soak"), help="folder (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if args.minutes < 4:
        parser.error("less than four minutes show no slope: a minute of each half settles")
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tidegate-soak-") as folder:
        points, idle_from_s, sent = soak(args.minutes, args.rate, Path(folder))
    with (args.output / "checkpoints.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("seconds", "bytes"), *((f"{at:.1f}", size) for at, size in points)])
    (args.output / "checkpoints.svg").write_text(drawn(points, idle_from_s))
    load = slope([p for p in points if SETTLE_S < p[0] < idle_from_s])
    idle = slope([p for p in points if p[0] > idle_from_s + SETTLE_S])
    told = {
        "minutes": args.minutes, "rate": args.rate, "decided": sent, "checkpoints": len(points),
        "last_bytes": points[-1][1], "largest_bytes": max(size for _, size in points),
        "under_load": {"bytes_per_s": load[0], "error": load[1]}, "idle": {"bytes_per_s": idle[0], "error": idle[1]},
    }  # fmt: skip
    print(json.dumps(told, indent=2))
    return int(any(rise > max(2 * error, TOO_STEEP) for rise, error in (load, idle)))


if __name__ == "__main__":
    sys.exit(main())
