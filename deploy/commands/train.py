"""`tidegate train`: a model package from recordings of normal operation."""

from __future__ import annotations

from collections.abc import Sequence

HELP = "make a model package from recordings of normal operation"
EXAMPLES = ""


def forward(argv: Sequence[str]) -> int:
    """Hand everything to the trainer."""
    from deploy.train.cli import main

    return main(list(argv))
