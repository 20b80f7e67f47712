"""CSV and its relatives: separator, decimal mark, encoding and header are found; Arrow then reads blocks of text."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import csv as arrow_csv

from deploy.importing.cells import MISSING, NUMBER
from deploy.importing.tables import damaged, unique
from deploy.importing.wanted import Wanted
from schemas.errors import ConfigError, DecodeError

#: Bytes that are looked at to find out what the file is like, and bytes of text that are converted at a time.
HEAD_BYTES, BLOCK_BYTES = 256 << 10, 2 << 20
MAX_COLUMNS = 4096
#: In the order of preference: a comma may also be a decimal mark, and a blank stands within times.
SEPARATORS = ("\t", ";", "|", ",", " ")
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}.*|\d{1,2}:\d{2}.*")
_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_POINT = re.compile(r"[+-]?\d+\.\d+([eE][+-]?\d+)?")
_NAMES = {"\t": "tab", " ": "blank"}


@dataclass(frozen=True, slots=True)
class CsvForm:
    """How a text file is written. `skip`: lines before the header, or before the first row.

    `units`: of each column, where a line of them follows the header; empty where none does.
    """

    encoding: str
    separator: str
    decimal: str
    skip: int
    header: bool
    columns: tuple[str, ...]
    units: tuple[str, ...] = ()
    quotes: bool = False  # cells may hold line breaks


def find_form(head: bytes, whole: bool, wanted: Wanted) -> CsvForm:
    """What the first bytes of a file tell. `whole`: they are all of it. Raises DecodeError: there is nothing in it."""
    encoding, text = _decode(head, wanted.encoding)
    lines = re.split(r"\r\n|\n|\r", text)
    if not whole and len(lines) > 1:
        lines.pop()  # cut off
    skip = wanted.skip_lines
    if skip is None:
        skip = next((at for at, line in enumerate(lines) if line.strip() and not line.startswith("#")), 0)
    stated = re.fullmatch(r"sep=(.)", lines[skip].strip(), re.IGNORECASE) if skip < len(lines) else None
    skip += stated is not None  # Excel's own way to say it
    lines = [line for line in lines[skip:] if line.strip()][:200]
    if not lines:
        raise DecodeError("the file is empty", fix="it needs a header and rows")
    separator = wanted.separator or (stated[1] if stated else _separator(lines))
    rows = list(csv.reader(lines, delimiter=separator))
    header = _is_header(rows) if wanted.header is None else wanted.header
    units = _units(rows) if header else ()
    decimal = wanted.decimal or _decimal(rows[1:] or rows, separator)
    names = [cell.strip() for cell in rows[0]] if header else [f"c{at:02d}" for at in range(len(rows[0]))]
    if len(names) > MAX_COLUMNS:
        raise DecodeError("the file has too many columns", columns=len(names), most=MAX_COLUMNS)
    return CsvForm(encoding, separator, decimal, skip, header, tuple(unique(names)), units, '"' in text)


def _decode(head: bytes, stated: str | None) -> tuple[str, str]:
    if stated:
        return stated, head.decode(stated, errors="replace")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16", head.decode("utf-16", errors="ignore")
    if b"\0" in head:
        raise DecodeError("the file is no text", fix="name it .parquet, .npy or .npz if it is that")
    for end in range(4):  # the head may end within a character
        try:
            return "utf8", head[: len(head) - end].decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
    return "cp1252", head.decode("cp1252", errors="replace")


def _separator(lines: Sequence[str]) -> str:
    for separator in SEPARATORS:
        try:
            widths = [len(row) for row in csv.reader(lines, delimiter=separator)]
        except csv.Error:  # a line that is one cell by this separator, and too long for one
            continue
        width, count = Counter(widths).most_common(1)[0]
        if width > 1 and widths[0] == width and count >= 0.9 * len(widths):
            return separator
    return ","


def _is_value(cell: str) -> bool:
    return any(pattern.fullmatch(cell) for pattern in (NUMBER, _COMMA, _DATE))


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """A first line without values; or one that has a word where the next ones have a value."""
    first = [cell.strip() for cell in rows[0]]
    words = {at for at, cell in enumerate(first) if cell and not _is_value(cell) and cell not in MISSING}
    if words and not any(_is_value(cell) or (cell and cell in MISSING) for cell in first):
        return True
    return any(at in words and _is_value(cell.strip()) for row in rows[1:20] for at, cell in enumerate(row))


def _units(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The second line, where it has short words above columns of values."""
    if len(rows) < 3 or len(rows[1]) != len(rows[0]):
        return ()
    second, third = ([cell.strip() for cell in row] for row in rows[1:3])
    above = [word for word, cell in zip(second, third, strict=False) if _is_value(cell)]
    unlikely = any(_is_value(word) or len(word) > 12 for word in second) or not any(
        word and word not in MISSING for word in above
    )
    return () if unlikely else tuple(word.strip("[]()") for word in second)


def _decimal(rows: Sequence[Sequence[str]], separator: str) -> str:
    if separator == ",":
        return "."
    cells = [cell.strip() for row in rows for cell in row]
    commas = any(_COMMA.fullmatch(cell) for cell in cells)
    return "," if commas and not any(_POINT.fullmatch(cell) for cell in cells) else "."


class _Source:
    """A file that can be told to end where it is."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.ended = file, False

    def read(self, size: int) -> bytes:
        return b"" if self.ended else self._file.read(size)

    def close(self) -> None:
        """Arrow's word that it needs no more; the file is its owner's."""


class CsvTable:
    """See Table. Every cell is read as text: what it means is decided, and refused, where row and column are known."""

    def __init__(self, path: Path, wanted: Wanted) -> None:
        """Raises DecodeError: the file is empty or no text. ArrowException, OSError: it cannot be read."""
        self.path = path
        self._missing = sorted({*MISSING, *wanted.missing})
        with pa.input_stream(str(path), compression="detect") as stream:
            head = stream.read(HEAD_BYTES + 1)
        try:
            self.form = find_form(head[:HEAD_BYTES], len(head) <= HEAD_BYTES, wanted)
        except csv.Error as cause:
            raise damaged(path, cause) from None
        except DecodeError as wrong:
            raise DecodeError(wrong.problem, fix=wrong.fix, file=str(path), **wrong.where) from None
        except (TypeError, UnicodeError) as cause:
            raise ConfigError(f"the text cannot be taken apart: {cause}", file=str(path)) from None
        self.columns, self.decimal = self.form.columns, self.form.decimal
        self.units = {name: unit for name, unit in zip(self.columns, self.form.units, strict=False) if unit}
        self.about: dict[str, object] = {
            "format": "csv",
            "separator": _NAMES.get(self.form.separator, self.form.separator),
            "decimal": self.form.decimal,
            "encoding": {"utf8": "utf-8"}.get(self.form.encoding, self.form.encoding),
            "header": self.form.header,
            "skipped_lines": self.form.skip,
            "units_line": bool(self.form.units),
        }

    def sample(self) -> Any:
        """See Table."""
        for batch, _ in self._read(self.columns):
            return batch
        return pa.RecordBatch.from_pydict({name: pa.array([], pa.string()) for name in self.columns})

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[Any, float]]:
        """See Table."""
        return self._read(columns)

    def _read(self, columns: Sequence[str]) -> Iterator[tuple[Any, float]]:
        ragged: list[Any] = []

        def refuse(row: Any) -> str:
            ragged.append(row)
            return "error"

        size, before = max(self.path.stat().st_size, 1), 0
        with self.path.open("rb") as file:
            try:
                for batch in self._batches(file, columns, refuse):
                    before += len(batch)
                    yield batch, min(file.tell() / size, 1.0)
            except (pa.ArrowException, OSError, UnicodeError, EOFError) as cause:
                if not before and str(cause).startswith(("Could not skip", "Empty CSV")):
                    return  # nothing below the header
                if ragged:
                    raise self._ragged(ragged[0]) from None
                if isinstance(cause, UnicodeError) or "UTF8" in str(cause):
                    raise DecodeError(
                        f"the text is not all {self.about['encoding']}",
                        file=str(self.path),
                        after_row=before,
                        fix="say how it is written, as in --encoding cp1252",
                    ) from None
                raise damaged(self.path, cause, after_row=before) from None

    def _batches(self, file: BinaryIO, columns: Sequence[str], refuse: Any) -> Iterator[Any]:
        packed = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}.get(self.path.suffix.lower())
        source = _Source(file)
        stream: Any = pa.PythonFile(source, mode="r")
        if packed:
            stream = pa.CompressedInputStream(stream, packed)
        skip = self.form.skip + self.form.header + bool(self.form.units)
        reader = arrow_csv.open_csv(
            stream,
            read_options=arrow_csv.ReadOptions(
                use_threads=False,
                block_size=BLOCK_BYTES,
                skip_rows=skip,
                column_names=list(self.columns),
                encoding=self.form.encoding,
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=self.form.separator,
                newlines_in_values=self.form.quotes,
                invalid_row_handler=refuse,
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types={name: pa.string() for name in self.columns},
                include_columns=list(columns),
                null_values=self._missing,
                strings_can_be_null=True,
            ),
        )
        with reader:
            try:
                yield from reader
            finally:
                # Arrow reads ahead in a thread of its own. Were it to call Python when that has begun to end, as after
                # a wrong cell or Ctrl-C, the process would be aborted: let it come to an end first.
                source.ended = True
                with suppress(pa.ArrowException, OSError, UnicodeError, EOFError, StopIteration):
                    while True:
                        reader.read_next_batch()

    def _ragged(self, row: Any) -> DecodeError:
        what = "row" if self.form.quotes else "line"  # a row may take several lines then
        line = f"{what} {row.number} (blank ones not counted)" if row.number is not None else "a line"
        return DecodeError(
            f"{line} has {row.actual_columns} cells where the columns are {row.expected_columns}",
            file=str(self.path),
            text=str(row.text)[:80],
            fix="correct that line; if most lines look like it, name the separator with --separator",
        )
