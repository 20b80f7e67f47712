"""`tidegate down`: end the local broker and cluster, from whatever terminal."""

from __future__ import annotations

import argparse

HELP = "stop the local Kafka broker, and the Flink cluster where one runs"
EXAMPLES = """\
examples:
  tidegate down           data stays for the next `tidegate up`
  tidegate down --wipe    data is removed

exit codes: 0 nothing runs any more (also when nothing ran before)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.add_argument("--wipe", action="store_true", help="also remove its data and logs")


def run(args: argparse.Namespace) -> None:
    """Raises UnavailableError: the broker cannot be ended."""
    from deploy import paths, stack
    from deploy.flink import background

    cluster = background.down(paths.home(), wipe=args.wipe)
    if cluster is not None:
        print(f"stopped the Flink cluster at {cluster.url}")
    ended = stack.down(paths.home(), wipe=args.wipe)
    print(
        f"stopped the broker at {ended.bootstrap_servers} (pid {ended.pid})" if ended else "no local broker was running"
    )
    if args.wipe:
        print(f"removed its data in {paths.home() / 'kafka'}")
