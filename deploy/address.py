"""Which broker a command talks to: flag, then environment, then the local stack, then Kafka's usual address."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from deploy import paths

USUAL = "127.0.0.1:9092"
_VARIABLES = ("TIDEGATE_KAFKA__BOOTSTRAP_SERVERS", "KAFKA_BOOTSTRAP_SERVERS")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that name a broker and the topics on it."""
    parser.add_argument(
        "-b",
        "--bootstrap-servers",
        metavar="HOST:PORT",
        help="Kafka to talk to (default: KAFKA_BOOTSTRAP_SERVERS, else the local stack, else 127.0.0.1:9092)",
    )
    parser.add_argument("--prefix", default="", help="put before every topic name, with its dot: plant1.")


def resolve(flag: str | None, home: Path | None = None) -> str:
    """The address. Raises ConfigError: the state of the local stack cannot be read."""
    from deploy import stack

    if flag:
        return flag
    for variable in _VARIABLES:
        if os.environ.get(variable):
            return os.environ[variable]
    running = stack.current(home or paths.home())
    return running.bootstrap_servers if running else USUAL
