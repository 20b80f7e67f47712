"""`tidegate import`: a recording from tables of one's own."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

HELP = "make a recording from CSV, Parquet, npy or npz"
EXAMPLES = """\
examples:
  tidegate import pump-7.csv --dry-run                       what it understands, without writing
  tidegate import pump-7.csv -o pump-7.avro                  one device, named as its file
  tidegate import jan.csv feb.csv --device pump-7 -o pump-7.avro
  tidegate import plant.csv --device-column machine --label fault -o plant.avro
  tidegate import log.csv --time Date --time Clock --time-format dmy --timezone Europe/Berlin -o log.avro
  tidegate import vibration.npy --rate 12kHz --device mill -o mill.avro

What is not said is found, and shown. Rows are never dropped, sorted or merged: what is odd about them is counted.
More: docs/import.md.
exit codes: 0 done, 2 wrong options, 65 a file or cell is wrong, 78 something is missing or cannot be found
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    from pathlib import Path

    from deploy import output

    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help=".csv .tsv .txt (also .gz) .parquet .npy .npz"
    )
    parser.add_argument("-o", "--out", type=Path, metavar="REC.avro", help="the recording to write")
    parser.add_argument(
        "--dry-run", action="store_true", help="read everything, show what was understood, write nothing"
    )
    parser.add_argument("--force", action="store_true", help="replace a recording that is there already")
    output.add_summary_format(parser, "the report")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    time = parser.add_argument_group("time")
    time.add_argument(
        "--time", action="append", default=[], metavar="COLUMN", help="column of the time; twice: date and clock"
    )
    time.add_argument(
        "--time-format",
        type=_format,
        metavar="F",
        help="iso, dmy, mdy, s, ms, us, ns, or a pattern like '%%d.%%m.%%Y %%H:%%M'",
    )
    time.add_argument(
        "--timezone", type=_zone, default="UTC", metavar="Z", help="of times without one, like Europe/Berlin (UTC)"
    )
    time.add_argument(
        "--rate", type=_step, metavar="R", help="the file has no times: readings as 50Hz, or one every 10s"
    )
    time.add_argument("--start", type=_moment, metavar="T", help="with --rate: time of the first row (2000-01-01)")
    time.add_argument(
        "--drop-untimed", action="store_true", help="leave out rows whose time is missing, and count them"
    )
    columns = parser.add_argument_group("columns")
    columns.add_argument(
        "--channels",
        action="append",
        default=[],
        metavar="A,B",
        help="inputs, by name or as sensor_*; all numbers otherwise",
    )
    columns.add_argument("--exclude", action="append", default=[], metavar="A,B", help="columns that are no inputs")
    columns.add_argument(
        "--unit", action="append", default=[], type=_unit, metavar="A=UNIT", help="unit of a column, as temp=celsius"
    )
    columns.add_argument(
        "--label", metavar="COLUMN", help="column that says which rows are anomalous; 'none': there is none"
    )
    columns.add_argument(
        "--normal", action="append", default=[], metavar="WORD", help="a label that means that all is well"
    )
    columns.add_argument(
        "--device", metavar="NAME", help="device of all rows; with --device-column: what stands before its names"
    )
    columns.add_argument("--device-column", metavar="COLUMN", help="column that names the device of each row")
    columns.add_argument(
        "--cohort",
        type=_cohort,
        metavar="NAME",
        help="group that shares a model (the device; of several: the name of REC)",
    )
    form = parser.add_argument_group("text files")
    form.add_argument("--encoding", type=_encoding, metavar="E", help="of the text, as cp1252")
    form.add_argument("--separator", type=_separator, metavar="C", help="between cells; tab is written 'tab'")
    form.add_argument("--decimal", choices=(".", ","), metavar="C", help="mark before a fraction")
    form.add_argument("--header", choices=("yes", "no"), help="whether the first line names the columns")
    form.add_argument("--skip-lines", type=_count, metavar="N", help="lines before the header")
    form.add_argument(
        "--missing", action="append", default=[], metavar="WORD", help="a cell that means no value, as -200"
    )


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError, DecodeError: see import_files. MissingToolError: pyarrow is not installed."""
    from deploy import output
    from schemas.errors import ConfigError, MissingToolError

    if (args.out is None) != args.dry_run:
        raise ConfigError(
            "say where the recording goes, or that none is wanted", fix="give either -o REC.avro or --dry-run"
        )
    if args.rate is not None and args.time:
        raise ConfigError("a file has times or a rate", fix="give either --time or --rate")
    if args.start is not None and args.rate is None:
        raise ConfigError("--start is for files without times", fix="give --rate with it")
    try:
        from deploy.importing.importer import import_files
    except ModuleNotFoundError as missing:
        raise MissingToolError(f"{missing.name} is not installed", fix="pip install 'tidegate[cloud]'") from None
    from deploy.importing.text import lines
    from deploy.importing.wanted import Wanted

    wanted = Wanted(
        time=tuple(args.time),
        time_format=args.time_format,
        timezone=args.timezone,
        step_us=args.rate,
        start_us=Wanted().start_us if args.start is None else args.start,
        device=args.device,
        device_column=args.device_column,
        cohort=args.cohort,
        label=None if args.label == "none" else args.label,
        no_label=args.label == "none",
        normal=frozenset(word.lower() for word in args.normal),
        channels=_list(args.channels),
        exclude=_list(args.exclude),
        units=dict(args.unit),
        encoding=args.encoding,
        separator=args.separator,
        decimal=args.decimal,
        header={"yes": True, "no": False, None: None}[args.header],
        skip_lines=args.skip_lines,
        missing=tuple(args.missing),
        drop_untimed=args.drop_untimed,
    )
    with _ending_in_order(), _Bar(args.quiet) as bar:
        report = import_files(args.files, args.out, wanted, bar.tell, force=args.force)
    if args.format == "json":
        output.print_json(report.as_json())
    else:
        print("\n".join(lines(report)))
    return 0


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Signals that would end the process at once become an exception, so that half a recording goes with it."""
    import signal
    import sys

    def end(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    ours = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:  # not those that nohup or a caller has taken
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


class _Bar:
    """Progress on a terminal; nothing elsewhere."""

    def __init__(self, quiet: bool) -> None:
        import sys

        self._progress = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task("reading", total=1.0)

    def __enter__(self) -> _Bar:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def tell(self, share: float, rows: int) -> None:
        """Move the bar."""
        if self._progress is not None:
            self._progress.update(self._task, completed=share, description=f"{rows:,} rows")


def _list(words: list[str]) -> tuple[str, ...]:
    return tuple(part.strip() for word in words for part in word.split(",") if part.strip())


def _sentence(check: Callable[[str], Any], text: str) -> Any:
    """Result of a check of ours; its error as argparse's."""
    from schemas.errors import ConfigError

    try:
        return check(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _format(text: str) -> object:
    from deploy.importing.times import check_format

    return _sentence(check_format, text)


def _zone(text: str) -> object:
    from deploy.importing.times import check_zone

    return _sentence(check_zone, text)


def _step(text: str) -> object:
    """Microseconds between two readings: `50Hz`, `12.5kHz`, or `10s`."""
    from schemas.errors import ConfigError
    from schemas.units import duration_us

    def check(text: str) -> float:
        import re

        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(k?)Hz\s*", text, re.IGNORECASE)
        rate_hz = float(match[1]) * (1000 if match[2] else 1) if match else 0.0
        step = 1e6 / max(rate_hz, 1e-12) if match else float(duration_us(text))
        if not 1 <= step <= 10**15:
            raise ConfigError(f"no such rate: {text!r}", fix="between 1MHz and one reading in thirty years")
        return step

    return _sentence(check, text)


def _moment(text: str) -> int:
    from datetime import UTC, datetime, timedelta

    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a time: {text!r}; write it like 2024-05-01T06:00:00") from None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _unit(text: str) -> tuple[str, str]:
    column, equals, unit = text.partition("=")
    if not (equals and column.strip() and unit.strip()):
        raise argparse.ArgumentTypeError(f"not COLUMN=UNIT: {text!r}; write it like temp=celsius")
    return column.strip(), unit.strip()


def _cohort(text: str) -> str:
    if not 1 <= len(text) <= 128 or not text.isprintable():
        raise argparse.ArgumentTypeError(f"not a name of 1 to 128 characters: {text[:40]!r}")
    return text


def _encoding(text: str) -> str:
    import codecs

    try:
        "a".encode(text)  # hex and its like are encodings of bytes
        return codecs.lookup(text).name
    except LookupError:
        raise argparse.ArgumentTypeError(f"there is no encoding {text!r}; common are utf-8, cp1252, utf-16") from None


def _separator(text: str) -> str:
    text = {"tab": "\t", "\\t": "\t", "space": " ", "blank": " "}.get(text, text)
    if len(text) != 1 or text in '\r\n"':
        raise argparse.ArgumentTypeError(f"not one character: {text!r}")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"not a count: {text!r}")
    return int(text)
