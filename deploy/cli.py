"""The `tidegate` command: one file per verb in deploy/commands, each with HELP, EXAMPLES, add_arguments and run."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from schemas.errors import TidegateError, exit_code

#: Verbs in the order of the help. Their modules are light: what is heavy is imported by run().
COMMANDS = (
    "demo",
    "init",
    "import",
    "train",
    "model",
    "replay",
    "record",
    "explain",
    "report",
    "up",
    "down",
    "status",
    "doctor",
    "topics",
    "tail",
    "dlq",
    "ledger",
    "edge",
    "pipeline",
    "flink",
)

_EPILOG = """\
examples:
  tidegate demo                      the main job on recorded data, from sensor to feedback
  tidegate up && tidegate status     a local broker with every topic
  tidegate tail edge.events          decoded records as they come
  tidegate <command> --help          more about a command

Data goes to stdout, everything else to stderr. Exit codes are explained in docs/exit-codes.md.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code (docs/exit-codes.md)."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words[:1]
    words = words[1:] if debug else words
    if words[:1] not in (["edge"], ["pipeline"]):  # those set up their own log, which would come too late
        level = logging.INFO if debug else logging.ERROR
        logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    if not debug:  # its warnings repeat, with less context, what our sentences say
        logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        return _run(words)
    except TidegateError as error:
        if debug:
            raise
        print(f"tidegate: {error}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough, as in `tidegate tail … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(words: list[str]) -> int:
    command = _module(words[0]) if words and words[0] in COMMANDS else None
    if command is not None and hasattr(command, "forward"):  # its options are another program's: hand them over unread
        return int(command.forward(words[1:]))
    args = parser().parse_args(_join(_join(words, "--from"), "--to"))
    return int(args.run(args) or 0)


def _join(words: list[str], option: str) -> list[str]:
    """Let `option` take a value that starts with a dash, as in `--from -5min`, which argparse takes for an option."""
    out = list(words)
    for at, word in enumerate(out[:-1]):
        if word == option and out[at + 1][:1] == "-" and out[at + 1][1:2].isdigit():
            out[at : at + 2] = [f"{option}={out[at + 1]}"]
            break
    return out


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="tidegate",
        description="Edge AI and distributed AI in one stream.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"tidegate {_version()}")
    top.add_argument(
        "--debug", action="store_true", help="as the first word: log more, and show the traceback of an error"
    )
    verbs = top.add_subparsers(title="commands", metavar="<command>", required=True)
    for name in COMMANDS:
        command = _module(name)
        verb = verbs.add_parser(
            name,
            help=command.HELP,
            description=command.HELP[0].upper() + command.HELP[1:] + ".",
            epilog=command.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if hasattr(command, "run"):
            command.add_arguments(verb)
            verb.set_defaults(run=command.run)
    return top


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"deploy.commands.{name}")


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("tidegate")
    except metadata.PackageNotFoundError:
        return "from its tree, not installed"


if __name__ == "__main__":
    sys.exit(main())
