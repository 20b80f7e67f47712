"""The table of a run, as text, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

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


BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def write(path: Path, results: Sequence[Result]) -> None:
    """Put the table between the marks of a Markdown file. Raises ValueError: it has no marks."""
    before, mark, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"{path} has no place for the table: {BEGIN} … {END}")
    path.write_text(f"{before}{BEGIN}\n{markdown(results)}\n{END}{after}")
