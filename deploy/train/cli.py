"""Command line of the trainer."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.commands.train import EXAMPLES, HELP, add_arguments
from deploy.train.alarms import FalseAlarms
from deploy.train.evaluate import Evaluation
from deploy.train.models import HeavySize
from deploy.train.packing import TrainingOptions
from deploy.train.report import PAGE_FILE
from deploy.train.trainer import train
from schemas.errors import ConfigError, TidegateError, exit_code

#: Of recordings that are given without saying what is in them.
LEARN_SHARE = 0.7
FALSE_ALARMS = "0.5%"


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m deploy.train`: the same options without the `tidegate` around them. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.train",
        description=HELP,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        return run(args)
    except TidegateError as error:
        print(f"train: {error}", file=sys.stderr)
        return exit_code(error)


def run(args: argparse.Namespace) -> int:
    """Train one package of parsed options. Raises TidegateError."""
    if bool(args.recordings) == bool(args.normal):
        raise ConfigError(
            "recordings are given both plainly and with --normal" if args.normal else "there is nothing to learn from",
            fix="give recordings alone, to be split by time, or those of normal operation with --normal",
        )
    if args.normal and args.learn_share is not None:
        raise ConfigError("--learn-share splits plain recordings", fix="with --normal, say --normal-share")
    stated = args.false_alarms or (None if args.normal else FALSE_ALARMS)
    report = train(
        args.normal or args.recordings,
        args.out,
        name=args.name or _name_of(args.out),
        cohort=args.cohort,
        seed=args.seed,
        version=args.version,
        live=args.live,
        options=TrainingOptions(
            window_readings=args.window_readings,
            mixed=not args.normal,
            learn_share=1.0 if args.normal else LEARN_SHARE if args.learn_share is None else args.learn_share,
            normal_share=args.normal_share,
            escalate_rate=args.escalate_rate,
            false_alarms=FalseAlarms.parse(stated) if stated else None,
            heavy=HeavySize(components=args.components),
        ),
        progress=(lambda _: None) if args.quiet else (lambda line: print(line, file=sys.stderr, flush=True)),
    )
    if args.format == "json":
        print(json.dumps(report.as_json(), indent=2, sort_keys=True))
        return 0
    if report.evaluation:
        print(table(report.evaluation))
    print(f"report: {args.out / PAGE_FILE}")
    return 0


def _name_of(folder: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip("._-")[:64] or "model"


def table(evaluation: Evaluation) -> str:
    """The figures that matter, one line per device and one for all together.

    AUC 0.5 and an average precision (AP) of the share of anomalous windows are what a constant score reaches.
    """
    counted = ("windows", "escalated", "raised", "confirmed")
    judged = ("anomalous", "edge_auc", "edge_ap", "heavy_auc", "heavy_ap", "random_ap", "confirmed_of_normal")
    columns = [*counted, *(judged if "edge_auc" in evaluation.pooled else ())]
    lines = [f"{'':22}" + "".join(f"{_HEADINGS[name]:>{len(_HEADINGS[name]) + 2}}" for name in columns)]
    for who, figures in [*evaluation.devices.items(), ("all", evaluation.pooled)]:
        cells = (_cell(name, figures.get(name, float("nan"))) for name in columns)
        lines.append(
            f"{who:22}" + "".join(f"{c:>{len(_HEADINGS[name]) + 2}}" for c, name in zip(cells, columns, strict=True))
        )
    return "\n".join(lines)


_HEADINGS = {
    "windows": " windows",
    "escalated": "passed on",
    "raised": "edge alarm",
    "confirmed": "heavy alarm",
    "anomalous": "anomalous",
    "edge_auc": "edge AUC",
    "edge_ap": "edge AP",
    "heavy_auc": "heavy AUC",
    "heavy_ap": "heavy AP",
    "random_ap": "random AP",
    "confirmed_of_normal": "heavy alarm of normal",
}


def _cell(name: str, value: float) -> str:
    if value != value:
        return "-"
    if name in ("windows", "anomalous"):
        return f"{value:,.0f}"
    return f"{value:.3f}" if name.endswith(("_auc", "_ap")) else f"{value:.2%}"
