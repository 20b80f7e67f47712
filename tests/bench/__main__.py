"""`make bench`: the figures, one after the other on an otherwise quiet machine; a table, and build/bench/bench.json.

A figure against a bare loop is a ratio within one run: machines differ, and so does one machine from hour to hour.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

#: Name -> command, and what of its JSON goes into the table: (label, path, unit).
BENCHES: dict[str, tuple[list[str], list[tuple[str, str, str]]]] = {
    "edge": (
        ["tests.bench.bench_edge", "--core", "0"],
        [
            ("edge filter, one core, batches of 16 blocks", "product.readings_per_s", "readings/s"),
            ("the same as a share of a bare loop", "ratio", "of the bare loop"),
            ("memory of that process", "rss_mb", "MB"),
        ],
    ),
    "live": (
        ["tests.bench.pipeline_live", "--seconds", "60"],
        [
            ("sensor to final decision at 1,000 events/s, p50", "latency_ms.p50", "ms"),
            ("the same, p99", "latency_ms.p99", "ms"),
            ("events lost", "lost", ""),
            ("events decided twice", "doubled", ""),
            ("cores used by the pipeline", "cores_used", "cores"),
        ],
    ),
}


def figure(report: dict[str, Any], path: str) -> Any:
    """Value at a dotted path."""
    value: Any = report
    for part in path.split("."):
        value = value[part]
    return value


def main() -> int:
    """Run all or the named ones."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(BENCHES)}")
    names = parser.parse_args().names or list(BENCHES)
    if unknown := sorted(set(names) - set(BENCHES)):
        parser.error(f"no such bench: {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    reports: dict[str, Any] = {}
    for name in names:
        command, rows = BENCHES[name]
        print(f"running {name} …", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            print(f"bench: {name} failed with exit code {done.returncode}", file=sys.stderr)
            return 1
        reports[name] = json.loads(done.stdout)
        for label, path, unit in rows:
            print(f"{label:<56} {figure(reports[name], path):>12,} {unit}", flush=True)
    folder = ROOT / "build" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    (folder / "bench.json").write_text(json.dumps({"at": at} | reports, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
