"""The scenarios: what is done to a world, how often, and which mutants must turn it red. One function each."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.broker import Broker
from tests.faults.checker import KINDS, Verdict
from tests.faults.world import Stuck, World


@dataclass(slots=True)
class Bench:
    """What a scenario may use: a broker, a folder, its own dice, and how often to do harm."""

    folder: Path
    broker: Broker
    seed: int
    rounds: int
    mutant: str = ""
    say: Callable[[str], None] = lambda _: None
    stopped: Callable[[], bool] = lambda: False
    dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    def world(self, **options: Any) -> World:
        """A world in this folder."""
        return World(self.folder / "world", self.broker, seed=self.seed, mutant=self.mutant, **options)

    def pause(self, low_s: float, high_s: float) -> None:
        """Let it run for a while that the seed chooses: the moment of the next fault."""
        time.sleep(self.dice.uniform(low_s, high_s))


@dataclass(slots=True)
class Result:
    """What one run of a scenario gave."""

    scenario: str
    seed: int
    mutant: str
    rounds: int
    kills: int = 0
    cuts: int = 0
    sent: int = 0
    owed: int = 0
    answered: int = 0
    resent: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    recoveries_s: list[float] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def red(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.trouble) or any(self.counts.values())

    def take(self, world: World, verdict: Verdict) -> None:
        """The figures of a world."""
        self.kills, self.cuts, self.recoveries_s = world.kills, world.cuts, world.recoveries_s
        self.trouble += world.trouble
        self.sent, self.owed = verdict.given, verdict.owed
        self.answered, self.resent = verdict.answered, verdict.resent
        self.counts = {kind: verdict.counts[kind] for kind in KINDS}
        self.examples = verdict.examples


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of fault."""

    name: str
    ids: str  # of the fault matrix
    what: str
    harm: Callable[[Bench, World, int], None]
    mutants: tuple[str, ...] = ()
    world: Callable[[Bench], World] = lambda bench: bench.world()
    quick: int = 2  # rounds in the short set
    #: Whether recovery is counted: from the end of the fault to the first answer to something sensed after it.
    recovers: bool = True


def run(scenario: Scenario, bench: Bench) -> Result:
    """Run a scenario once: world up, harm done `rounds` times, world settled, everything compared."""
    result = Result(scenario.name, bench.seed, bench.mutant, bench.rounds)
    begun = time.monotonic()
    try:
        with scenario.world(bench) as world:
            try:
                for turn in range(bench.rounds):
                    if bench.stopped():
                        break
                    bench.say(f"{scenario.name}: round {turn + 1} of {bench.rounds}")
                    scenario.harm(bench, world, turn)
                    if scenario.recovers:
                        world.recoveries_s.append(world.recovered(time.time_ns() // 1000))
            except Stuck as stuck:
                world.trouble.append(str(stuck))
            bench.say(f"{scenario.name}: waiting for what is owed")
            world.settle()
            result.take(world, world.verdict())
    except Stuck as stuck:
        result.trouble.append(f"the world did not come up: {stuck}")
    result.seconds = time.monotonic() - begun
    return result


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
    bench.pause(0.3, 2.0)
    world.kill("broker")
    bench.pause(0.0, 2.0)
    world.broker.start()


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


def _restart_broker(bench: Bench, world: World, turn: int) -> None:
    bench.pause(0.3, 2.0)
    world.broker.stop()
    world.broker.start()


SCENARIOS: tuple[Scenario, ...] = (
    Scenario("kill-edge", "S1", "kill -9 of the edge process, every second time while it is offline", _kill_edge,
             ("spool-in-memory",), quick=4),
    Scenario("kill-worker", "P1", "kill -9 of the pipeline's job and worker", _kill("worker"),
             ("early-position",), quick=3),
    Scenario("kill-prism", "P1", "kill -9 of the engine", _kill("prism"), ("early-position",)),
    Scenario("kill-pipeline", "P1", "kill -9 of the pipeline's supervisor", _kill("pipeline"), ("early-position",)),
    Scenario("kill-broker", "K1", "kill -9 of the broker, back after up to 2 s", _kill_broker, ("ack-on-send",)),
    Scenario("kill-any", "X1", "kill -9 of a process that the seed chooses", _kill_any, ("early-position",), quick=4),
    Scenario("stop-broker", "K2", "SIGSTOP of the broker for some seconds", _freeze("broker", 2.0, 8.0), (), quick=1),
    Scenario("stop-worker", "P1", "SIGSTOP of the worker for some seconds", _freeze("worker", 2.0, 12.0), (), quick=1),
    Scenario("stop-edge", "S1", "SIGSTOP of the edge for some seconds", _freeze("edge", 1.0, 5.0), (), quick=1),
    Scenario("restart-broker", "K1", "the broker is stopped in good order and started", _restart_broker, (), quick=1),
)  # fmt: skip

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
