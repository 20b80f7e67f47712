"""The page on the command line, from the parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from deploy import cli as tidegate
from edge_filters import cli as edge
from pipelines import cli as pipelines

_HEAD = """\
# Commands

Made from the parsers by `make docs`. What a command ends with is in [exit-codes.md](../exit-codes.md).
"""

#: Handed on to another program, whose help comes further down.
_ELSEWHERE = ("tidegate edge", "tidegate pipeline", "python -m pipelines run", "python -m pipelines job")


def page() -> str:
    """Markdown: the help of every command, as it prints it."""
    parts = [_HEAD]
    for program in (tidegate.parser(), edge.parser(), pipelines.parser()):
        for parser in _walk(program):
            if parser.prog in _ELSEWHERE:
                continue
            parts.append(f"## {parser.prog}\n\n```\n{parser.format_help().rstrip()}\n```\n")
    parts.append(f"## python -m pipelines run\n\n```\n{_run_help().rstrip()}\n```\n")
    return "\n".join(parts)


def _run_help() -> str:
    """Our options of `run`; Beam's own are many and documented by Beam."""
    from pipelines.options import own_help

    return f"{pipelines.RUN_EXAMPLES}\n{own_help('run')}\nBeam's options are passed on unchanged; `--help` lists them."


def _walk(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in dict.fromkeys(action.choices.values()):
                yield from _walk(inner)
