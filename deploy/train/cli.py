"""Command line of the trainer."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.train.evaluate import Evaluation
from deploy.train.models import HeavySize
from deploy.train.packing import TrainingOptions
from deploy.train.trainer import train
from schemas.errors import TidegateError, exit_code

_EXAMPLE = """\
example:
  python -m deploy.train --normal deploy/demo/data/machine-*.normal.avro --live deploy/demo/data/machine-*.live.avro \\
      --name servers --cohort servers -o build/models/servers
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    usual = TrainingOptions()
    p = argparse.ArgumentParser(
        prog="python -m deploy.train",
        description="Make a model package for a cohort: edge model, heavy model, thresholds, self-tests.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--normal", type=Path, nargs="+", required=True, metavar="REC", help="one per device, normal operation"
    )
    p.add_argument(
        "--live", type=Path, nargs="*", default=[], metavar="REC", help="labelled recordings to evaluate with"
    )
    p.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER", help="where the package goes")
    p.add_argument("--name", required=True, help="name of the model")
    p.add_argument("--cohort", required=True, help="group of devices that shares it")
    p.add_argument("--version", type=int, default=1, help="version of the model (%(default)s)")
    p.add_argument("--seed", type=int, default=1, help="same seed, same bytes (%(default)s)")
    p.add_argument("--window-readings", type=int, default=usual.window_readings, help="readings a window (%(default)s)")
    p.add_argument(
        "--normal-share", type=float, default=usual.normal_share, help="latest share of REC to learn from (%(default)s)"
    )
    p.add_argument(
        "--escalate-rate",
        type=float,
        default=usual.escalate_rate,
        help="share of normal windows that the edge may pass on (%(default)s)",
    )
    p.add_argument(
        "--components",
        type=int,
        default=usual.heavy.components,
        help="ways of operating that the heavy model tells apart (two, or one for a single channel)",
    )
    p.add_argument("-q", "--quiet", action="store_true", help="no progress, only the result")
    p.add_argument("--json", action="store_true", help="the report as JSON on stdout")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Train one package. Returns the exit code."""
    args = parser().parse_args(argv)
    try:
        report = train(
            args.normal,
            args.out,
            name=args.name,
            cohort=args.cohort,
            seed=args.seed,
            version=args.version,
            live=args.live,
            options=TrainingOptions(
                window_readings=args.window_readings,
                normal_share=args.normal_share,
                escalate_rate=args.escalate_rate,
                heavy=HeavySize(components=args.components),
            ),
            progress=(lambda _: None) if args.quiet else (lambda line: print(line, file=sys.stderr)),
        )
    except TidegateError as error:
        print(f"train: {error}", file=sys.stderr)
        return exit_code(error)
    if args.json:
        print(json.dumps(report.as_json(), indent=2, sort_keys=True))
    elif report.evaluation:
        print(table(report.evaluation))
    return 0


def table(evaluation: Evaluation) -> str:
    """The figures that matter, one line per device and one for all together.

    AUC 0.5 and an average precision (AP) of the share of anomalous windows are what a constant score reaches.
    """
    lines = [
        f"{'':22}{'windows':>8}{'anom.':>7}{'edge AUC':>10}{'AP':>7}"
        f"{'heavy AUC':>11}{'AP':>7}{'random AP':>11}{'escalated':>11}"
    ]
    for who, f in [*evaluation.devices.items(), ("all", evaluation.pooled)]:
        lines.append(
            f"{who:22}{f['windows']:8.0f}{f['anomalous']:7.0f}{f['edge_auc']:10.3f}{f['edge_ap']:7.3f}"
            f"{f['heavy_auc']:11.3f}{f['heavy_ap']:7.3f}{f['random_ap']:11.3f}{f['escalated']:11.1%}"
        )
    return "\n".join(lines)
