"""`tidegate replay`: recorded data through the code that runs live, offline or into topics."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from deploy.commands.record import moment_of

HELP = "replay recorded data through the live code: offline, or live into topics"
EXAMPLES = """\
examples:
  tidegate replay deploy/demo/data/machine-2-8.live.avro --models build/models/servers-v1-* -o build/replayed
  tidegate replay *.avro --models models/pumps models/fans -o out --from 10min --to 1h --format json
  tidegate replay run1 -o again                           topics from `tidegate record all`: decided again, compared
  tidegate replay run1 --verify                           the same, keeping nothing: is a live run repeatable?
  tidegate replay pump-7.avro --models models/pumps --kafka 127.0.0.1:9092 --speed 10x

Offline, a recording keeps its own event times, thresholds stay at the package's defaults, and the same recording gives
the same records every time; OUT holds one Avro file per topic. Recorded topics go through the pipeline's graph alone;
where the folder holds cloud.decisions too (or --compare names one), every decision is compared with the recorded one,
and each event goes to the model version that decided it then, as far as that is among --models or in the recording.

With --kafka the recording becomes live devices: the edge engine filters it, obeys feedback and sends into the topics.
At a speed, event times are moved to now; at `max` they stay as recorded (--times chooses).
exit codes: 0 done, 1 decided otherwise than recorded, 2 wrong options, 65 a file is damaged, 69 no broker,
            78 models, span or output do not fit
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    from deploy import output

    parser.add_argument(
        "recordings", nargs="+", type=Path, metavar="REC", help="container files of SensorBlocks, or a recorded folder"
    )
    parser.add_argument(
        "--models",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        help="packages, one per cohort; default: as recorded",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="offline: folder to write; made if missing")
    parser.add_argument(
        "--from", dest="start", type=moment_of, metavar="WHEN", help="a time, or an offset from the start such as 10min"
    )
    parser.add_argument("--to", dest="end", type=moment_of, metavar="WHEN", help="a time, or an offset from the start")
    parser.add_argument("--fleet-window", metavar="DURATION", help="length of aggregates and fleet windows")
    parser.add_argument("--audit-rate", type=_share, default=0.01, metavar="SHARE", help="default: 0.01")
    parser.add_argument("--compare", type=Path, metavar="PATH", help="recorded decisions: a file, or a folder with one")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="only decide again and compare: 1 unless every recorded decision is made again by the model that made it; "
        "keeps nothing without -o",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    output.add_summary_format(parser)
    live = parser.add_argument_group("live")
    live.add_argument("--kafka", metavar="HOST:PORT", help="send into the topics of this broker instead")
    live.add_argument("--prefix", default="", help="put before every topic name, with its dot: plant1.")
    live.add_argument("--speed", type=_speed, default=1.0, metavar="10x|max", help="default: 1x, as it was recorded")
    live.add_argument("--times", choices=["now", "recorded"], help="event times (default: now; at max, recorded)")
    live.add_argument("--no-feedback", action="store_true", help="keep the package's thresholds and model, as offline")
    live.add_argument("--boot-epoch", type=_epoch, metavar="N", help="of the devices (default: one more than known)")


def run(args: argparse.Namespace) -> int:
    """Raises TidegateError."""
    from deploy.suspect import guarded

    with guarded(args, "recordings", "compare") as deaths:
        code = _run(args)
    return code or (65 if deaths else 0)


def _run(args: argparse.Namespace) -> int:
    from deploy.recording.span import Span
    from schemas.errors import ConfigError
    from schemas.units import duration_us

    span = Span(args.start, args.end)
    window_us = duration_us(args.fleet_window) if args.fleet_window else None
    if window_us == 0:
        raise ConfigError("fleet windows need a positive size", got=args.fleet_window)
    if args.kafka:
        return _live(args, span, window_us)
    if args.output is not None:
        return _offline(args, span, window_us, args.output)
    if not args.verify:
        raise ConfigError(
            "there is nowhere to write to", fix="name a folder with -o, or a broker with --kafka, or only --verify"
        )
    with tempfile.TemporaryDirectory(prefix="tidegate-verify-") as folder:
        return _offline(args, span, window_us, Path(folder))


def _offline(args: argparse.Namespace, span: object, window_us: int | None, out: Path) -> int:
    from deploy import output
    from deploy.replay import Settings, differs, replay, text_of

    settings = Settings(
        models=args.models,
        out=out,
        span=span,  # type: ignore[arg-type]  # as in _live
        window_us=window_us,
        audit_rate=args.audit_rate,
        quiet=args.quiet,
        against=args.compare,
        verify=args.verify,
    )
    report = replay(args.recordings, settings)
    if args.format == "json":
        output.print_json(report)
    else:
        text_of(report, print)
    for line in report["damaged"]:
        print(f"tidegate: {line}", file=sys.stderr)
    return 65 if report["damaged"] else int(differs(report, strictly=args.verify))


def _live(args: argparse.Namespace, span: object, window_us: int | None) -> int:
    from deploy import output
    from deploy.recording.live import LiveSettings, replay_live, text_of

    settings = LiveSettings(
        bootstrap_servers=args.kafka,
        prefix=args.prefix,
        models=args.models,
        span=span,  # type: ignore[arg-type]  # typed where it is imported, so that --help stays light
        speed=args.speed,
        keep_times=args.times == "recorded" or (args.times is None and args.speed is None),
        boot_epoch=args.boot_epoch,
        window_us=window_us,
        audit_rate=args.audit_rate,
        feedback=not args.no_feedback,
        quiet=args.quiet,
    )
    report = replay_live(args.recordings, settings)
    if args.format == "json":
        output.print_json(report)
    else:
        text_of(report, print)
    return int(report["exit_code"])


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise argparse.ArgumentTypeError(f"a share from 0 to 1: {text!r}")
    return share


def _speed(text: str) -> float | None:
    from math import isfinite

    if text == "max":
        return None
    try:
        speed = float(text.removesuffix("x")) if text.endswith("x") else 0.0
    except ValueError:
        speed = 0.0
    if not (isfinite(speed) and speed > 0):
        raise argparse.ArgumentTypeError(f"not a speed: {text!r}; write it like 10x, or max")
    return speed


def _epoch(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**62:
        raise argparse.ArgumentTypeError(f"a number of starts, at least 1: {text!r}")
    return int(text)
