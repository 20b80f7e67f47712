"""`tidegate report`: a page about a recording, or about recorded topics."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "write a page about a recording or recorded topics: devices, gaps, scores, decisions, latencies"
EXAMPLES = """\
examples:
  tidegate report pump-7.avro -o pump-7.html               what was sensed: rates, gaps, the signal
  tidegate report run1 -o run1.html                        topics from `tidegate record`, or from a replay
  tidegate report pump-7.avro build/replayed -o all.html   both: the signal itself under the decisions
  tidegate report run1 -o run1.html --format json          the figures, too

The page is one file without scripts; it needs nothing from anywhere else.
exit codes: 0 written, 2 wrong options, 65 a file is damaged (the page has the rest), 78 nothing is recorded there
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    from deploy import output

    parser.add_argument("inputs", nargs="+", type=Path, metavar="PATH", help="recordings, or folders with them")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.html", help="the page to write")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    output.add_summary_format(parser, "the figures")


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError: nothing is there, or the page cannot be written."""
    from deploy.suspect import guarded

    with guarded(args, "inputs") as deaths:
        return _run(args) or (65 if deaths else 0)


def _run(args: argparse.Namespace) -> int:
    from deploy import output
    from deploy.explain import report
    from deploy.recording.progress import Progress

    with Progress(f"looking through {len(args.inputs)} recording(s)", None, "records", quiet=args.quiet) as progress:
        seen, damaged = report.survey(args.inputs, progress.advance)
    figures = report.figures(seen, damaged)
    report.write(seen, figures, args.inputs, args.output)
    if args.format == "json":
        output.print_json(figures)
    else:
        report.text(figures, print)
        print(f"written to {args.output}")
    for line in damaged:
        print(f"tidegate: {line}", file=sys.stderr)
    return 65 if damaged else 0
