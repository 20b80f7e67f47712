"""`tidegate replay`: recorded data through the same graph, offline."""

from __future__ import annotations

from collections.abc import Sequence

HELP = "replay recorded data through the same graph, offline"
EXAMPLES = ""


def forward(argv: Sequence[str]) -> int:
    """Hand everything to the replay."""
    from deploy.replay import main

    return main(list(argv))
