"""What a scenario is, and how one is run: world up, harm done, world settled, everything compared."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kafka.errors import KafkaError

from schemas.errors import TidegateError
from tests.faults.checker import KINDS, Verdict
from tests.faults.mutants import MUTANTS
from tests.faults.proxy import FaultBroker, Proxy
from tests.faults.world import Stuck, World


@dataclass(slots=True)
class Bench:
    """What a scenario may use: a broker, the proxy before it, a folder, its own dice, and how often to do harm."""

    folder: Path
    broker: FaultBroker
    proxy: Proxy
    seed: int
    rounds: int
    mutant: str = ""
    wait_for: float = 1.0  # share of the faults after which recovery is waited for, and measured
    say: Callable[[str], None] = lambda _: None
    stopped: Callable[[], bool] = lambda: False
    dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    def world(self, **options: Any) -> World:
        """A world in this folder. A mutant that is no code is a setting, and up to the scenario."""
        mutant = self.mutant if self.mutant in MUTANTS else ""
        return World(
            self.folder / "world", options.pop("broker", self.broker), seed=self.seed, mutant=mutant, **options
        )

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
    harmed: int = 0  # rounds that were gone through
    sent: int = 0
    owed: int = 0
    named: int = 0  # lost, and named by gap markers
    answered: int = 0
    resent: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    recoveries_s: list[float] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    seconds: float = 0.0
    expected: str = ""  # with a mutant: the kind that it must cause

    @property
    def red(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.trouble) or any(self.counts.values())

    @property
    def failed(self) -> bool:
        """Whether it is not as it should be: red, or with a mutant not red in the way that the mutant must cause."""
        return not self.counts.get(self.expected) if self.expected else self.red

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
    #: Broken builds that must turn it red, and the kind that each must cause: red by another would prove nothing.
    mutants: Mapping[str, str] = field(default_factory=dict)
    world: Callable[[Bench], AbstractContextManager[World]] = lambda bench: bench.world()
    quick: int = 2  # rounds in a short run
    long: int = 0  # rounds in a run of many minutes; 0: as in a short one
    needs_root: bool = False
    #: Whether records may be lost, as long as gap markers name as many.
    may_lose: bool = False


def run(scenario: Scenario, bench: Bench) -> Result:
    """Run a scenario once: world up, harm done `rounds` times, world settled, everything compared."""
    result = Result(scenario.name, bench.seed, bench.mutant, bench.rounds)
    result.expected = scenario.mutants[bench.mutant] if bench.mutant else ""
    begun = time.monotonic()
    try:
        with scenario.world(bench) as world:
            try:
                for turn in range(bench.rounds):
                    if bench.stopped():
                        break
                    bench.say(f"{scenario.name}: round {turn + 1} of {bench.rounds}")
                    scenario.harm(bench, world, turn)
                    result.harmed += 1
                    # now and then the next fault comes before all is well again; then there is no figure
                    if turn == bench.rounds - 1 or bench.dice.random() < bench.wait_for:
                        world.recoveries_s.append(world.recovered(time.time_ns() // 1000))
            except (Stuck, TidegateError, KafkaError, OSError) as stuck:
                world.trouble.append(f"{type(stuck).__name__}: {stuck}")
            bench.say(f"{scenario.name}: waiting for what is owed")
            world.broker.start(timeout_s=180)  # where a harm ended early
            world.settle(patience_s=8.0 if bench.mutant or scenario.may_lose else 30.0, whole=not scenario.may_lose)
            result.take(world, world.verdict())
            if scenario.may_lose:
                result.named, result.counts["lost"] = result.counts["lost"], 0
    except (Stuck, TidegateError, KafkaError, OSError) as stuck:
        result.trouble.append(f"the run could not be finished: {type(stuck).__name__}: {stuck}")
    result.seconds = time.monotonic() - begun
    return result
