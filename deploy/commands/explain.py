"""`tidegate explain`: the path of one event."""

from __future__ import annotations

import argparse
from pathlib import Path

from deploy.commands.record import start_of

HELP = "tell the whole path of one event: sensed, scored, sent, decided, and by what"
EXAMPLES = """\
examples:
  tidegate explain pump-7:3:1042                              from the topics of the running broker
  tidegate explain pump-7:3:1042 --from -1h                   look at the last hour only
  tidegate explain pump-7:1:58 --in run1                      from a recorded or replayed folder
  tidegate explain pump-7:1:58 --in run1 --in again -o json   several; the first record of each kind counts
  tidegate explain pump-7:3:1042 --html event.html            a page with the signal plotted, in one file

Event ids are in `tidegate tail`, reports and feedback: DEVICE:BOOT_EPOCH:SEQ.
exit codes: 0 found, 1 no record of that event (the sentence says what was searched), 2 wrong options, 65 no event id,
            69 no broker or topic, 78 nothing is recorded there
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    from deploy import address, output

    parser.add_argument("event_id", metavar="EVENT_ID", help="such as pump-7:3:1042")
    parser.add_argument(
        "--in", dest="inputs", action="append", type=Path, metavar="PATH", help="a recording, or a folder; may repeat"
    )
    parser.add_argument(
        "--from",
        dest="start",
        type=start_of,
        metavar="WHERE",
        help="topics: beginning, a time ago such as -1h, or a time (default: beginning)",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page that needs nothing else")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    address.add_options(parser)
    output.add_format(parser, ("text", "json"))


def run(args: argparse.Namespace) -> None:
    """Raises CheckFailed: no record of it. DecodeError, ConfigError, UnavailableError."""
    import time

    from deploy import address, output
    from deploy.explain import find, text
    from deploy.recording.progress import Progress
    from deploy.suspect import guarded
    from schemas.ids import Identity

    Identity.parse(args.event_id)
    if args.html is not None:
        text.check_output(args.html)
    if args.inputs:
        title = f"looking into {len(args.inputs)} recording(s)"
        with guarded(args, "inputs"), Progress(title, None, "records", quiet=args.quiet) as progress:
            trace = find.in_recordings(args.event_id, args.inputs, progress.advance)
    else:
        since_us = None if args.start is None else args.start.after(time.time_ns() // 1000)
        where = address.resolve(args.bootstrap_servers)
        with Progress(f"looking into the topics of {where}", None, "records", quiet=args.quiet) as progress:
            trace = find.in_topics(args.event_id, where, args.prefix, since_us, progress.advance)
    if args.html is not None:
        from deploy.explain.page import write

        write(trace, args.html)
        output.note(f"written to {args.html}")
    if args.output == "json":
        output.print_json(text.as_json(trace))
    else:
        print("\n".join(text.text(trace)))
