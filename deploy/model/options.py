"""Command line of `tidegate model`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy import output
from schemas.errors import ConfigError
from schemas.units import duration_us

if TYPE_CHECKING:
    from deploy.model.said import Said  # with pydantic behind it: not for --help

#: Options of one half: name, field of Said, and what argparse is told. Each exists as --NAME and as --heavy-NAME.
_OF_A_HALF: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("input", "inputs", {"action": "append", "metavar": "NAME[=ch,…]", "help": "an input made from the window"}),
    ("feed", "feed", {"choices": ("window", "features"), "help": "what goes in (default: window)"}),
    ("statistics", "statistics", {"metavar": "a,b,…", "help": "for features: mean, std, min, max, rise, step"}),
    (
        "layout",
        "layout",
        {
            "choices": ("rows", "channels", "flat", "flat-channels"),
            "help": "how a window lies (default: from the shape)",
        },
    ),
    (
        "constant",
        "constants",
        {"action": "append", "metavar": "NAME=VALUE", "help": "an input that is always the same"},
    ),
    ("state", "states", {"action": "append", "metavar": "IN=OUT", "help": "an input fed from an output"}),
    ("score", "score", {"metavar": "OUT[:PICK]", "help": "output, and class, max, mean, min, sum, last or error"}),
    ("flip", "flip", {"choices": ("negate", "complement"), "help": "where lower is worse: -x, or 1 - x"}),
    ("context", "context_readings", {"type": int, "metavar": "N", "help": "readings before it put in front"}),
    ("frame", "frame_readings", {"type": int, "metavar": "N", "help": "feed the window by frames of N readings"}),
    ("over-frames", "over_frames", {"choices": ("max", "mean", "last"), "help": "score of a window from its frames'"}),
    (
        "reset-after",
        "reset_after_us",
        {"metavar": "DURATION", "help": "a gap that makes it forget (default: 5 readings)"},
    ),
    ("unscaled", "unscaled", {"action": "store_true", "help": "it takes the sensor's units"}),
)


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """inspect, pack, try and card."""
    verbs = parser.add_subparsers(title="verbs", metavar="<verb>", dest="verb", required=True)
    inspect = verbs.add_parser("inspect", help="what a model is, how it would be fed, and what must be said")
    inspect.add_argument("model", type=Path, metavar="MY.onnx")
    _window(inspect)
    _feeding(inspect, heavy=False)
    output.add_format(inspect, ("text", "json"))

    pack = verbs.add_parser(
        "pack",
        help="make a package of a model, or of a light and a heavy one",
        epilog="With one file, how it is fed holds for both halves. With two it holds for the edge model; the heavy "
        "one has the same options as --heavy-…: --heavy-input, --heavy-feed, --heavy-score. See docs/models.md.",
    )
    pack.add_argument("models", type=Path, nargs="+", metavar="MY.onnx", help="one for both halves, or EDGE and HEAVY")
    pack.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="where the package goes")
    pack.add_argument("--name", required=True, help="name of the model")
    pack.add_argument("--cohort", help="group of devices that runs it (default: the recording's)")
    pack.add_argument("--version", type=int, default=1, help="version of the model (default: 1)")
    output.add_summary_format(pack, "what was made")
    _window(pack)
    _levels(pack)
    _feeding(pack, heavy=True)

    attempt = verbs.add_parser("try", help="run a package, or a model as it would be packed, over recordings")
    attempt.add_argument("model", type=Path, metavar="DIR|MY.onnx")
    attempt.add_argument("recordings", type=Path, nargs="+", metavar="REC.avro")
    attempt.add_argument("--half", choices=("edge", "heavy"), default="edge", help="of a package (default: edge)")
    attempt.add_argument("--html", type=Path, metavar="FILE", help="write a page with the plot; nothing outside of it")
    attempt.add_argument("--scores", type=Path, metavar="FILE.csv", help="write every score")
    _window(attempt)
    _levels(attempt)
    _feeding(attempt, heavy=False)
    output.add_format(attempt, ("text", "json"))

    card = verbs.add_parser("card", help="describe a package, as Markdown")
    card.add_argument("package", type=Path, metavar="DIR")
    card.add_argument("-o", "--out", type=Path, metavar="FILE", help="write it there (default: to stdout)")


def _window(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the window")
    group.add_argument(
        "--window", type=int, metavar="N", help="readings of a window (default: as the model's shape says)"
    )
    group.add_argument("--channels", metavar="a,b,…", help="channels, in order (default: the recording's)")


def _levels(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scaling and thresholds")
    group.add_argument("--scale-from", type=Path, nargs="+", default=[], metavar="REC", help="standardise each channel")
    group.add_argument(
        "--levels-from",
        type=Path,
        nargs="+",
        default=[],
        metavar="REC",
        help="normal operation (default: --scale-from)",
    )
    group.add_argument("--share", type=float, default=0.05, help="share of its windows to escalate (default: 0.05)")
    group.add_argument("--heavy-share", type=float, default=0.02, help="the heavy model's (default: 0.02)")
    for name, text in (("escalate-at", "send a window on"), ("raise-at", "raise an alarm"), ("clear-at", "clear it")):
        group.add_argument(f"--{name}", type=float, metavar="X", help=f"score from which to {text}, as a number")
    group.add_argument("--threshold", type=float, metavar="X", help="the heavy model's (default: as --raise-at)")


def _feeding(parser: argparse.ArgumentParser, *, heavy: bool) -> None:
    group = parser.add_argument_group("how it is fed, where its tensors do not tell")
    for name, field, told in _OF_A_HALF:
        group.add_argument(f"--{name}", dest=f"edge_{field}", default=None, **told)
    if heavy:
        group = parser.add_argument_group("the same for the heavy model, where it differs")
        for name, field, told in _OF_A_HALF:
            group.add_argument(
                f"--heavy-{name}", dest=f"heavy_{field}", default=None, **told | {"help": argparse.SUPPRESS}
            )


def said(args: argparse.Namespace, half: str, *, one_file: bool = True) -> Said:
    """What was said of a half; where both are one file, the heavy one follows the edge's in what is not said of it.

    Raises: ConfigError: a duration that is none.
    """
    from deploy.model.said import Said

    values: dict[str, Any] = {}
    for _, field, _ in _OF_A_HALF:
        value = getattr(args, f"{half}_{field}", None)
        if value is None and one_file:
            value = getattr(args, f"edge_{field}")
        if value is not None:
            values[field] = value
    for field in ("inputs", "constants", "states"):
        values[field] = tuple(values.get(field, ()))
    values["statistics"] = names(values.get("statistics"))
    if "reset_after_us" in values:
        values["reset_after_us"] = duration_us(values["reset_after_us"])
    if values.get("context_readings", 0) < 0 or values.get("frame_readings", 1) < 1:
        raise ConfigError("--context is 0 or more readings, and --frame 1 or more")
    return Said(**values)


def names(text: str | None) -> tuple[str, ...]:
    """`a,b` as a tuple; empty for nothing."""
    return tuple(filter(None, (text or "").split(",")))
