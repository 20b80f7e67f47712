"""What a command prints: data to stdout as a table for people or JSON for programs, everything else to stderr."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.printing import as_json, harmless


def add_format(parser: argparse.ArgumentParser, choices: Sequence[str] = ("table", "json")) -> None:
    """The -o/--output option; the first choice is the default."""
    parser.add_argument(
        "-o", "--output", choices=choices, default=choices[0], help=f"how to print data (default: {choices[0]})"
    )


def add_summary_format(parser: argparse.ArgumentParser, what: str = "the summary") -> None:
    """The --format option of commands whose -o says where they write."""
    parser.add_argument("--format", choices=("text", "json"), default="text", help=f"how to print {what} (text)")


def print_json(value: object) -> None:
    """One JSON document."""
    print(as_json(value, indent=2))


def print_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Rows as a table; `columns` maps a row's key to its heading. As wide as it needs to be where nobody looks on."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in columns.values():
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(key)), style=_STYLES.get(str(row.get(key)), "")) for key in columns))
    if sys.stdout.isatty():
        plain = bool(os.environ.get("NO_COLOR"))  # no bold either
        Console(highlight=False, color_system=None if plain else "auto").print(table)
        return
    console = Console(highlight=False, width=10_000, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def note(line: str) -> None:
    """Progress and hints, on stderr."""
    print(harmless(line), file=sys.stderr, flush=True)


_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "yes": "green", "no": "bold red"}


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return harmless(str(value))
