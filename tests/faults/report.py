"""The table of a run as text and JSON, and what docs/faults.md says of runs and scenarios."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults.catalogue import SCENARIOS
from tests.faults.checker import KINDS
from tests.faults.scenario import Result

_COLUMNS = (
    "scenario",
    "runs",
    "kills",
    "power cuts",
    "sent",
    "answered",
    "sent again",
    "named gaps",
    *KINDS,
    "trouble",
    "recovery p95 s",
)


def p95(values: Sequence[float]) -> float | None:
    """The value that 95 % are not above; None of none."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * 95 // 100) - 1] if ordered else None


def rows(results: Sequence[Result]) -> list[list[str]]:
    """One row per scenario (and mutant), and a sum over the rows without a mutant."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.scenario + (f" with {result.mutant}" if result.mutant else ""), []).append(result)
    table = [_row(name, group) for name, group in groups.items()]
    sound = [result for result in results if not result.mutant]
    if len(groups) > 1 and sound:
        table.append(_row("all", sound))
    return table


def _row(name: str, group: Sequence[Result]) -> list[str]:
    slowest = p95([seconds for result in group for seconds in result.recoveries_s])
    return [
        name,
        str(len(group)),
        *(
            str(sum(getattr(result, field) for result in group))
            for field in ("kills", "cuts", "sent", "answered", "resent", "named")
        ),
        *(str(sum(result.counts.get(kind, 0) for result in group)) for kind in KINDS),
        str(sum(len(result.trouble) for result in group)),
        "" if slowest is None else f"{slowest:.1f}",
    ]


def text(results: Sequence[Result]) -> str:
    """For a terminal."""
    table = [list(_COLUMNS), *rows(results)]
    widths = [max(len(row[at]) for row in table) for at in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(
            cell.ljust(wide) if at == 0 else cell.rjust(wide)
            for at, (cell, wide) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    )


def markdown(results: Sequence[Result]) -> str:
    """For docs/faults.md."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---|" + "---:|" * (len(_COLUMNS) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows(results)])


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """For a program."""
    return {
        "results": [asdict(result) | {"red": result.red} for result in results],
        "recovery_p95_s": p95([s for result in results if not result.mutant for s in result.recoveries_s]),
    }


def keep(path: Path, result: Result) -> None:
    """Append a result to a file."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def kept(paths: Sequence[Path]) -> list[Result]:
    """What `keep` has written."""
    return [Result(**json.loads(line)) for path in paths for line in path.read_text().splitlines()]


def scenarios() -> str:
    """What is done and what each scenario is proved by, for docs/faults.md."""
    lines = ["| scenario | matrix | what is done | turns red with |", "|---|---|---|---|"]
    for one in SCENARIOS:
        proofs = ", ".join(f"`{mutant}`: {kind}" for mutant, kind in one.mutants.items()) or "no mutant yet"
        lines.append(f"| {one.name} | {one.ids} | {one.what} | {proofs} |")
    return "\n".join(lines)


def fill(text: str, name: str, content: str) -> str:
    """Put content between the marks of a name. Raises ValueError: there are none.

    >>> fill("a <!-- x: begin --> old <!-- x: end --> b", "x", "new").split()
    ['a', '<!--', 'x:', 'begin', '-->', 'new', '<!--', 'x:', 'end', '-->', 'b']
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, mark, rest = text.partition(begin)
    _, closing, after = rest.partition(end)
    if not mark or not closing:
        raise ValueError(f"no place for {name}: {begin} … {end}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def write(path: Path, results: Sequence[Result]) -> None:
    """Write scenarios and results into a Markdown file with places for them. Raises ValueError."""
    text = fill(path.read_text(), "scenarios", scenarios())
    sound = [result for result in results if not result.mutant]
    broken = [result for result in results if result.mutant]
    text = fill(text, "results", markdown(sound))
    path.write_text(fill(text, "proofs", markdown(broken)))
