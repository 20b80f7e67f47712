"""What the columns of a table mean: which is the time, which the label, which the inputs. From its first rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deploy.importing import times
from deploy.importing.cells import CellError, Missing, doubles, is_text, number_share, plain, without_words
from deploy.importing.wanted import Wanted
from schemas.errors import ConfigError

#: Of its cells, for a column to be an input: a few words in it are mistakes, not a reason to leave it out in silence.
NUMBERS = 0.5
#: A model package cannot have more.
MAX_CHANNELS = 1024

_TIME_WORDS = """
    time timestamp datetime date ts t epoch unixtime unix_time epoch_time time_stamp event_time eventtime utc utc_time
    local_time date_time datetime_utc timestamps times _time @timestamp zeit datum zeitstempel seconds elapsed
"""
_LABEL_WORDS = """
    label labels is_anomaly anomaly anomalous anomalies is_outlier outlier changepoint change_point is_attack attack
    ground_truth is_fault
"""
_INDEX_NAMES = re.compile(r"column1|index|idx|row|row_?(id|number|nr)|unnamed: 0|__index_level_0__", re.IGNORECASE)
_BRACKETS = re.compile(r"(.*\S)\s*(?:\[([^\[\]]{1,40})\]|\(([^()]{1,40})\))\s*")
#: In round brackets a name may also have something else: CO(GT) has no unit of that name.
_UNIT_WORDS = """
    °c degc c celsius °f degf f fahrenheit k kelvin bar mbar pa hpa kpa mpa psi v mv kv volt a ma ampere w kw mw va kva
    kwh wh hz khz mhz rpm 1/min m mm cm km um µm m/s mm/s km/h m/s2 m/s^2 m/s² g n nm kn l l/min l/h m3/h m³/h kg kg/h %
    percent ppm ppb s ms us min h lux lx db dba ph mg/m3 mg/m^3 µg/m3 microg/m^3 ug/m3 w/m2 w/m²
"""
_TIME_NAMES = frozenset(_TIME_WORDS.split())
_LABEL_NAMES = frozenset(_LABEL_WORDS.split())
_UNITS = frozenset(_UNIT_WORDS.split())
_TIME_UNITS = {
    "s": "s",
    "sec": "s",
    "seconds": "s",
    "ms": "ms",
    "msec": "ms",
    "us": "us",
    "µs": "us",
    "usec": "us",
    "ns": "ns",
}


@dataclass(frozen=True, slots=True)
class Channel:
    """An input. `column` is its name in the file, `name` without the unit that stood in it."""

    name: str
    column: str
    unit: str | None


@dataclass(frozen=True, slots=True)
class TimeColumn:
    """Where the times are; several columns are joined by a blank."""

    columns: tuple[str, ...]
    format: str


@dataclass(frozen=True, slots=True)
class Layout:
    """What the columns of one file mean. `time` None: times are made from the rate."""

    time: TimeColumn | None
    channels: tuple[Channel, ...]
    label: str | None
    device_column: str | None
    left_out: tuple[tuple[str, str], ...]  # column and why

    @property
    def columns(self) -> list[str]:
        """What has to be read, each once."""
        time = self.time.columns if self.time else ()
        others = [name for name in (self.label, self.device_column) if name]
        return list(dict.fromkeys([*time, *others, *(channel.column for channel in self.channels)]))


def split_unit(name: str) -> tuple[str, str | None]:
    """A name and the unit in it.

    >>> split_unit("temp [°C]"), split_unit("flow (l/min)"), split_unit("CO(GT)")
    (('temp', '°C'), ('flow', 'l/min'), ('CO(GT)', None))
    """
    match = _BRACKETS.fullmatch(name)
    if match is None:
        return name, None
    unit = (match[2] or match[3]).strip()
    return (match[1], unit) if match[2] or unit.lower() in _UNITS else (name, None)


def joined(batch: Any, columns: Sequence[str], missing: Missing) -> Any:
    """The time column of a batch, or several of them joined by a blank; missing where any of them is."""
    parts = [without_words(batch.column(name), missing) for name in columns]
    if len(parts) == 1:
        return parts[0]
    return pc.binary_join_element_wise(*(part.cast(pa.string()) for part in parts), " ")


class _Finder:
    """One table's sample and what the user wants."""

    def __init__(
        self, sample: Any, columns: Sequence[str], decimal: str, wanted: Wanted, units: Mapping[str, str]
    ) -> None:
        self.sample, self.columns, self.decimal, self.wanted = sample, list(columns), decimal, wanted
        self.missing = Missing.of(wanted.missing)
        self.units = units
        self.left_out: dict[str, str] = {}

    def layout(self) -> Layout:
        wanted = self.wanted
        device = self._named(wanted.device_column, "--device-column") if wanted.device_column else None
        label = self._label(device)
        taken = {name for name in (device, label) if name}
        time = None if wanted.step_us is not None else self._time(taken)
        taken |= set(time.columns) if time else set()
        return Layout(time, self._channels(taken), label, device, tuple(self.left_out.items()))

    def _named(self, name: str, option: str) -> str:
        if name in self.columns:
            return name
        for match in (
            [c for c in self.columns if split_unit(c)[0] == name],
            [c for c in self.columns if c.lower() == name.lower()],
        ):
            if len(match) == 1:
                return match[0]
        raise ConfigError(
            f"there is no column {name!r}", option=option, fix=f"columns are {', '.join(self.columns[:40])}"
        )

    def _label(self, device: str | None) -> str | None:
        if self.wanted.no_label:
            return None
        named = self._named(self.wanted.label, "--label") if self.wanted.label else None
        asked = {self._named(name, "--channels") for name in self.wanted.channels if name in self.columns}
        found = [
            name
            for name in self.columns
            if name.lower() in _LABEL_NAMES and name != device and name not in asked and self._is_flag(name)
        ]
        label = named or (found[0] if found else None)
        for name in found:
            if name != label:
                self.left_out[name] = "looks like a second label; take it with --label or --channels"
        return label

    def _is_flag(self, name: str) -> bool:
        values = self._numbers(name)
        return values is not None and bool(np.isin(values, (0, 1)).all())

    def _numbers(self, name: str) -> Any:
        """The numbers of a column, or None where it holds others, or none at all."""
        try:
            values = doubles(self.sample.column(name), self.decimal, self.missing)
        except CellError:
            return None
        values = values[~np.isnan(values)]
        return values if len(values) else None

    def _time(self, taken: set[str]) -> TimeColumn | None:
        wanted = self.wanted
        if wanted.time:
            columns = tuple(self._named(name, "--time") for name in wanted.time)
            return TimeColumn(columns, wanted.time_format or self._format(columns))
        free = [name for name in self.columns if name not in taken]
        free.sort(key=lambda name: split_unit(name)[0].lower() not in _TIME_NAMES)  # stable: the file's order else
        if wanted.time_format:
            return TimeColumn((self._fitting(free, wanted.time_format),), wanted.time_format)
        for name in free:
            found = self._try_time(name)
            if found:
                return TimeColumn(self._with_clock(name, found, free) or (name,), found)
        raise ConfigError(
            "no column holds times",
            columns=self.columns[:12],
            fix="name one with --time COLUMN (and --time-format), or say how many readings a second with --rate",
        )

    def _fitting(self, free: Sequence[str], form: str) -> str:
        """The first column whose times are of that format. Raises ConfigError: there is none."""
        for name in free:
            column = without_words(self.sample.column(name), self.missing).drop_null().slice(0, 50)
            called = split_unit(name)[0].lower() in _TIME_NAMES
            if len(column) and (called or form not in times.EPOCH_NS) and times.fits(column, form):
                return name
        raise ConfigError(
            f"no column holds times of format {form!r}", columns=self.columns[:12], fix="name the column with --time"
        )

    def _with_clock(self, name: str, found: str, free: Sequence[str]) -> tuple[str, ...] | None:
        """Date and time of day in two columns."""
        if found not in times.TEXT or any(":" in str(cell) for cell in self._cells(name)[:5]):
            return None
        for other in free:
            if other == name or split_unit(other)[0].lower() not in _TIME_NAMES | {"hour", "clock", "uhrzeit"}:
                continue
            both = joined(self.sample, (name, other), self.missing)
            if is_text(both) and times.fits(both, found):
                return name, other
        return None

    def _cells(self, name: str) -> list[Any]:
        return list(plain(self.sample.column(name)).drop_null().slice(0, 50).to_pylist())

    def _format(self, columns: tuple[str, ...]) -> str:
        """Format of a named time column. Raises ConfigError: it is none that is known."""
        if len(columns) == 1 and (found := self._try_time(columns[0], named=True)):
            return found
        array = joined(self.sample, columns, self.missing)
        found = times.find_format(array, called=True) if is_text(array) else None
        if found:
            return found
        raise ConfigError(
            f"the times in {' '.join(columns)!r} are of no format that is known",
            first=str(array[0]) if len(array) else "",
            fix="describe it, as in --time-format '%d.%m.%Y %H:%M:%S', or as s, ms, us, ns since 1970",
        )

    def _try_time(self, name: str, named: bool = False) -> str | None:
        """Format of a column that holds times; None: it does not."""
        column = without_words(self.sample.column(name), self.missing)
        if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
            return "iso"
        clean, unit = split_unit(name)
        called = clean.lower() in _TIME_NAMES or clean.lower().startswith(("timestamp", "time_", "datetime"))
        compact = times.find_compact(column) if called or named else None
        if compact:
            return compact
        values = self._numbers(name)
        if values is not None:
            if not np.isfinite(values).all():
                return None
            rising = len(values) > 1 and bool((np.diff(values) >= 0).mean() >= 0.99) and values[-1] > values[0]
            if not (named or rising or (called and len(values) == 1)):
                return None if not called or times.epoch_unit(values) is None else times.epoch_unit(values)
            stated = _TIME_UNITS.get((unit or clean.rpartition("_")[2]).lower())
            by_size = times.epoch_unit(values)
            if called or named:
                elapsed = named or not clean.lower().startswith(("date", "datum"))
                return stated or by_size or ("s" if elapsed else None)
            return by_size
        return times.find_format(column, called or named) if is_text(column) else None

    def _channels(self, taken: set[str]) -> tuple[Channel, ...]:
        wanted = self.wanted
        chosen: list[str] = []
        for pattern in wanted.channels:
            match = [name for name in self.columns if _matches(name, pattern)]
            if not match:
                self._named(pattern, "--channels")
            chosen += [name for name in match if name not in chosen]
        clash = taken & set(chosen)
        if clash:
            raise ConfigError(
                "a column cannot be an input and something else",
                columns=sorted(clash),
                fix="take it out of --channels, or name another with --time, --label or --device-column",
            )
        for pattern in wanted.exclude:
            if not any(_matches(name, pattern) for name in self.columns):
                self._named(pattern, "--exclude")
        units = {self._unit_column(key): unit for key, unit in wanted.units.items()}
        found: list[Channel] = []
        for name in chosen or [name for name in self.columns if name not in taken]:
            if any(_matches(name, pattern) for pattern in wanted.exclude):
                self.left_out[name] = "--exclude"
            elif name not in self.left_out and (chosen or self._is_input(name)):
                clean, unit = split_unit(name)
                found.append(Channel(" ".join(clean.split()), name, units.get(name, unit or self.units.get(name))))
        names = [channel.name for channel in found]
        if len(set(names)) < len(names):  # a [V] and a [A]: they are told apart by their units
            found = [Channel(" ".join(c.column.split()), c.column, c.unit) for c in found]
        if not found:
            raise ConfigError(
                "no column is left as an input",
                left_out=dict(self.left_out),
                fix="an import needs at least one column of numbers; name them with --channels",
            )
        if len(found) > MAX_CHANNELS:
            raise ConfigError(
                "too many inputs", columns=len(found), most=MAX_CHANNELS, fix="choose with --channels or --exclude"
            )
        return tuple(found)

    def _unit_column(self, name: str) -> str:
        return self._named(name, "--unit")

    def _is_input(self, name: str) -> bool:
        column = without_words(self.sample.column(name), self.missing)
        if column.null_count == len(column):
            if re.fullmatch(r"column\d+", name):
                self.left_out[name] = "has no name and no values"
                return False
            return True
        if number_share(column, self.decimal) < NUMBERS:
            self.left_out[name] = "holds no numbers"
            return False
        values = self._numbers(name)
        if values is None:  # most cells are: the others are mistakes, named where they come up
            return True
        if (
            _INDEX_NAMES.fullmatch(name)
            and len(values) > 1
            and np.isfinite(values).all()
            and bool((np.diff(values) == 1).all())
        ):
            self.left_out[name] = "counts the rows"
            return False
        return True


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern) or fnmatchcase(split_unit(name)[0], pattern)


def find_layout(
    sample: Any, columns: Sequence[str], decimal: str, wanted: Wanted, units: Mapping[str, str] | None = None
) -> Layout:
    """What the columns mean.

    Args:
        sample: first rows, a RecordBatch of all columns.
        columns: their names.
        decimal: mark before the fraction of a number.
        wanted: what the user said.
        units: of columns, where they stand apart from the names.

    Raises:
        ConfigError: a named column is missing, no times are found or two readings of them are possible, no inputs.
    """
    return _Finder(sample, columns, decimal, wanted, units or {}).layout()


def differences(first: Layout, then: Layout) -> Mapping[str, object]:
    """What keeps two files from being one recording; empty where nothing does. The order of columns may differ."""
    found: dict[str, object] = {}
    ours, theirs = ({channel.name for channel in layout.channels} for layout in (first, then))
    if ours != theirs:
        found |= {"missing": sorted(ours - theirs)[:20], "more": sorted(theirs - ours)[:20]}
    if (first.label is None) != (then.label is None):
        found["label"] = [first.label, then.label]
    return found
