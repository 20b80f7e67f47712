"""`tidegate edge`: the edge filter's own command line."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from schemas.logs import format_of

HELP = "run edge filters (the same as `python -m edge_filters …`)"
EXAMPLES = ""


def forward(argv: Sequence[str]) -> int:
    """Hand everything to the edge filter; the equal command goes to stderr."""
    if format_of(argv) == "text":
        print(f"+ {shlex.join(['python', '-m', 'edge_filters', *argv])}", file=sys.stderr, flush=True)
    from edge_filters.cli import main

    return main(list(argv))
