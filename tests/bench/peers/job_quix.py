"""The yardstick job on Quix Streams: a record at a time, as its operators have it; windows in its state store."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from quixstreams import Application
from quixstreams.dataframe.windows import Count, Mean
from quixstreams.models import Deserializer

from tests.bench.peers.work import WINDOW_MS, Model, decision, decode


class _Event(Deserializer):
    def __call__(self, value: bytes, ctx: Any) -> dict[str, Any]:
        return decode(value)


def main() -> None:
    """Run until SIGTERM."""
    arguments = argparse.ArgumentParser()
    for name in ("bootstrap", "events", "decisions", "windows", "model", "folder", "group"):
        arguments.add_argument(f"--{name}", required=True)
    args = arguments.parse_args()
    model = Model(Path(args.model))
    app = Application(
        args.bootstrap,
        consumer_group=args.group,
        auto_offset_reset="earliest",
        state_dir=Path(args.folder) / "state",
        loglevel="WARNING",
        producer_extra_config={"linger.ms": 5, "acks": "all", "enable.idempotence": True},
    )
    events = app.topic(
        args.events,
        value_deserializer=_Event(),
        timestamp_extractor=lambda event, headers, at, kind: event["sensed_from"] // 1000,
    )
    decisions = app.topic(args.decisions, value_serializer="bytes")
    windows = app.topic(args.windows, value_serializer="bytes")

    def decide(event: dict[str, Any]) -> tuple[dict[str, Any], float]:
        return event, model([event])[0]

    scored = app.dataframe(events).apply(decide)
    scored.apply(lambda pair: decision(*pair)).to_topic(decisions)
    closed = (
        scored.apply(lambda pair: pair[1])
        .tumbling_window(WINDOW_MS, grace_ms=0)
        .agg(count=Count(), mean=Mean())
        .final()
    )
    closed.apply(lambda window: json.dumps(window).encode()).to_topic(windows)
    app.run()


if __name__ == "__main__":
    main()
