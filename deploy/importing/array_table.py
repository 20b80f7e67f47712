"""NumPy's npy and npz. Read in pieces, also within a zip; nothing that would run code (pickled objects) is read."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numpy.lib import format as npy

from deploy.importing.tables import BATCH_CELLS, BATCH_ROWS, damaged, unique
from deploy.importing.wanted import Wanted
from schemas.errors import DecodeError

#: An array in column order can only be read as a whole.
MAX_WHOLE_BYTES = 1 << 30
MAX_COLUMNS = 4096

AnyArray = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Shape:
    shape: tuple[int, ...]
    by_column: bool
    dtype: np.dtype[Any]


def _shape(file: IO[bytes], path: Path) -> _Shape:
    """The header of one array. Raises ValueError: no npy. DecodeError: an array that is no table."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        shape, by_column, dtype = read(file)
    except Exception as cause:  # NumPy evaluates the header as Python text, and fails as that does
        raise ValueError(f"the header of the array is damaged: {cause}") from cause
    if dtype.hasobject or not 1 <= len(shape) <= 2:
        raise DecodeError(
            "an array that is no table of numbers",
            file=str(path),
            shape=list(shape),
            dtype=str(dtype),
            fix="save rows x columns with numbers; objects are not read",
        )
    return _Shape(shape, by_column and len(shape) == 2, dtype)


class ArrayTable:
    """See Table. Of an npz, the arrays are columns; one with two dimensions gives a column for each of its own."""

    decimal = "."

    def __init__(self, path: Path, wanted: Wanted) -> None:
        """Raises ValueError, OSError: it is neither. DecodeError: its arrays make no table."""
        self.path = path
        self.units: dict[str, str] = {}
        self._parts: list[tuple[str | None, _Shape, list[str]]] = []  # member, shape, columns
        try:
            if path.suffix.lower() == ".npz":
                with zipfile.ZipFile(path) as archive:
                    for member in archive.namelist():
                        with archive.open(member) as file:
                            self._add(member, _shape(file, path))
            else:
                with path.open("rb") as file:
                    self._add(None, _shape(file, path))
        except zipfile.BadZipFile as cause:
            raise damaged(path, cause) from None
        heights = {shape.shape[0] for _, shape, _ in self._parts}
        if len(heights) != 1:
            raise DecodeError(
                "the arrays differ in length",
                file=str(path),
                arrays={member: list(shape.shape) for member, shape, _ in self._parts},
                fix="save arrays of one value per row",
            )
        (self._rows,) = heights
        names = unique([name for _, _, columns in self._parts for name in columns])
        if len(names) > MAX_COLUMNS:
            raise DecodeError("the file has too many columns", file=str(path), columns=len(names), most=MAX_COLUMNS)
        self.columns: Sequence[str] = names
        self.about: dict[str, object] = {"format": path.suffix.lower()[1:], "stated_rows": self._rows}

    def _add(self, member: str | None, shape: _Shape) -> None:
        stem = (member or "").removesuffix(".npy")
        if shape.dtype.names:
            columns = list(shape.dtype.names)
        elif len(shape.shape) == 1:
            columns = [stem or "c00"]
        else:
            lead = "c" if stem.lower() in ("", "values", "data", "x", "arr_0") else f"{stem}_"
            if shape.shape[1] > MAX_COLUMNS:
                raise DecodeError(
                    "the file has too many columns", file=str(self.path), columns=shape.shape[1], most=MAX_COLUMNS
                )
            columns = [f"{lead}{at:02d}" for at in range(shape.shape[1])]
        self._parts.append((member, shape, columns))

    def sample(self) -> Any:
        """See Table."""
        for batch, _ in self.batches(self.columns):
            return batch
        return pa.RecordBatch.from_pydict({name: pa.array([], pa.null()) for name in self.columns})

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[Any, float]]:
        """See Table."""
        wide = max(len(self.columns), 1)
        step, done = max(1, min(BATCH_ROWS, BATCH_CELLS // wide)), 0
        with ExitStack() as stack:
            try:
                readers = [self._reader(stack, member) for member, _, _ in self._parts]
                while done < self._rows:
                    count = min(step, self._rows - done)
                    arrays = [array for reader in readers for array in _columns(reader(count))]
                    named = dict(zip(self.columns, arrays, strict=True))
                    batch = pa.RecordBatch.from_pydict({name: _arrow(named[name]) for name in columns})
                    done += count
                    yield batch, done / self._rows
            except (ValueError, OSError, EOFError, zipfile.BadZipFile, pa.ArrowException) as cause:
                raise damaged(self.path, cause, after_row=done) from cause

    def _reader(self, stack: ExitStack, member: str | None) -> Callable[[int], AnyArray]:
        file: IO[bytes]
        if member is None:
            file = stack.enter_context(self.path.open("rb"))
        else:
            file = stack.enter_context(stack.enter_context(zipfile.ZipFile(self.path)).open(member))
        shape = _shape(file, self.path)
        item = shape.dtype.itemsize
        if shape.by_column:
            return _Whole(self._whole(file, shape))
        wide = prod(shape.shape[1:])

        def take(count: int) -> AnyArray:
            data = _exactly(file, count * wide * item)
            return np.frombuffer(data, shape.dtype).reshape(count, *shape.shape[1:])

        return take

    def _whole(self, file: IO[bytes], shape: _Shape) -> AnyArray:
        size = prod(shape.shape) * shape.dtype.itemsize
        if size > MAX_WHOLE_BYTES:
            raise DecodeError(
                "an array in column order that is too large to read at once",
                file=str(self.path),
                bytes=size,
                most=MAX_WHOLE_BYTES,
                fix="save np.ascontiguousarray of it",
            )
        return np.frombuffer(_exactly(file, size), shape.dtype).reshape(shape.shape, order="F")


class _Whole:
    """Rows of an array that is held, one piece after the other."""

    def __init__(self, array: AnyArray) -> None:
        self._array, self._at = array, 0

    def __call__(self, count: int) -> AnyArray:
        self._at += count
        return self._array[self._at - count : self._at]


def _exactly(file: IO[bytes], size: int) -> bytearray:
    """So many bytes, read in pieces: what a header claims is not allocated before it is there."""
    data = bytearray()
    while len(data) < size:
        piece = file.read(min(size - len(data), 1 << 20))
        if not piece:
            raise EOFError(f"it ends {size - len(data)} bytes too early")
        data += piece
    return data


def _columns(array: AnyArray) -> list[AnyArray]:
    if array.dtype.names:
        return [array[name] for name in array.dtype.names]
    return [array] if array.ndim == 1 else list(array.T)


def _arrow(array: AnyArray) -> Any:
    array = np.ascontiguousarray(array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind == "S":
        array = array.astype(np.str_)
    if array.dtype.kind == "M" and np.datetime_data(array.dtype)[0] not in ("s", "ms", "us", "ns", "D"):
        array = array.astype("datetime64[s]")
    return pa.array(array)
