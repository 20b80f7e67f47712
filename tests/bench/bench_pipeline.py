"""The yardstick job through the whole pipeline on Prism, from a backlog, against a bare loop in the same run.

    python -m tests.bench.bench_pipeline [--count 60000] [--rounds 3] [--core 0] [--partitions 4]
    python -m tests.bench.bench_pipeline --deliveries         what exactly once costs, against at least once

Worker, Prism and supervisor share one core; broker and loader have the other. A rate is given twice: by the clock, and
per CPU second of everything that runs for the pipeline, which is what one core would do if nothing else were on it.
What is measured runs from the first decisions seen to the last one. One JSON object is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from deploy import paths
from deploy.broker import Broker
from deploy.cluster import Cluster, TopicState
from schemas import topics
from tests.bench.yardstick import Loaded, Topic, check_decisions, cpu_s, load, windowed
from tests.wait import until

ROOT = Path(__file__).parents[2]


def pinned(core: int | None) -> Callable[[], None] | None:
    """For a child, before it starts: stay on one core."""
    return None if core is None else lambda: os.sched_setaffinity(0, {core})


def create_topics(servers: str, prefix: str, partitions: int | None = None) -> None:
    """The catalogue's topics under a prefix; `partitions` for those that events and decisions go through."""
    with Cluster(servers) as cluster:
        cluster.create(
            TopicState(t.named(prefix), partitions if partitions and t.partitions > 1 else t.partitions, t.config)
            for t in topics.CATALOGUE
        )


def product(
    servers: str, prefix: str, loaded: Loaded, folder: Path, core: int | None, extra: Sequence[str] = ()
) -> dict[str, Any]:
    """One run of the pipeline over everything that is loaded, in a consumer group of its own."""
    decisions, fleet = Topic(servers, topics.DECISIONS.named(prefix)), Topic(servers, topics.FLEET.named(prefix))
    command = [
        sys.executable, "-m", "pipelines", "run", "--runner=PrismRunner", f"--prism_location={paths.prism()}",
        f"--kafka_bootstrap_servers={servers}", f"--kafka_topic_prefix={prefix}", "--fleet_window=1s",
        f"--kafka_group_id=bench-{uuid.uuid4().hex[:8]}", *extra,
    ]  # fmt: skip
    with (folder / "pipeline.log").open("ab") as log:
        pipeline = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, preexec_fn=pinned(core))
    try:
        seen = until(decisions.grown, "the first decision", within_s=120)
        root = psutil.Process(pipeline.pid)
        family = [root, *root.children(recursive=True)]
        cpu, clock = cpu_s(family), time.perf_counter()
        rss = 0
        while (now := decisions.grown()) < loaded.events:
            rss = max(rss, sum(p.memory_info().rss for p in family))
            assert pipeline.poll() is None, f"the pipeline ended, {now} of {loaded.events} decided"
            assert time.perf_counter() - clock < 300, f"{now} of {loaded.events} decided"
            time.sleep(0.05)
        took, used = time.perf_counter() - clock, {k: v - cpu[k] for k, v in cpu_s(family).items()}
        until(lambda: fleet.grown() >= loaded.windows, "every window is out", within_s=60)
    finally:
        pipeline.send_signal(signal.SIGTERM)
        code = pipeline.wait(60)
    records = loaded.events - seen
    result = check_decisions(decisions.read(), loaded)
    in_windows, windows = windowed(fleet.read())
    assert (in_windows, windows) == (loaded.aggregates, loaded.windows), (in_windows, windows)
    decisions.close()
    fleet.close()
    return result | {
        "records_per_s": round(records / took),
        "records_per_cpu_s": round(records / sum(used.values())),
        "cpu_us_per_record": {k: round(v / records * 1e6, 1) for k, v in used.items()},
        "rss_mb": round(rss / 2**20),
        "windows": windows,
        "exit_code": code,
    }


def bare(servers: str, prefix: str, loaded: Loaded, folder: Path, core: int | None) -> dict[str, Any]:
    """One run of the bare loop over the same events."""
    out, windows = f"{prefix}bare.decisions", f"{prefix}bare.windows"
    with Cluster(servers) as cluster:
        cluster.create([TopicState(out, topics.DECISIONS.partitions), TopicState(windows, 1)])
    command = [
        sys.executable, "-m", "tests.bench.yardstick_bare", "--bootstrap", servers, "--count", str(loaded.events),
        "--events", topics.EVENTS.named(prefix), "--decisions", out, "--windows", windows,
        "--model", str(folder / "mlp" / "mlp.onnx"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, preexec_fn=pinned(core))
    report = json.loads(done.stdout)
    with Cluster(servers) as cluster:
        cluster.delete([out, windows])
    return {
        "decisions": report["decisions"],
        "mean_score": report["mean_score"],
        "records_per_s": round(loaded.events / report["wall_s"]),
        "records_per_cpu_s": round(loaded.events / report["cpu_s"]),
    }


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--count", type=int, default=60_000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--core", type=int, default=0)
    arguments.add_argument("--partitions", type=int, default=None)
    arguments.add_argument("--devices", type=int, default=16)
    arguments.add_argument("--no-bare", action="store_true")
    arguments.add_argument("--deliveries", action="store_true", help="each round also with --delivery at-least-once")
    arguments.add_argument("--no-windows", action="store_true", help="events only, nothing to aggregate")
    args, extra = arguments.parse_known_args()
    cores = os.sched_getaffinity(0)
    core = args.core if len(cores) > 1 and args.core in cores else None
    if core is not None:
        os.sched_setaffinity(0, cores - {core})  # the broker, which is started next, inherits it
    rounds: dict[str, list[dict[str, Any]]] = {"product": [], "at_least_once": [], "bare": []}
    with tempfile.TemporaryDirectory() as name, Broker(Path(name) / "broker") as broker:
        folder, servers, prefix = Path(name), broker.bootstrap_servers, "bench."
        create_topics(servers, prefix, args.partitions)
        loaded = load(servers, prefix, folder / "mlp", args.count, args.devices, windows=not args.no_windows)
        for number in range(args.rounds):
            sides = {"product": extra}
            if args.deliveries:
                sides["at_least_once"] = [*extra, "--delivery=at-least-once"]
            try:
                for side in sorted(sides, reverse=bool(number % 2)):  # neither is always the first
                    rounds[side].append(product(servers, prefix, loaded, folder, core, sides[side]))
            except BaseException:
                kept = ROOT / "build" / "bench" / "pipeline.log"
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / "pipeline.log", kept)
                print(f"the pipeline's log is in {kept}", file=sys.stderr)
                raise
            if not args.no_bare:
                rounds["bare"].append(bare(servers, prefix, loaded, folder, core))
    scores = {run["mean_score"] for runs in rounds.values() for run in runs}
    assert len(scores) == 1, f"the mean score differs: {scores}"
    report: dict[str, Any] = {"count": args.count, "devices": args.devices, "partitions": args.partitions}
    for side, runs in rounds.items():
        if runs:
            report[side] = max(runs, key=lambda r: r["records_per_cpu_s"])
    report["runs"] = rounds["product"]
    pairs = zip(rounds["product"], rounds["bare"], strict=False)
    if args.deliveries:
        twins = list(zip(rounds["product"], rounds["at_least_once"], strict=True))
        for unit in ("records_per_s", "records_per_cpu_s"):
            report[f"exactly_to_at_least_once_{unit}"] = [round(ours[unit] / other[unit], 3) for ours, other in twins]
    report["ratios"] = [round(ours["records_per_cpu_s"] / theirs["records_per_cpu_s"], 3) for ours, theirs in pairs]
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
