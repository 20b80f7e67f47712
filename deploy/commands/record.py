"""`tidegate record`: topics to files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "record topics into Avro files"
EXAMPLES = """\
examples:
  tidegate record edge.events -o events.avro                     what is in the topic now
  tidegate record edge.events edge.samples edge.aggregates cloud.decisions -o run1 --follow   until Ctrl-C
  tidegate record all -o run1 --from -1h                         every topic, the last hour
  tidegate record edge.events -o e.avro --from 2026-05-01T12:00:00Z --to 2026-05-01T13:00:00Z
  tidegate record edge.events -o e.avro --follow --count 1000

One topic goes into a file, several into a folder with TOPIC.avro each; beside each file, TOPIC.stamps.csv says at which
partition, offset and time its records lay. `tidegate replay`, `explain` and `report` read both. Files take their names
when they are whole: until then they end with .part. Ctrl-C and SIGTERM end the recording in good order.
exit codes: 0 done or stopped, 2 wrong options, 69 no broker or topic, 74 the disk failed, 78 the output is taken
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    from deploy import address, output

    parser.add_argument("topics", nargs="+", metavar="TOPIC", help="topics such as edge.events, or `all`")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="FILE.avro, or a folder")
    parser.add_argument(
        "--from",
        dest="start",
        type=start_of,
        metavar="WHERE",
        help="beginning, end, a time ago such as -5min, or a time (default: beginning)",
    )
    parser.add_argument(
        "--to", dest="end", type=moment_of, metavar="WHEN", help="a time, or a time ago; with --follow also one to come"
    )
    parser.add_argument("-n", "--count", type=_positive, metavar="N", help="end after N records of all topics together")
    parser.add_argument("-f", "--follow", action="store_true", help="go on at the end of the topics, until Ctrl-C")
    parser.add_argument("--force", action="store_true", help="replace a recording that is there already")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    output.add_summary_format(parser)
    address.add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Raises UnavailableError, ConfigError, SpoolError."""
    import time

    from deploy import address, output
    from deploy.recording.progress import Progress
    from deploy.recording.recorder import Recorder, places, record
    from deploy.recording.signals import Stopped

    now_us = time.time_ns() // 1000
    since_us = None if args.start is None else args.start.after(now_us)
    until_us = None if args.end is None else args.end.after(now_us)
    recorder = Recorder(places(args.topics, args.prefix, args.output, force=args.force), args.prefix)
    where = address.resolve(args.bootstrap_servers)
    what = f"recording {len(recorder.files)} topic(s) from {where}" + (", until Ctrl-C" if args.follow else "")
    with Stopped() as stopped, Progress(what, args.count, "records", quiet=args.quiet) as progress:
        record(
            where,
            recorder,
            since_us=since_us,
            until_us=until_us,
            limit=args.count,
            follow=args.follow,
            stop=stopped,
            progress=progress.advance,
        )
    results = list(recorder.results.values())
    if args.format == "json":
        output.print_json({"stopped": stopped(), "topics": [result.as_json() for result in results]})
        return 0
    for result in results:
        left = f", {result.left_out} left out" if result.left_out else ""
        print(f"{result.topic}: {result.written:,} records{left}" + (f" -> {result.file}" if result.written else ""))
        if result.problem:
            output.note(f"{result.topic}: {result.problem}")
    return 0


def moment_of(text: str) -> Any:
    """A moment, with argparse's own error."""
    from deploy.recording.span import moment
    from schemas.errors import ConfigError

    try:
        return moment(text)
    except ConfigError as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from None


def start_of(text: str) -> Any:
    """Where to begin in a topic: None at its beginning, else a moment; a duration is one ago, dash or no dash."""
    from dataclasses import replace

    from deploy.recording.span import NOW, moment
    from schemas.errors import ConfigError

    if text == "beginning":
        return None
    if text == "end":
        return NOW
    try:
        when = moment(text)
    except ConfigError as wrong:
        raise argparse.ArgumentTypeError(f"beginning, end or a time ago such as -5min: {wrong}") from None
    return replace(when, us=-abs(when.us)) if when.relative else when


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a number of records, at least 1: {text!r}")
    return int(text)
