"""`tidegate train`: a model package from recordings."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "make a model package from recordings: edge model, heavy model, thresholds, self-tests, report"
EXAMPLES = """\
examples:
  tidegate train pump.avro -o models/pump                     learns from the first 70 %, evaluates on the rest
  tidegate train pump-*.avro -o models/pumps --false-alarms 1/day
  tidegate train --normal ok-*.avro --live faults-*.avro -o models/pumps

Without --normal, windows labelled as anomalous are left out of what is learned from; labels are no input of any model.
What was chosen, and why, is said on the way and stands in report.html. The same recordings, options and seed give the
same bytes.
exit codes: 0 done, 2 wrong options, 65 a recording is damaged, 78 it cannot be learned from
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    from deploy import output

    parser.add_argument(
        "recordings", type=Path, nargs="*", metavar="REC", help="recordings to learn from and to evaluate with, by time"
    )
    parser.add_argument("--normal", type=Path, nargs="+", metavar="REC", help="one per device, normal operation only")
    parser.add_argument(
        "--live", type=Path, nargs="+", default=[], metavar="REC", help="labelled recordings to evaluate with"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER", help="where the package goes")
    parser.add_argument("--name", help="name of the model (default: the folder's)")
    parser.add_argument("--cohort", help="group of devices that shares it (default: the recordings')")
    parser.add_argument("--version", type=int, default=1, help="version of the model (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same bytes (%(default)s)")
    parser.add_argument(
        "--false-alarms",
        metavar="RATE",
        help="for each device, as 1/day or as a share of windows: 0.5%% "
        "(default: 0.5%%; with --normal: 0.5%% for the edge's alarm, 2%% for the heavy model)",
    )
    parser.add_argument("--window-readings", type=int, metavar="N", help="readings of a window (default: chosen)")
    parser.add_argument(
        "--learn-share", type=float, metavar="SHARE", help="earliest share of REC to learn from (default: 0.7)"
    )
    parser.add_argument(
        "--normal-share", type=float, default=1.0, metavar="SHARE", help="latest share of that (%(default)s)"
    )
    parser.add_argument(
        "--escalate-rate",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of normal windows that the edge may pass on (%(default)s)",
    )
    parser.add_argument(
        "--components",
        type=int,
        metavar="N",
        help="ways of operating that the heavy model tells apart (default: two, or one for a single channel)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, only the result")
    output.add_summary_format(parser, "the report")


def run(args: argparse.Namespace) -> int:
    """Train one package. Raises TidegateError."""
    from deploy.suspect import guarded
    from deploy.train.cli import run as train

    with guarded(args, "recordings", "normal", "live"):
        return train(args)
