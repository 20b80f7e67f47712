"""`tidegate tail`: decoded records of a topic as they come."""

from __future__ import annotations

import argparse

from deploy.commands.record import start_of

HELP = "print the records of a topic, decoded"
EXAMPLES = """\
examples:
  tidegate tail edge.events                                  from now on, until Ctrl-C
  tidegate tail edge.events --from beginning --no-follow     what is there, then end
  tidegate tail cloud.decisions --from -5min -n 20           at most 20, starting five minutes ago
  tidegate tail edge.status -o json | jq .record.health      one JSON object per line

A record that is corrupt, or of a schema that this version does not know, is a line with the reason. In JSON, bytes are
base64 and times are microseconds since 1970.
exit codes: 0 done, 2 wrong options, 69 no broker answers or it has no such topic
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    from deploy import address, output

    parser.add_argument("topic", metavar="TOPIC", help="a topic of the catalogue, such as edge.events")
    parser.add_argument(
        "--from",
        dest="start",
        default="end",
        type=start_of,
        metavar="WHERE",
        help="beginning, end, a time ago such as -5min, or a time such as 2026-05-01T12:00:00Z (default: end)",
    )
    parser.add_argument("-n", "--count", type=int, metavar="N", help="end after N records")
    parser.add_argument("--no-follow", action="store_true", help="end where the topic ended when the command started")
    address.add_options(parser)
    output.add_format(parser, ("text", "json"))


def run(args: argparse.Namespace) -> None:
    """Raises UnavailableError: no broker, or no such topic."""
    import time

    from deploy import address, records
    from deploy.recording.span import NOW
    from schemas.printing import as_json

    where = address.resolve(args.bootstrap_servers)
    start: str | int = "beginning" if args.start is None else "end"
    if args.start not in (None, NOW):
        now_us = time.time_ns() // 1000
        start = now_us - args.start.after(now_us)
    lines = records.follow(where, args.prefix + args.topic, start=start, limit=args.count, follow=not args.no_follow)
    for record in lines:
        print(as_json(record.as_json()) if args.output == "json" else record.as_text(), flush=True)
