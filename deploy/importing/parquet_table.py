"""Parquet, read by row groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deploy.importing.tables import BATCH_CELLS, BATCH_ROWS, damaged, unique
from deploy.importing.wanted import Wanted
from schemas.errors import DecodeError


class ParquetTable:
    """See Table. Columns within columns are not read."""

    decimal = "."

    def __init__(self, path: Path, wanted: Wanted) -> None:
        """Raises ArrowException: it is no Parquet file. DecodeError: no column can be read."""
        self.path = path
        self.units: dict[str, str] = {}
        with pq.ParquetFile(path) as file:
            schema, self._rows = file.schema_arrow, file.metadata.num_rows
        flat = [field.name for field in schema if not pa.types.is_nested(field.type)]
        self.columns: Sequence[str] = flat
        if not flat or unique(flat) != flat:
            raise DecodeError("the columns cannot be told apart by name", file=str(path), columns=flat[:20])
        self.about: dict[str, object] = {"format": "parquet", "stated_rows": self._rows}

    def sample(self) -> Any:
        """See Table."""
        for batch, _ in self.batches(self.columns):
            return batch
        return pa.RecordBatch.from_pydict({name: pa.array([], pa.null()) for name in self.columns})

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[Any, float]]:
        """See Table."""
        rows = max(1, min(BATCH_ROWS, BATCH_CELLS // max(len(columns), 1)))
        done = 0
        try:
            with pq.ParquetFile(self.path, pre_buffer=False) as file:
                for batch in file.iter_batches(batch_size=rows, columns=list(columns), use_threads=False):
                    if not len(batch):
                        continue
                    done += len(batch)
                    yield batch, min(done / max(self._rows, 1), 1.0)
        except (pa.ArrowException, OSError) as cause:
            raise damaged(self.path, cause, after_row=done) from cause
