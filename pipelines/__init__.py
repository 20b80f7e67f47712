"""Hop 2: Kafka -> split -> real time, aggregate, heavy -> feedback. Never imports edge_filters.

The transforms, and what they take and give, can be imported from here into a pipeline of one's own; see
docs/own-pipeline.md. They are imported when they are first asked for: Beam takes seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.aggregate import FleetWindows
    from pipelines.controller import ControllerPolicy
    from pipelines.elements import Lanes
    from pipelines.feedback import Feedback
    from pipelines.heavy import HeavyModel
    from pipelines.io.chunk import Batch, Chunk, Outgoing
    from pipelines.io.files import ReadRecorded
    from pipelines.io.models import WatchSettings
    from pipelines.io.sink import WriteToKafka
    from pipelines.io.source import ReadFromKafka
    from pipelines.job import event_time, identity
    from pipelines.options import TidegateOptions
    from pipelines.own import run_own
    from pipelines.split import Split, WindowRule

_HOME = {
    "Batch": "io.chunk",
    "Chunk": "io.chunk",
    "ControllerPolicy": "controller",
    "Feedback": "feedback",
    "FleetWindows": "aggregate",
    "HeavyModel": "heavy",
    "Lanes": "elements",
    "Outgoing": "io.chunk",
    "ReadFromKafka": "io.source",
    "ReadRecorded": "io.files",
    "Split": "split",
    "TidegateOptions": "options",
    "WatchSettings": "io.models",
    "WindowRule": "split",
    "WriteToKafka": "io.sink",
    "event_time": "job",
    "identity": "job",
    "run_own": "own",
}

__all__ = [
    "Batch",
    "Chunk",
    "ControllerPolicy",
    "Feedback",
    "FleetWindows",
    "HeavyModel",
    "Lanes",
    "Outgoing",
    "ReadFromKafka",
    "ReadRecorded",
    "Split",
    "TidegateOptions",
    "WatchSettings",
    "WindowRule",
    "WriteToKafka",
    "event_time",
    "identity",
    "run_own",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
