"""Every run of the benches, a line each, and what got slower between two commits. Pure but for the two file functions.

A figure has the best of its runs and their spread. A commit that was measured several times has the best of all and
the whole spread. Slower means: the newer commit's best is worse than the worst that the older one ever gave, so noise
within the spread accuses nobody. Only runs on one kind of machine are compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number: the best of its runs, and the lowest and highest of them."""

    best: float
    low: float
    high: float
    unit: str
    better: str  # "higher" or "lower"

    @classmethod
    def of(cls, values: Iterable[float], unit: str, better: str) -> Self:
        """From the values of several runs, at least one."""
        found = sorted(values)
        return cls(found[-1] if better == "higher" else found[0], found[0], found[-1], unit, better)

    def merge(self, other: Figure) -> Figure:
        """Of both sets of runs."""
        pick = max if self.better == "higher" else min
        return Figure(
            pick(self.best, other.best), min(self.low, other.low), max(self.high, other.high), self.unit, self.better
        )

    def change(self, base: Figure) -> float:
        """By how much this is better than `base`, as a share of it; negative: worse."""
        if not base.best:
            return 0.0
        gain = self.best / base.best - 1.0
        return gain if self.better == "higher" else -gain

    def is_slower(self, base: Figure) -> bool:
        """Whether its best is worse than anything that `base` gave."""
        return self.best < base.low if self.better == "higher" else self.best > base.high


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the benches. `dirty`: the tree had changes that the commit does not hold; `load`: of the machine."""

    commit: str
    dirty: bool
    at: str
    cores: int
    cpu: str
    load: float
    figures: dict[str, Figure]

    @property
    def machine(self) -> tuple[int, str]:
        """What must be alike for two runs to be compared."""
        return self.cores, self.cpu

    def line(self) -> str:
        """As it is kept."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def parse(cls, line: str) -> Run:
        """Inverse of line(). Raises ValueError: not such a line."""
        try:
            raw: dict[str, Any] = json.loads(line)
            return cls(**raw | {"figures": {name: Figure(**figure) for name, figure in raw["figures"].items()}})
        except (TypeError, KeyError, AttributeError) as cause:
            raise ValueError(f"not a run of the benches: {line[:100]}") from cause


@dataclass(frozen=True, slots=True)
class Change:
    """One figure at two commits."""

    name: str
    base: Figure
    now: Figure

    @property
    def text(self) -> str:
        """A row of the table."""
        mark = "SLOWER" if self.now.is_slower(self.base) else "faster" if self.base.is_slower(self.now) else ""
        return (
            f"{self.name:<34} {shown(self.base):>32} {shown(self.now):>32} {self.now.change(self.base):>+8.1%} {mark}"
        ).rstrip()


def shown(figure: Figure) -> str:
    """Best and spread."""
    digits = 0 if abs(figure.best) >= 1000 else 3 if abs(figure.best) < 10 else 1
    return f"{figure.best:,.{digits}f} ({figure.low:,.{digits}f}-{figure.high:,.{digits}f})"


def figures_of(runs: Iterable[Run]) -> dict[str, Figure]:
    """Figures of several runs of one commit, merged."""
    out: dict[str, Figure] = {}
    for run in runs:
        for name, figure in run.figures.items():
            out[name] = out[name].merge(figure) if name in out else figure
    return out


def compare(runs: list[Run], base: str = "") -> tuple[str, str, list[Change]]:
    """The newest run's commit against `base`, a prefix of a commit; by default the commit that was measured before it.

    Returns both commits and the figures that both have. Raises ValueError: with what is missing to compare.
    """
    if not runs:
        raise ValueError("no run is kept yet; `make bench` makes one")
    newest = runs[-1]
    alike = [run for run in runs if run.machine == newest.machine]
    others = [run.commit for run in alike if run.commit != newest.commit and run.commit.startswith(base)]
    if not others:
        wanted = f"commit {base}" if base else "another commit"
        raise ValueError(
            f"no run of {wanted} on a machine like this one is kept (newest: {newest.commit} on {newest.cores} cores, "
            f"{newest.cpu}); check it out, run `make bench`, and come back"
        )
    before = figures_of(run for run in alike if run.commit == others[-1])
    now = figures_of(run for run in alike if run.commit == newest.commit)
    return others[-1], newest.commit, [Change(name, before[name], now[name]) for name in now if name in before]


def append(path: Path, run: Run) -> None:
    """Keep a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(run.line() + "\n")


def load(path: Path) -> list[Run]:
    """All runs, oldest first. Raises ValueError: a line is none."""
    return [Run.parse(line) for line in path.read_text().splitlines() if line] if path.exists() else []
