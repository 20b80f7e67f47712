"""`python -m edge_filters run CONFIG` and `replay`. Exit codes are those of schemas/errors.py."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edge_filters.io.signals import SignalledEvent
from schemas import logs
from schemas.errors import TidegateError, exit_code

_RUN = """\
Filters the sensors that CONFIG names until they end or SIGTERM comes; then everything open is sent and the process
ends with 0. A broker that is away is no reason to stop: decisions go on, records wait in the spool.

examples:
  python -m edge_filters run edge.toml
  python -m edge_filters run edge.toml --check            # only say what is wrong with it
  python -m edge_filters run edge.toml --check -o json
"""
_REPLAY = """\
Filters recordings as fast as they are read, with their own event times, and writes what would have been sent as one
Avro file per topic. Needs no broker.

examples:
  python -m edge_filters replay pump-7.avro --model models/pump -o out
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m edge_filters", description="Light models beside the sensors.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run the devices of a configuration",
        epilog=_RUN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("config", type=Path, metavar="CONFIG", help="TOML file; deploy/config/edge.toml is a sample")
    run.add_argument("--check", action="store_true", help="only validate; names every problem at once")
    run.add_argument("-o", "--output", choices=("text", "json"), default="text", help="of --check")
    run.add_argument("-v", "--verbose", action="store_true", help="also show what the Kafka client says")
    logs.add_argument(run)
    run.set_defaults(run=_run)
    replay = commands.add_parser(
        "replay",
        help="filter recordings offline",
        epilog=_REPLAY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    replay.add_argument("recordings", type=Path, nargs="+", metavar="REC.avro")
    replay.add_argument("--model", type=Path, required=True, metavar="DIR", help="model package")
    replay.add_argument(
        "-o", "--output-dir", dest="out", type=Path, required=True, metavar="OUT", help="folder to write to"
    )
    replay.add_argument("--audit-rate", type=float, default=0.01, metavar="SHARE", help="default: 0.01")
    replay.set_defaults(run=_replay)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code."""
    args = parser().parse_args(argv)
    try:
        return int(args.run(args))
    except TidegateError as error:
        if getattr(args, "check", False) and args.output == "json":
            print(json.dumps({"ok": False, "problem": str(error)}))
        elif getattr(args, "log_format", "text") == "json":
            if not logs.is_json():  # it did not get as far as to know its name
                _log_to_stderr("edge", False, "json")
            logging.getLogger("edge_filters").critical(str(error))
        else:
            print(f"edge-filters: {error}", file=sys.stderr)
        return exit_code(error)


def _log_to_stderr(name: str, verbose: bool, log_format: str = "text", secrets: Iterable[str] = ()) -> None:
    handler = logging.StreamHandler(sys.stderr)
    text = f"%(asctime)s {name} %(levelname)s %(message)s"
    handler.setFormatter(logs.formatter(log_format, name, text, "%H:%M:%S", secrets))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=log_format == "json")
    if log_format == "json":
        logs.log_uncaught(logging.getLogger("edge_filters"))
    if not verbose:
        logging.getLogger("kafka").setLevel(logging.CRITICAL)


def _run(args: argparse.Namespace) -> int:
    from edge_filters.config import read_config

    config = read_config(args.config, os.environ)
    if args.check:
        return _check(config, args)
    from edge_filters.run import run_edge

    _log_to_stderr(config.edge.id, args.verbose, args.log_format, logs.passwords(config.kafka.settings))
    sys.setswitchinterval(0.0005)  # the client's threads must not keep a decision waiting
    gc.set_threshold(20_000, 20, 20)
    stop = SignalledEvent()

    def end(signum: int, frame: Any) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    return run_edge(config, stop)


def _check(config: Any, args: argparse.Namespace) -> int:
    from edge_filters.assemble import assemble

    parts = assemble(config, boot_epoch=0)
    for sensor in parts.sensors.values():
        sensor.close()
    devices = [
        {"id": d.device_id, "cohort": d.cohort, "model": d.slot.name, "version": d.slot.version}
        for d in parts.engine.devices.values()
    ]
    if args.output == "json":
        print(json.dumps({"ok": True, "devices": devices}))
    else:
        print(f"{args.config}: valid, {len(devices)} device(s)")
        for device in devices:
            print(f"  {device['id']}: model {device['model']} {device['version']}, cohort {device['cohort']}")
    return 0


def _replay(args: argparse.Namespace) -> int:
    from edge_filters.run import replay

    _log_to_stderr("replay", verbose=False)
    counters = replay(args.recordings, args.model, args.out, audit_rate=args.audit_rate)
    print(json.dumps(counters))
    return 0
