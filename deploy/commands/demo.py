"""`tidegate demo`: the main job on recorded data."""

from __future__ import annotations

from collections.abc import Sequence

HELP = "run the main job on real recorded data: sensors, edge, broker, pipeline, feedback"
EXAMPLES = ""


def forward(argv: Sequence[str]) -> int:
    """Hand everything to the demo."""
    from deploy.demo.cli import main

    return main(list(argv))
