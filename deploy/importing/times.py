"""Times as people write them, to int64 microseconds since 1970-01-01 UTC: which format it is, and the conversion."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from deploy.importing.cells import CellError, doubles, is_text, plain
from schemas.errors import ConfigError
from schemas.records import Times

#: Numbers since 1970: nanoseconds per unit.
EPOCH_NS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
#: Year 1 to year 9999, in microseconds.
FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

_CLOCK = (
    r"(?P<hour>\d{1,2})[:.](?P<minute>\d{2})(?:[:.](?P<second>\d{2})(?:[.,:](?P<fraction>\d{1,9}))?)?"
    r"(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?\s*(?P<zone>[Zz]|UTC|GMT|[+-]\d{2}:?\d{2}|[+-]\d{2})?"
)
_AFTER = rf"(?:(?:\s*T|\s+|,\s*){_CLOCK})?\s*$"
_DAY, _MONTH = r"(?P<day>\d{1,2})", r"(?P<month>\d{1,2})"
#: Formats that are told apart by themselves; dmy and mdy only where a day is above 12.
TEXT = {
    "iso": rf"^\s*(?P<year>\d{{4}})[-/.]{_MONTH}[-/.]{_DAY}{_AFTER}",
    "dmy": rf"^\s*{_DAY}[-/.]{_MONTH}[-/.](?P<year>\d{{4}}|\d{{2}}){_AFTER}",
    "mdy": rf"^\s*{_MONTH}[-/.]{_DAY}[-/.](?P<year>\d{{4}}|\d{{2}}){_AFTER}",
}
#: By how many digits they have.
COMPACT = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_DIRECTIVES = {
    "Y": r"(?P<year>\d{4})",
    "y": r"(?P<year>\d{2})",
    "m": _MONTH,
    "b": r"(?P<name>[A-Za-z]{3})[a-z]*",
    "B": r"(?P<name>[A-Za-z]{3})[a-z]*",
    "d": _DAY,
    "H": r"(?P<hour>\d{1,2})",
    "I": r"(?P<hour>\d{1,2})",
    "M": r"(?P<minute>\d{1,2})",
    "S": r"(?P<second>\d{1,2})",
    "f": r"(?P<fraction>\d{1,9})",
    "p": r"(?P<half>[AaPp])\.?[Mm]\.?",
    "z": r"(?P<zone>[Zz]|[+-]\d{2}:?\d{2}|[+-]\d{2})",
    "%": "%",
}
_OFFSET = re.compile(r"([+-])(\d{2}):?(\d{2})?")

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Moments:
    """Times of some rows: `times` int64[n] in µs, of local clocks but where `zoned` says that they are UTC already."""

    times: Times
    zoned: Flags
    missing: Flags


def check_format(text: str) -> str:
    """A format as the user may name it. Raises ConfigError.

    >>> check_format("%d.%m.%Y %H:%M")
    '%d.%m.%Y %H:%M'
    """
    if text in EPOCH_NS or text in TEXT:
        return text
    if "%" in text:
        _pattern(text)
        return text
    raise ConfigError(
        f"not a time format: {text!r}",
        fix=f"one of {', '.join([*TEXT, *EPOCH_NS])}, or a pattern such as '%d.%m.%Y %H:%M:%S'",
    )


def check_zone(zone: str) -> str:
    """A time zone: a name such as Europe/Berlin, or an offset such as +02:00. Raises ConfigError: there is none."""
    offset = _OFFSET.fullmatch(zone)
    if offset and (int(offset[2]) > 14 or int(offset[3] or 0) > 59):
        raise ConfigError(f"there is no time zone {zone!r}", fix="offsets are at most 14 hours, as in +02:00")
    if not offset and zone != "UTC":
        try:
            pc.assume_timezone(pa.array([0], pa.timestamp("us")), zone)
        except (pa.ArrowInvalid, ValueError, OSError):
            raise ConfigError(
                f"there is no time zone {zone!r}", fix="write it like Europe/Berlin, UTC or +02:00"
            ) from None
    return zone


def fits(array: Any, name: str) -> bool:
    """Whether every cell of a text array that holds something is a time of format `name`."""
    try:
        parse(array, name)
    except CellError:
        return False
    return bool(array.null_count < len(array))


def find_format(array: Any, called: bool = False) -> str | None:
    """Format of a text column, from its first rows; None: these are no times.

    Args:
        array: cells of the first rows.
        called: the column is named like one of times: most cells then decide, and the others are mistakes.

    Raises:
        ConfigError: day or month may come first, and no row tells.
    """
    if array.null_count == len(array):
        return None
    few = array.drop_null().slice(0, 50)
    names = [name for name in TEXT if fits(few, name) and fits(array, name)]
    if not names and called:
        fitting = {name: sum(fits(few.slice(at, 1), name) for at in range(len(few))) for name in TEXT}
        most = max(fitting.values())
        names = [name for name, count in fitting.items() if count == most] if 2 * most >= len(few) else []
    if names == ["dmy", "mdy"]:
        dotted = all("." in cell[:3] for cell in few.to_pylist())  # 01.02.2024 is written where the day comes first
        if not dotted:
            raise ConfigError(
                f"the times may be read day first or month first: {few[0].as_py()!r}",
                fix="say --time-format dmy or --time-format mdy",
            )
    return names[0] if names else None


def find_compact(array: Any) -> str | None:
    """Format of times written as digits only, 20240131 or 20240131235959, in a column that is named like one."""
    if pa.types.is_integer(array.type):
        array = array.cast(pa.string())
    if not is_text(array) or array.null_count == len(array):
        return None
    few = array.drop_null().slice(0, 50)
    for width, name in COMPACT.items():
        if all(len(cell) == width and cell.isdecimal() and cell[:2] in ("19", "20") for cell in few.to_pylist()):
            return name if fits(few, name) else None
    return None


def epoch_unit(values: npt.NDArray[np.float64]) -> str | None:
    """Unit of numbers since 1970, by their size: between 1973 and 2286; None: they are no such numbers.

    >>> epoch_unit(np.array([1_700_000_000.5])), epoch_unit(np.array([1_700_000_000_000.0])), epoch_unit(np.ones(1))
    ('s', 'ms', None)
    """
    known = values[np.isfinite(values)]
    if not len(known) or known.min() < 1e8:
        return None
    for limit, name in ((1e10, "s"), (1e13, "ms"), (1e16, "us"), (1e19, "ns")):
        if known.max() < limit:
            return name if known.min() >= limit / 1e2 else None
    return None


def parse(array: Any, name: str, decimal: str = ".") -> Moments:
    """Times of a column. Raises CellError: a cell is none of this format."""
    array = plain(array)
    missing = np.asarray(pc.is_null(array, nan_is_null=True).to_numpy(zero_copy_only=False), bool)
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        kind = pa.timestamp("us", getattr(array.type, "tz", None))
        times = _int64(array.cast(kind, safe=False))
        return _checked(array, times, np.full(len(array), getattr(array.type, "tz", None) is not None), missing)
    if name in EPOCH_NS:
        return _checked(array, _epoch(array, EPOCH_NS[name], decimal), np.ones(len(array), bool), missing)
    if pa.types.is_integer(array.type):
        array = array.cast(pa.string())
    if not is_text(array):
        raise CellError(0, f"a column of {array.type} holds no times of format {name!r}", "", "say --time-format s")
    if name == "iso":
        for kind, zoned in ((pa.timestamp("us"), False), (pa.timestamp("us", "UTC"), True)):
            try:
                return _checked(array, _int64(array.cast(kind)), np.full(len(array), zoned), missing)
            except pa.ArrowInvalid:
                continue
    return _by_pattern(array, name, missing)


def to_utc(moments: Moments, zone: str, last: int | None) -> tuple[Times, int]:
    """UTC of local clocks, int64[n] µs, and how many rows of them a change to or from summer time left unclear.

    An hour that the clock shows twice is the first one, until time would go back by that; a time that the clock
    skips is the moment of the change.

    Args:
        moments: rows of one device in file order.
        zone: of the rows that say none themselves.
        last: UTC of the row before, if there is one.
    """
    if zone == "UTC" or moments.zoned.all():
        return moments.times, 0
    offset = _OFFSET.fullmatch(zone)
    if offset:
        minutes = int(offset[2]) * 60 + int(offset[3] or 0)
        shift = minutes * 60_000_000 * (1 if offset[1] == "+" else -1)
        return np.where(moments.zoned, moments.times, moments.times - shift), 0
    local = pa.array(moments.times, pa.timestamp("us"))
    early = _int64(pc.assume_timezone(local, zone, ambiguous="earliest", nonexistent="earliest"))
    late = _int64(pc.assume_timezone(local, zone, ambiguous="latest", nonexistent="latest"))
    utc = np.where(moments.zoned, moments.times, early)
    unclear = np.flatnonzero((early != late) & ~moments.zoned)
    for row in unclear.tolist():
        before = utc[row - 1] if row else last
        if before is not None and utc[row] < before <= late[row]:
            utc[row] = late[row]
    return utc, len(unclear)


def _int64(array: Any) -> Times:
    return np.asarray(array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False), np.int64)


def _epoch(array: Any, unit_ns: int, decimal: str) -> Times:
    """Microseconds of numbers in that unit. Whole numbers stay exact: nanoseconds do not fit into a float64."""
    if is_text(array):
        try:
            array = array.cast(pa.int64())
        except pa.ArrowInvalid:
            array = pa.array(doubles(array, decimal))
    if pa.types.is_integer(array.type):
        whole = _int64(array)
        if unit_ns < 1000:
            return whole // (1000 // unit_ns)
        factor = unit_ns // 1000
        over = np.abs(whole) > LAST_US // factor
        if over.any():
            row = int(np.argmax(over))
            raise CellError(row, "not a time", int(whole[row]), "name its unit with --time-format s, ms, us or ns")
        return whole * factor
    values = np.nan_to_num(doubles(array), nan=0.0, posinf=9e18, neginf=-9e18) * (unit_ns / 1000)
    return np.rint(np.clip(values, -9e18, 9e18)).astype(np.int64)


def _checked(array: Any, times: Times, zoned: Flags, missing: Flags) -> Moments:
    wrong = ((times < FIRST_US) | (times > LAST_US)) & ~missing
    if wrong.any():
        row = int(np.argmax(wrong))
        raise CellError(row, "not a time between the years 1 and 9999", str(array[row]), "see --time-format")
    return Moments(times, zoned, missing)


def _pattern(name: str) -> str:
    """Regular expression of a strptime pattern."""
    out, groups = ["^\\s*"], set()
    at = 0
    while at < len(name):
        if name[at] != "%":
            out.append("\\s+" if name[at] == " " else re.escape(name[at]))
            at += 1
            continue
        part = _DIRECTIVES.get(name[at + 1 : at + 2])
        group = re.search(r"\?P<(\w+)>", part or "")
        if part is None or (group and group[1] in groups):
            raise ConfigError(
                f"a time pattern cannot hold {name[at : at + 2]!r} here: {name!r}",
                fix=f"each at most once: {', '.join('%' + key for key in _DIRECTIVES)}",
            )
        groups |= {group[1]} if group else set()
        out.append(part)
        at += 2
    if not {"year", "day"} <= groups or not groups & {"month", "name"}:
        raise ConfigError(f"a time pattern without a date: {name!r}", fix="it needs %Y, %m (or %b) and %d")
    return "".join(out) + "\\s*$"


def _by_pattern(array: Any, name: str, missing: Flags) -> Moments:
    parts = pc.extract_regex(array, TEXT.get(name) or _pattern(name))
    fix = "name the format with --time-format" if name in TEXT else "the cell does not have this format"
    wrong = np.asarray(pc.is_null(parts).to_numpy(zero_copy_only=False), bool) & ~missing
    _refuse(array, wrong, f"not a time of format {name!r}", fix)
    names = {field.name for field in parts.type}

    def number(field: str, default: int = 0) -> npt.NDArray[np.int64]:
        if field not in names:
            return np.full(len(array), default, np.int64)
        text = pc.struct_field(parts, field)
        text = pc.if_else(pc.equal(text, ""), str(default), text).fill_null(str(default))
        return np.asarray(text.cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)

    year, day = number("year", 1970), number("day", 1)
    year = np.where(year < 70, year + 2000, np.where(year < 100, year + 1900, year))
    month = number("month", 1)
    if "name" in names:
        short = pc.utf8_lower(pc.struct_field(parts, "name"))
        found = pc.index_in(short, value_set=pa.array(_MONTHS)).fill_null(-1)
        month = np.where(missing, 1, np.asarray(found.to_numpy(zero_copy_only=False), np.int64) + 1)
    hour, minute, second = number("hour"), number("minute"), number("second")
    if "half" in names:
        half = pc.utf8_lower(pc.struct_field(parts, "half")).fill_null("").to_numpy(zero_copy_only=False)
        _refuse(array, (half != "") & ((hour < 1) | (hour > 12)), "not an hour of a.m. or p.m.", fix)
        hour = np.where(half == "", hour, hour % 12 + np.where(half == "p", 12, 0))
    fine = (month >= 1) & (month <= 12) & (hour < 24) & (minute < 60) & (second < 60)
    months = ((year - 1970) * 12 + np.clip(month, 1, 12) - 1).astype("datetime64[M]")
    first, after = (
        months.astype("datetime64[D]").astype(np.int64),
        (months + 1).astype("datetime64[D]").astype(np.int64),
    )
    _refuse(array, ~(fine & (day >= 1) & (day <= after - first)) & ~missing, "there is no such time", fix)
    micros = np.zeros(len(array), np.int64)
    if "fraction" in names:
        padded = pc.utf8_rpad(pc.struct_field(parts, "fraction").fill_null(""), width=9, padding="0")
        micros = np.asarray(padded.cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64) // 1000
    times = (((first + day - 1) * 24 + hour) * 60 + minute) * 60 + second
    times = times * 1_000_000 + micros
    zoned = np.zeros(len(array), bool)
    if "zone" in names:
        codes = pc.struct_field(parts, "zone").fill_null("").dictionary_encode()
        words = codes.dictionary.to_pylist()
        at = codes.indices.to_numpy(zero_copy_only=False)
        times = times - np.array([_offset_us(word) for word in words] or [0], np.int64)[at]
        zoned = np.array([bool(word) for word in words] or [False], bool)[at]
    return _checked(array, times, zoned, missing)


def _offset_us(word: str) -> int:
    match = _OFFSET.fullmatch(word)
    if match is None:
        return 0
    return (int(match[2]) * 60 + int(match[3] or 0)) * 60_000_000 * (1 if match[1] == "+" else -1)


def _refuse(array: Any, wrong: Flags, problem: str, fix: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        raise CellError(row, problem, array[row].as_py(), fix)
