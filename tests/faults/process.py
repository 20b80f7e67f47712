"""Faults of processes: kill -9, SIGSTOP, restarts, failpoints."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from tests.faults.scenario import Bench, Scenario
from tests.faults.world import ROOT, World, until

# -- kill -9 --------------------------------------------------------------------------------------------------------


def _kill_edge(bench: Bench, world: World, turn: int) -> None:
    """Every second time the broker is frozen before: then the spool is the only place where records are."""
    bench.pause(0.3, 1.5)
    if turn % 2:
        with world.frozen("broker"):
            bench.pause(0.2, 1.0)
            world.kill("edge")
            bench.pause(0.0, 1.0)
    else:
        world.kill("edge")


def _kill(which: str) -> Callable[[Bench, World, int], None]:
    def harm(bench: Bench, world: World, turn: int) -> None:
        bench.pause(0.3, 2.5)
        world.kill(which)

    return harm


def _kill_broker(bench: Bench, world: World, turn: int) -> None:
    """Every second time the edge is killed meanwhile: what it had handed to its client then is only in the spool."""
    bench.pause(0.3, 2.0)
    world.kill("broker")
    bench.pause(0.0, 2.0)
    if turn % 2:
        world.kill("edge")
    world.broker.start(timeout_s=180)


def _kill_any(bench: Bench, world: World, turn: int) -> None:
    which = bench.dice.choice(["edge", "worker", "worker", "prism", "pipeline", "broker"])
    {"edge": _kill_edge, "broker": _kill_broker}.get(which, _kill(which))(bench, world, turn)


# -- stopped for a while ----------------------------------------------------------------------------------------------


def _freeze(which: str, low_s: float, high_s: float) -> Callable[[Bench, World, int], None]:
    def harm(bench: Bench, world: World, turn: int) -> None:
        bench.pause(0.3, 2.0)
        with world.frozen(which):
            bench.pause(low_s, high_s)

    return harm


def _pipeline(bench: Bench) -> World:
    return bench.world(pipeline_options=("--delivery=at-least-once",) if bench.mutant == "at-least-once" else ())


def _zombie(bench: Bench, world: World, turn: int) -> None:
    """A worker is frozen, its supervisor dies, another pipeline takes over; then the old worker wakes up."""
    bench.pause(0.3, 1.5)
    old = world.find("worker")
    old.suspend()
    try:
        world.kill("pipeline")
        world.recovered(time.time_ns() // 1000)
    finally:
        with suppress(psutil.NoSuchProcess):
            old.resume()
    until(lambda: not old.is_running() or old.status() == psutil.STATUS_ZOMBIE, "the old worker to give up", 60)


def _restart_broker(bench: Bench, world: World, turn: int) -> None:
    bench.pause(0.3, 2.0)
    world.broker.stop()
    world.broker.start(timeout_s=180)


_PIPELINE_MUTANTS = {"at-least-once": "doubled", "torn-transaction": "lost"}

# -- named places ---------------------------------------------------------------------------------------------------


def places(package: str) -> list[str]:
    """Failpoints in the source of a package, in order of their names."""
    found: set[str] = set()
    for path in (ROOT / package).rglob("*.py"):
        found |= set(re.findall(r'\breach\("([a-z_.]+)"\)', path.read_text()))
    return sorted(found)


def _die_in_edge(bench: Bench, world: World, turn: int) -> None:
    """The edge dies at one place after the other. Evictions are rare here: tests beside the spool kill it there."""
    names = [name for name in places("edge_filters") if name != "spool.evict"]
    name = names[(bench.seed + turn) % len(names)]
    often = name in ("spool.append.written", "spool.fsync", "spool.pointer")
    world.kill("edge", failpoint=f"{name}:{bench.dice.randint(1, 20 if often else 2)}")
    edge = world.edge
    assert edge is not None
    until(lambda: edge.poll() is not None, f"the edge to come to {name}", 60)
    world.kills += 1
    world.start_edge()


def _die_in_pipeline(bench: Bench, world: World, turn: int) -> None:
    names = places("pipelines")
    name = names[(bench.seed + turn) % len(names)]
    world.kill("pipeline", failpoint=f"{name}:{bench.dice.randint(1, 20)}")
    job = world.find("job")
    until(lambda: not job.is_running() or job.status() == "zombie", f"the pipeline to come to {name}", 40)
    world.kill("pipeline")


SCENARIOS = (
    Scenario(
        "kill-edge", "S1", "kill -9 of the edge process, every second time while the broker hangs", _kill_edge,
        {"spool-in-memory": "lost"}, quick=4, long=60,
    ),
    Scenario("kill-worker", "P1 P2", "kill -9 of the worker", _kill("worker"), _PIPELINE_MUTANTS, _pipeline, 3, 5),
    Scenario("kill-prism", "P1", "kill -9 of the engine", _kill("prism"), _PIPELINE_MUTANTS, _pipeline, 2, 5),
    Scenario("kill-pipeline", "P1", "kill -9 of supervisor", _kill("pipeline"), _PIPELINE_MUTANTS, _pipeline, 2, 15),
    Scenario(
        "kill-broker", "K1", "kill -9 of the broker, every second time of the edge too; back after up to 2 s",
        _kill_broker, {"ack-on-send": "lost"}, long=4,
    ),
    Scenario(
        "kill-any", "X1", "kill -9 of a process that the seed chooses", _kill_any, _PIPELINE_MUTANTS, _pipeline, 4, 15
    ),
    Scenario(
        "die-in-edge", "S2", "the edge dies at a named place: between write, fsync, pointer, unlink", _die_in_edge,
        world=lambda bench: bench.world(spool_bytes="1MiB", pace_s=0.02), quick=3,
    ),
    Scenario(
        "die-in-pipeline", "P2", "the pipeline dies at a named place: around each step of a transaction",
        _die_in_pipeline, {"torn-transaction": "lost"}, quick=3,
    ),
    Scenario("stop-broker", "K2", "SIGSTOP of the broker for 2 to 8 s", _freeze("broker", 2.0, 8.0), quick=1),
    Scenario("stop-worker", "P1", "SIGSTOP of the worker for 2 to 12 s", _freeze("worker", 2.0, 12.0), quick=1),
    Scenario(
        "zombie-worker", "P1 K5", "a frozen worker wakes up after another pipeline took over", _zombie,
    ),
    Scenario("stop-edge", "S1", "SIGSTOP of the edge for 1 to 5 s", _freeze("edge", 1.0, 5.0), quick=1),
    Scenario("restart-broker", "K1", "the broker is stopped in good order and started", _restart_broker, quick=1),
)  # fmt: skip
