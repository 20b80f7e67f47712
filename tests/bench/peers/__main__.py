"""`make bench-peers`: the yardstick job here, in a bare loop, on Quix Streams and on Bytewax, in one run.

    python -m tests.bench.peers [--count 60000] [--rounds 3] [--only bytewax quix ...]

One broker, the same records, the same numpy, fastavro and onnxruntime lines for each, one core for each in turn; broker
and loader have the other core. Each peer has an environment of its own under .tools/peers, from requirements with
hashes. A rate is given by the clock and per CPU second, from the first decisions seen to the last. Everybody's
decisions are read back and checked. The table goes to build/bench/peers.json, too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from deploy.broker import Broker
from deploy.cluster import Cluster, TopicState
from schemas import topics
from tests.bench.bench_pipeline import ROOT, bare, create_topics, pinned, product
from tests.bench.yardstick import Loaded, Topic, check_decisions, cpu_s, load
from tests.wait import until

HERE = Path(__file__).parent
PEERS = {"quix": "Quix Streams 3.28.1, per record", "bytewax": "Bytewax 0.21.1, batches"}
OURS = {"tidegate": "Tidegate on Prism, kafka-python", "tidegate-fast": "Tidegate on Prism, confluent-kafka"}
ROWS = {"bare": "bare loop, kafka-python, batches"} | OURS | PEERS


def environment(peer: str) -> Path:
    """Python of a peer's own environment; made when its requirements have changed."""
    folder = ROOT / ".tools" / "peers" / peer
    wanted = HERE / f"{peer}.txt"
    stamp, python = folder / "stamp", folder / "bin" / "python"
    digest = hashlib.sha256(wanted.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        print(f"installing {peer} …", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", str(wanted)]
        subprocess.run(install, check=True)
        stamp.write_text(digest)
    return python


def run_peer(peer: str, servers: str, prefix: str, loaded: Loaded, folder: Path, core: int | None) -> dict[str, Any]:
    """One run of a peer over everything that is loaded, into topics of its own."""
    name = f"{peer}-{uuid.uuid4().hex[:8]}"
    out, windows = f"{prefix}{name}.decisions", f"{prefix}{name}.windows"
    with Cluster(servers) as cluster:
        cluster.create([TopicState(out, topics.DECISIONS.partitions), TopicState(windows, 1)])
    decided, closed = Topic(servers, out), Topic(servers, windows)
    command = [
        str(environment(peer)), "-m", f"tests.bench.peers.job_{peer}", "--bootstrap", servers,
        "--events", topics.EVENTS.named(prefix), "--decisions", out, "--windows", windows,
        "--model", str(folder / "mlp" / "mlp.onnx"), "--folder", str(folder / name), "--group", name,
    ]  # fmt: skip
    environ = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    log = folder / f"{name}.log"
    with log.open("wb") as stream:
        job = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=stream, stderr=stream, preexec_fn=pinned(core))
    try:

        def alive() -> None:
            assert job.poll() is None, f"{peer} ended by itself:\n{log.read_text(errors='replace')[-3000:]}"

        seen = until(lambda: alive() or decided.grown(), "the first decision", within_s=120)
        process = psutil.Process(job.pid)
        cpu, clock, rss = cpu_s([process]), time.perf_counter(), 0
        while (now := decided.grown()) < loaded.events:
            alive()
            rss = max(rss, process.memory_info().rss)
            assert time.perf_counter() - clock < 300, f"{now} of {loaded.events} decided"
            time.sleep(0.05)
        took = time.perf_counter() - clock
        used = sum(cpu_s([process]).values()) - sum(cpu.values())
        settled = _settled(closed)
    finally:
        job.send_signal(signal.SIGTERM)
        try:
            job.wait(20)
        except subprocess.TimeoutExpired:
            job.kill()
            job.wait()
    records = loaded.events - seen
    result = check_decisions(decided.read(), loaded) | {
        "records_per_s": round(records / took),
        "records_per_cpu_s": round(records / used),
        "rss_mb": round(rss / 2**20),
        "windows": settled,
        "in_windows": sum(json.loads(record.value)["count"] for record in closed.read()),
    }
    decided.close()
    closed.close()
    with Cluster(servers) as cluster:
        cluster.delete([out, windows])
    return result


def _settled(closed: Topic) -> int:
    """How many windows there are once no more have come for four seconds; 30 s at most."""
    count, since_s = closed.grown(), time.monotonic()
    end_s = since_s + 30
    while time.monotonic() - since_s < 4 and time.monotonic() < end_s:
        time.sleep(0.2)
        if (now := closed.grown()) != count:
            count, since_s = now, time.monotonic()
    return count


def best(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The best run of a row, with the spread over all of them."""
    chosen = max(runs, key=lambda run: run["records_per_s"])
    spread = {f"{key}_spread": [min(r[key] for r in runs), max(r[key] for r in runs)] for key in _RATES}
    return chosen | spread | {"runs": len(runs)}


_RATES = ("records_per_s", "records_per_cpu_s")


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows with their ratios to the bare loop and to the first of ours."""
    out = [f"{'':<36} {'records/s':>9} {'spread':>15} {'/ CPU s':>8} {'x bare':>7} {'MB':>5}"]
    base = rows.get("bare", {}).get("records_per_cpu_s")
    for name, row in rows.items():
        low, high = row["records_per_s_spread"]
        ratio = f"{row['records_per_cpu_s'] / base:.2f}" if base else "-"
        spread, cpu = f"{low:,}-{high:,}", f"{row['records_per_cpu_s']:,}"
        out.append(
            f"{ROWS[name]:<36} {row['records_per_s']:>9,} {spread:>15} {cpu:>8} {ratio:>7} {row.get('rss_mb', '-'):>5}"
        )
    return "\n".join(out)


def main() -> None:
    """Run, print, and write the table."""
    arguments = argparse.ArgumentParser(
        prog="python -m tests.bench.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--count", type=int, default=60_000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--core", type=int, default=0)
    arguments.add_argument("--only", nargs="*", choices=list(ROWS), default=list(ROWS))
    args = arguments.parse_args()
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # brokers that are being started and stopped
    for peer in PEERS:
        if peer in args.only:
            environment(peer)
    cores = os.sched_getaffinity(0)
    core = args.core if len(cores) > 1 and args.core in cores else None
    if core is not None:
        os.sched_setaffinity(0, cores - {core})  # the broker, which is started next, inherits it
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ROWS if name in args.only}
    with tempfile.TemporaryDirectory() as name, Broker(Path(name) / "broker") as broker:
        folder, servers, prefix = Path(name), broker.bootstrap_servers, "bench."
        create_topics(servers, prefix)
        loaded = load(servers, prefix, folder / "mlp", args.count)
        for number in range(args.rounds):
            for row, found in runs.items():
                print(f"round {number + 1} of {args.rounds}: {ROWS[row]} …", file=sys.stderr, flush=True)
                try:
                    found.append(runner(row)(servers, prefix, loaded, folder, core))
                except BaseException:
                    if row in OURS:
                        print((folder / "pipeline.log").read_text(errors="replace")[-3000:], file=sys.stderr)
                    raise
    scores = {run["mean_score"] for found in runs.values() for run in found}
    assert len(scores) == 1, f"the mean score differs: {scores}"
    rows = {row: best(found) for row, found in runs.items()}
    print(table(rows))
    report = ROOT / "build" / "bench" / "peers.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps({"count": args.count, "rows": rows}, indent=1) + "\n")


def runner(row: str) -> Callable[..., dict[str, Any]]:
    """What runs a row."""
    if row == "bare":
        return bare
    if row in OURS:
        library = "confluent" if row == "tidegate-fast" else "kafka-python"
        return lambda *where: product(*where, extra=[f"--kafka_client_library={library}"])
    return lambda *where: run_peer(row, *where)


if __name__ == "__main__":
    main()
