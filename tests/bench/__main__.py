"""`make bench`: a table of the figures, build/bench/bench.json, and a line in docs/bench-history.jsonl.

    python -m tests.bench [NAME …]         run all benches, or the named ones
    python -m tests.bench compare [BASE]   what got slower since commit BASE, or since the one measured before: exit 1

Where there is a bare loop doing the same work, the figure is also a ratio to it within the same run: machines differ,
and so does one machine from hour to hour. "per CPU second" is what a core does when nothing else is on it; the clock's
rates are only worth something on a quiet machine. The best of the rounds counts, the spread stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench import history
from tests.bench.history import Figure, Run

ROOT = Path(__file__).parents[2]
HISTORY = ROOT / "docs" / "bench-history.jsonl"


class Row(NamedTuple):
    """A figure in the report of a bench: its name in the history, its label, and where its values are."""

    name: str
    label: str
    unit: str
    better: str
    values: Callable[[dict[str, Any]], list[float]]


def each(*path: str) -> Callable[[dict[str, Any]], list[float]]:
    """The values at `path` of every run in the list that the first name leads to; or the one value there."""

    def find(report: dict[str, Any]) -> list[float]:
        found: list[Any] = report[path[0]] if isinstance(report[path[0]], list) else [report[path[0]]]
        for part in path[1:]:
            found = [value[part] for value in found]
        return [float(value) for value in found]

    return find


BENCHES: dict[str, tuple[list[str], list[Row]]] = {
    "edge": (
        ["tests.bench.bench_edge", "--core", "0"],
        [
            Row("edge", "edge filter, one core, batches of 16", "readings/s", "higher", each("runs", "readings_per_s")),
            Row("edge.cpu", "the same per CPU second", "readings", "higher", each("runs", "readings_per_cpu_s")),
            Row("edge.ratio", "the same, share of the bare loop", "", "higher", each("ratios")),
            Row("edge.rss", "memory of that process", "MB", "lower", each("rss_mb")),
        ],
    ),
    "pipeline": (
        ["tests.bench.bench_pipeline"],
        [
            Row("pipeline", "yardstick job on Prism, one core", "records/s", "higher", each("runs", "records_per_s")),
            Row("pipeline.cpu", "the same per CPU second", "records", "higher", each("runs", "records_per_cpu_s")),
            Row("pipeline.ratio", "the same, share of the bare loop", "", "higher", each("ratios")),
            Row("pipeline.rss", "memory of its processes", "MB", "lower", each("runs", "rss_mb")),
        ],
    ),
    "stages": (
        ["tests.bench.bench_stages"],
        [Row("stages", "the pipeline's own stages, CPU per record", "us", "lower", each("sums"))],
    ),
    "growth": (
        ["tests.bench.bench_growth"],
        [
            Row("growth.devices", "cost at 1,000 devices over cost at 1", "x", "lower", each("devices_growth")),
            Row("growth.partitions", "cost at 64 partitions over cost at 1", "x", "lower", each("partitions_growth")),
        ],
    ),
    "replay": (
        ["tests.bench.bench_replay"],
        [
            Row("replay", "offline replay", "readings/s", "higher", each("runs", "readings_per_s")),
            Row("replay.cpu", "the same per CPU second", "readings", "higher", each("runs", "readings_per_cpu_s")),
        ],
    ),
    "live": (
        ["tests.bench.pipeline_live", "--seconds", "60"],
        [
            Row("live.p50", "sensor to final decision at 1,000/s, p50", "ms", "lower", each("latency_ms", "p50")),
            Row("live.p99", "the same, p99", "ms", "lower", each("latency_ms", "p99")),
            Row("live.lost", "events lost", "", "lower", each("lost")),
            Row("live.doubled", "events decided twice", "", "lower", each("doubled")),
        ],
    ),
}


def git(*words: str) -> str:
    """What git says in one line; empty where this is no checkout."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def cpu_model() -> str:
    """What the kernel calls the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def measure(names: list[str]) -> int:
    """Run the benches: table, reports and a line of history. One that fails does not stop the others."""
    reports: dict[str, Any] = {}
    figures: dict[str, Figure] = {}
    failed = []
    for name in names:
        command, rows = BENCHES[name]
        print(f"running {name} …", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            print(f"bench: {name} failed with exit code {done.returncode}", file=sys.stderr)
            failed.append(name)
            continue
        reports[name] = json.loads(done.stdout)
        for row in rows:
            figure = figures[row.name] = Figure.of(row.values(reports[name]), row.unit, row.better)
            print(f"{row.label:<44} {history.shown(figure):>34} {row.unit}", flush=True)
    folder = ROOT / "build" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    (folder / "bench.json").write_text(json.dumps({"at": at} | reports, indent=2) + "\n")
    if figures:
        commit = git("rev-parse", "--short=10", "HEAD") or "unknown"
        dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
        load = round(os.getloadavg()[2], 1)
        history.append(HISTORY, Run(commit, dirty, at, os.cpu_count() or 1, cpu_model(), load, figures))
    return 1 if failed else 0


def compare(base: str) -> int:
    """Print the changes; 1 when something got slower, 2 when there is nothing to compare."""
    try:
        before, now, changes = history.compare(history.load(HISTORY), base)
    except ValueError as cause:
        print(f"bench-compare: {cause}", file=sys.stderr)
        return 2
    print(f"{'figure':<34} {before:>32} {now:>32}   better")
    for change in changes:
        print(change.text)
    slower = [change.name for change in changes if change.now.is_slower(change.base)]
    print(f"slower beyond the spread: {', '.join(slower)}" if slower else "nothing got slower beyond the spread")
    return 1 if slower else 0


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; or: compare [BASE]")
    names = parser.parse_args().names
    if names[:1] == ["compare"]:
        return compare(names[1] if len(names) > 1 else "")
    if unknown := sorted(set(names) - set(BENCHES)):
        parser.error(f"no such bench: {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    return measure(names or list(BENCHES))


if __name__ == "__main__":
    sys.exit(main())
