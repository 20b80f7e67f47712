"""The yardstick job on Bytewax: a poll's records are one batch for features and model; windows in its own operator."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.connectors.kafka import KafkaSinkMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from tests.bench.peers.work import WINDOW_MS, Model, decision, decode


def main() -> None:
    """Run until SIGTERM."""
    arguments = argparse.ArgumentParser()
    for name in ("bootstrap", "events", "decisions", "windows", "model", "folder", "group"):
        arguments.add_argument(f"--{name}", required=True)
    args = arguments.parse_args()
    model, brokers = Model(Path(args.model)), [args.bootstrap]

    def decide(batch: list[Any]) -> list[tuple[str, tuple[int, float, Any]]]:
        events = [decode(message.value) for message in batch]
        return [
            (event["device_id"], (event["sensed_from"], score, KafkaSinkMessage(message.key, decision(event, score))))
            for message, event, score in zip(batch, events, model(events), strict=True)
        ]

    def told(window: tuple[str, tuple[int, tuple[int, float]]]) -> Any:
        device, (number, (count, total)) = window
        what = {"start": number * WINDOW_MS, "count": count, "mean": total / count}
        return KafkaSinkMessage(device.encode(), json.dumps(what).encode())

    flow = Dataflow("yardstick")
    acked = {"linger.ms": "5", "acks": "all", "enable.idempotence": "true"}
    came = kop.input("in", flow, brokers=brokers, topics=[args.events], batch_size=1000)
    scored = op.flat_map_batch("decide", came.oks, decide)
    kop.output(
        "decisions",
        op.map("decision", scored, lambda pair: pair[1][2]),
        brokers=brokers,
        topic=args.decisions,
        add_config=acked,
    )
    # Its watermark moves on with the clock on the wall: without some patience, a slow moment makes records late.
    clock = win.EventClock(
        lambda item: datetime.fromtimestamp(item[0] / 1e6, UTC), wait_for_system_duration=timedelta(seconds=2)
    )
    windows = win.fold_window(
        "windows",
        op.map("slim", scored, lambda pair: (pair[0], pair[1][:2])),
        clock,
        win.TumblingWindower(timedelta(milliseconds=WINDOW_MS), datetime.fromtimestamp(0, UTC)),
        lambda: (0, 0.0),
        lambda so_far, item: (so_far[0] + 1, so_far[1] + item[1]),
        lambda one, other: (one[0] + other[0], one[1] + other[1]),
        ordered=False,
    )
    kop.output("windows_out", op.map("told", windows.down, told), brokers=brokers, topic=args.windows, add_config=acked)
    folder = Path(args.folder) / "recovery"
    folder.mkdir(parents=True)
    init_db_dir(folder, 1)
    cli_main(flow, epoch_interval=timedelta(seconds=1), recovery_config=RecoveryConfig(str(folder)))


if __name__ == "__main__":
    main()
