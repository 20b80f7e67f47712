"""How a line of a log looks, on both sides: text for people, or one JSON object per line for machines. Pure.

    {"timestamp": "2026-01-02T03:04:05.678901Z", "severity": "INFO", "process": "edge", "logger": "edge_filters",
     "body": "…", "trace_id": "…", "span_id": "…"}

Fields beside these are only those of FIELDS, which our own code names with `extra=`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from schemas.printing import as_json, harmless

FORMATS = ("text", "json")
#: What `extra=` may add, in this order.
FIELDS = ("event_id", "trace_id", "span_id")
HIDDEN = "***"
#: Secrets shorter than this are not looked for: they would hide half of the text.
_SHORTEST = 4


def add_argument(parser: Any) -> None:
    """`--log-format`; also spelt with an underscore, as Beam's options are."""
    parser.add_argument(
        "--log-format",
        "--log_format",
        choices=FORMATS,
        default="text",
        help="text, or one JSON object per line (default: text)",
    )


def format_of(argv: Iterable[str]) -> str:
    """The chosen format on a command line of which the rest is read later; "text" where it is not a known one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--log-format", "--log_format", default="text")
    try:
        chosen = parser.parse_known_args(list(argv))[0].log_format
    except argparse.ArgumentError:
        return "text"
    return chosen if chosen in FORMATS else "text"


class Redacting(logging.Formatter):
    """Text, without the secrets that it knows."""

    def __init__(self, text: str, datefmt: str | None = None, secrets: Iterable[str] = ()) -> None:
        super().__init__(text, datefmt)
        self._secrets: list[str] = []
        self.keep(secrets)

    def keep(self, secrets: Iterable[str]) -> None:
        """Hide these too, from now on."""
        known = {*self._secrets, *(secret for secret in secrets if len(secret) >= _SHORTEST)}
        self._secrets = sorted(known, key=len, reverse=True)

    def hide(self, text: str) -> str:
        """A text with each secret replaced."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter.format."""
        return harmless(self.hide(super().format(record)))


class JsonLines(Redacting):
    """One JSON object per line; a traceback is a field of it."""

    def __init__(self, process: str, secrets: Iterable[str] = ()) -> None:
        super().__init__("", None, secrets)
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter.format."""
        at = datetime.fromtimestamp(record.created, UTC)
        line = {
            "timestamp": at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "severity": record.levelname,
            "process": self._process,
            "logger": record.name,
            "body": self.hide(record.getMessage()),
        }
        line |= {name: str(getattr(record, name)) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = self.hide(self.formatException(record.exc_info))
        return as_json(line)


def is_json() -> bool:
    """Whether the log of this process is set up as lines of JSON."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)


def passwords(settings: Mapping[str, Any]) -> list[str]:
    """Values of a Kafka client's settings that nobody shall read.

    >>> passwords({"sasl_plain_username": "edge", "sasl_plain_password": "hunter2"})
    ['hunter2']
    """
    return [str(value) for name, value in settings.items() if "password" in name]


def log_uncaught(logger: logging.Logger) -> None:
    """Give the log what Python would print by itself: uncaught exceptions, of threads too, and warnings."""

    def uncaught(kind: type[BaseException], failed: BaseException, traceback: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            logger.critical("an exception that nobody caught", exc_info=(kind, failed, traceback))

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            uncaught(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook = uncaught
    threading.excepthook = in_thread
    logging.captureWarnings(True)


def formatter(kind: str, process: str, text: str, datefmt: str | None = None, secrets: Iterable[str] = ()) -> Redacting:
    """Formatter for one of FORMATS; `text` and `datefmt` are those of logging for "text"."""
    return JsonLines(process, secrets) if kind == "json" else Redacting(text, datefmt, secrets)
