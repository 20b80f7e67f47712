"""Tables to read, whatever their format: columns by name, and batches of Arrow arrays with bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from deploy.importing.wanted import Wanted
from schemas.errors import ConfigError, DecodeError

BATCH_ROWS = 65_536
#: Cells that are held at once, about: 32 MiB as numbers.
BATCH_CELLS = 4 << 20

CSV_ENDINGS = (".csv", ".tsv", ".txt", ".dat")


class Table(Protocol):
    """One file. `about` describes it for the report."""

    path: Path
    about: dict[str, object]
    units: dict[str, str]  # column to unit, where the file says so apart from the names

    @property
    def columns(self) -> Sequence[str]:
        """Unique names, in the order of the file."""
        ...

    @property
    def decimal(self) -> str:
        """Mark before the fraction of a number, where numbers are text."""
        ...

    def sample(self) -> Any:
        """The first rows of all columns, a RecordBatch; without rows where the file has none."""
        ...

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[Any, float]]:
        """RecordBatches of these columns in file order, each with which share of the file is read.

        Raises DecodeError: the file is damaged or its rows differ in length.
        """
        ...


def open_table(path: Path, wanted: Wanted) -> Table:
    """Find the format of a file and its columns.

    Raises:
        ConfigError: there is no such file, or its format is not known.
        DecodeError: it is empty or damaged.
    """
    if not path.is_file():
        raise ConfigError("there is no such file", file=str(path), fix="name files, not folders")
    ends = [ending.lower() for ending in path.suffixes]
    while len(ends) > 1 and ends[-1] in (".gz", ".bz2", ".zst", ".lz4"):
        ends.pop()
    ending = ends[-1] if ends else ""
    openers: dict[str, Callable[[Path, Wanted], Table]] = {}
    if ending in (".parquet", ".pq"):
        from deploy.importing.parquet_table import ParquetTable

        openers[ending] = ParquetTable
    elif ending in (".npy", ".npz"):
        from deploy.importing.array_table import ArrayTable

        openers[ending] = ArrayTable
    elif ending in CSV_ENDINGS:
        from deploy.importing.csv_table import CsvTable

        openers[ending] = CsvTable
    else:
        raise ConfigError(
            f"files ending in {ending!r} are not read",
            file=str(path),
            fix=f"known are {', '.join([*CSV_ENDINGS, '.parquet', '.npy', '.npz'])}; text may be compressed (.gz)",
        )
    try:
        return openers[ending](path, wanted)
    except (pa.ArrowException, OSError, ValueError, EOFError) as cause:
        raise damaged(path, cause) from cause


def damaged(path: Path, cause: BaseException, **where: object) -> DecodeError:
    """What a library says about a broken file, as a sentence of ours."""
    text = " ".join(str(cause).split())[:300]
    return DecodeError(
        f"the file cannot be read: {text}",
        fix="make it again, or copy it again if it was cut off",
        file=str(path),
        **where,
    )


def unique(names: Sequence[str]) -> list[str]:
    """Names without repetition: the second `a` becomes `a.2`, one without a name `column3`.

    >>> unique(["a", "", "a"])
    ['a', 'column2', 'a.2']
    """
    out: list[str] = []
    taken = set(names)
    for at, name in enumerate(names, 1):
        name = name or f"column{at}"
        made, number = name, 1
        while made in out or (number > 1 and made in taken):
            number += 1
            made = f"{name}.{number}"
        out.append(made)
    return out
