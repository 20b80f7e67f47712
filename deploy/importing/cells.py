"""Cells of one column: Arrow arrays, of text or of numbers, to numpy arrays. Knows rows, but no file and no column."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

#: Cells that say that there is no value, besides those that the user names.
_WORDS = "NA N/A n/a NaN nan NAN -nan -NaN NULL Null null None none - -- ? #N/A #NA <NA>"
MISSING = frozenset({"", *_WORDS.split()})
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?|nan", re.IGNORECASE)
#: Labels, in lower case, that say that all is well; every other one says that it is not.
NORMAL_WORDS = frozenset({"0", "false", "no", "n", "normal", "ok", "healthy", "good", "benign", "none", "nominal"})

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Missing:
    """Cells that say that there is no value: words, and numbers that a logger writes for none, such as -200."""

    words: frozenset[str] = MISSING
    numbers: tuple[float, ...] = ()

    @classmethod
    def of(cls, more: Sequence[str]) -> Missing:
        """The usual words and those that the user names.

        >>> Missing.of(["-200"]).numbers
        (-200.0,)
        """
        numbers = tuple(float(word.replace(",", ".")) for word in more if NUMBER.fullmatch(word.replace(",", ".")))
        return cls(MISSING | frozenset(more), numbers)


class CellError(Exception):
    """One cell is not what its column should hold. `row` counts from 0 within the batch."""

    def __init__(self, row: int, problem: str, cell: object, fix: str) -> None:
        super().__init__(problem)
        self.row, self.problem, self.cell, self.fix = row, problem, cell, fix


NOTHING = Missing(frozenset())


def is_text(array: Any) -> bool:
    """Whether an Arrow array or type holds strings."""
    kind = getattr(array, "type", array)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def plain(array: Any) -> Any:
    """Dictionary arrays as what they stand for, binary as text, the rest as it is."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(pa.string()) if pa.types.is_binary(array.type) else array


def without_words(array: Any, missing: Missing) -> Any:
    """A text array with null where a cell is one of the words for a missing value."""
    array = plain(array)
    if not is_text(array):
        return array
    gone = pc.is_in(pc.utf8_trim_whitespace(array), value_set=pa.array(sorted(missing.words), array.type))
    return pc.if_else(gone, pa.scalar(None, array.type), array)


def doubles(array: Any, decimal: str = ".", missing: Missing = NOTHING) -> Doubles:
    """Numbers as float64[n], NaN where there is none. Raises CellError: a cell is no number."""
    array = plain(array)
    if is_text(array):
        array = _from_text(array, decimal, missing)
    elif pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    elif not (
        pa.types.is_integer(array.type)
        or pa.types.is_floating(array.type)
        or pa.types.is_decimal(array.type)
        or pa.types.is_null(array.type)
    ):
        raise CellError(0, f"a column of {array.type} holds no numbers", "", "leave it out with --exclude")
    if pa.types.is_integer(array.type) and array.null_count == 0:
        values = np.asarray(array.to_numpy(zero_copy_only=False), np.float64)
    else:
        values = np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    return np.where(np.isin(values, missing.numbers), np.nan, values) if missing.numbers else values


def number_share(array: Any, decimal: str = ".") -> float:
    """Share of the cells with a value that are numbers; 0 where no cell has one."""
    array = plain(array).drop_null()
    if not is_text(array):
        numeric = pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type)
        return float(len(array) > 0 and (numeric or pa.types.is_boolean(array.type)))
    if decimal != ".":
        array = pc.replace_substring(array, decimal, ".")
    pattern = rf"^\s*({NUMBER.pattern}|true|false)\s*$"
    return float(pc.mean(pc.match_substring_regex(array, pattern, ignore_case=True)).as_py() or 0.0)


def floats(array: Any, decimal: str = ".", missing: Missing = NOTHING) -> npt.NDArray[np.float32]:
    """Numbers as float32[n]. Raises CellError: a cell is no number, or too large for float32."""
    wide = doubles(array, decimal, missing)
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    lost = np.isinf(narrow) & np.isfinite(wide)
    if lost.any():
        row = int(np.argmax(lost))
        raise CellError(row, "a number is too large", float(wide[row]), "values are float32: scale the column first")
    return narrow


def _from_text(cells: Any, decimal: str, missing: Missing) -> Any:
    array = cells if decimal == "." else pc.replace_substring(cells, decimal, ".")
    try:
        return array.cast(pa.float64())
    except pa.ArrowInvalid:
        pass
    # what is written less plainly costs a second look
    array = without_words(pc.utf8_trim_whitespace(array), missing) if missing.words else array
    array = pc.replace_substring_regex(pc.utf8_lower(pc.utf8_trim_whitespace(array)), r"^\+([\d.i])", r"\1")
    array = pc.if_else(pc.equal(array, "true"), "1", pc.if_else(pc.equal(array, "false"), "0", array))
    try:
        return array.cast(pa.float64())
    except pa.ArrowInvalid:
        for row, cell in enumerate(array.to_pylist()):
            if cell is not None and not NUMBER.fullmatch(cell):
                raise CellError(
                    row,
                    "not a number",
                    cells[row].as_py(),
                    "leave the column out with --exclude, name the word with --missing if it stands for no value, "
                    "or say --decimal ',' if that is how fractions are written",
                ) from None
        raise


def flags(array: Any, normal: frozenset[str]) -> tuple[npt.NDArray[np.uint8], int]:
    """Labels as uint8[n], 1 = anomalous, and how many are missing; a missing one counts as normal.

    `normal`: words, in lower case, that mean that all is well; empty: the usual ones. A number is normal where it is 0.
    """
    array = plain(array)
    gone = int(array.null_count)
    if not is_text(array):
        values = doubles(array)
        gone = int(np.isnan(values).sum())
        good = np.isnan(values) | (values == 0)
        if normal:
            good = np.isnan(values) | np.isin(values, [float(word) for word in normal if NUMBER.fullmatch(word)])
        return np.asarray(~good, np.uint8), gone
    words = pc.utf8_lower(pc.utf8_trim_whitespace(array)).dictionary_encode()
    good_words = [
        word is None or word in (normal or NORMAL_WORDS) or (not normal and _is_zero(word))
        for word in words.dictionary.to_pylist()
    ]
    codes = words.indices.fill_null(len(good_words)).to_numpy(zero_copy_only=False)
    return np.asarray(~np.array([*good_words, True], bool)[codes], np.uint8), gone


def _is_zero(word: str) -> bool:
    return bool(NUMBER.fullmatch(word.replace(",", "."))) and float(word.replace(",", ".")) == 0.0
