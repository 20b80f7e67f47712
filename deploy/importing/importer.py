"""The import itself: files in, one recording and a report out, a batch of rows at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from deploy.importing import times as moments
from deploy.importing.cells import CellError, Missing, flags, floats, plain
from deploy.importing.gathering import MAX_DEVICES, Gatherer, Rows
from deploy.importing.layout import Layout, differences, find_layout, joined
from deploy.importing.recording import RecordingWriter, device_id_of
from deploy.importing.survey import ChannelSurvey, DeviceSurvey
from deploy.importing.tables import Table, damaged, open_table
from deploy.importing.wanted import Wanted
from schemas.errors import ConfigError, DecodeError


class Progress(Protocol):
    """Told now and then how far it is."""

    def __call__(self, share: float, rows: int) -> None:
        """`share` of all bytes that are read, and rows so far."""
        ...


@dataclass(slots=True)
class Report:
    """What was understood and counted. `recording` None: a dry run."""

    files: list[dict[str, object]] = field(default_factory=list)
    layout: Layout | None = None
    channels: ChannelSurvey | None = None
    devices: dict[str, DeviceSurvey] = field(default_factory=dict)
    rows: int = 0
    dropped: int = 0
    labels_missing: int = 0
    cohort: str = ""
    timezone: str = "UTC"
    recording: dict[str, object] | None = None

    def as_json(self) -> dict[str, object]:
        """Everything, with times in µs since 1970-01-01 UTC."""
        layout, counted = self.layout, self.channels
        assert layout is not None
        assert counted is not None
        return {
            "files": self.files,
            "rows": self.rows,
            "rows_without_time_dropped": self.dropped,
            "time": None
            if layout.time is None
            else {"columns": list(layout.time.columns), "format": layout.time.format, "timezone": self.timezone},
            "label": layout.label,
            "labels_missing": self.labels_missing,
            "device_column": layout.device_column,
            "cohort": self.cohort,
            "channels": [
                {
                    "name": channel.name,
                    "column": channel.column,
                    "unit": channel.unit,
                    "missing": int(counted.missing[at]),
                    "infinite": int(counted.infinite[at]),
                    "min": float(counted.low[at]) if np.isfinite(counted.low[at]) else None,
                    "max": float(counted.high[at]) if np.isfinite(counted.high[at]) else None,
                }
                for at, channel in enumerate(layout.channels)
            ],
            "left_out": [{"column": column, "why": why} for column, why in layout.left_out],
            "devices": [survey.as_json(name) for name, survey in self.devices.items()],
            "recording": self.recording,
        }


def import_files(
    paths: Sequence[Path],
    out: Path | None,
    wanted: Wanted,
    progress: Progress = lambda share, rows: None,
    *,
    force: bool = False,
) -> Report:
    """Make a recording of files, appended in their order. All rows are read either way.

    Args:
        paths: CSV, Parquet, npy or npz files.
        out: the recording; None: a dry run that writes nothing.
        wanted: what the user said; the rest is found.
        progress: is told how far it is, once a batch.
        force: replace a recording that is there already.

    Returns:
        What was understood.

    Raises:
        ConfigError: a file or column is missing, the recording is there already, or something cannot be found without
            being told.
        DecodeError: a file is damaged or a cell is wrong. Names file, row and column; nothing is written then.
    """
    _check_place(paths, out, force)
    return _Import(paths, out, wanted, progress).run()


class _Import:
    def __init__(self, paths: Sequence[Path], out: Path | None, wanted: Wanted, progress: Progress) -> None:
        self.paths, self.out, self.wanted, self.progress = paths, out, wanted, progress
        moments.check_zone(wanted.timezone)
        if wanted.time_format:
            moments.check_format(wanted.time_format)
        self.ids = self._file_devices()
        self.report = Report(cohort=wanted.cohort or self._cohort(), timezone=wanted.timezone)
        self.missing = Missing.of(wanted.missing)
        self.cells: dict[str, str] = {}  # device column's cell to device id
        self.gatherer: Gatherer | None = None

    def run(self) -> Report:
        sizes = [max(path.stat().st_size, 1) if path.is_file() else 1 for path in self.paths]
        with ExitStack() as stack:
            for at, path in enumerate(self.paths):
                table = open_table(path, self.wanted)
                layout = self._understand(table)
                if self.gatherer is None:
                    self.gatherer = self._gatherer(layout)
                    if self.out is not None:
                        self.gatherer.writer = stack.enter_context(self._writer(layout, self.out, self.ids[0]))
                        self.gatherer.writer.open()
                self._read(table, layout, self.ids[at], partial(self._tell, sizes, at))
            if not self.report.rows:
                raise DecodeError("there are no rows", files=[str(path) for path in self.paths])
            if self.gatherer is not None and self.gatherer.writer is not None:
                self._finish(self.gatherer.writer)
        return self.report

    def _file_devices(self) -> list[str]:
        """Device of each file: as named, or else the file's own name. Not used where a column names it."""
        if self.wanted.device:
            return [device_id_of(self.wanted.device)] * len(self.paths)
        if self.wanted.device_column:
            return [""] * len(self.paths)
        ids = [device_id_of(path.name.split(".")[0] or path.name) for path in self.paths]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ConfigError(
                "two files would be the same device",
                devices=twice,
                fix="append them on purpose with --device NAME, or rename one",
            )
        return ids

    def _cohort(self) -> str:
        """The device, where there is one; else what stands before all of their names, or the name of the recording."""
        one = self.ids[0] if len(set(self.ids)) == 1 else ""
        return one or (device_id_of(self.out.stem) if self.out else "import")

    def _understand(self, table: Table) -> Layout:
        sample = table.sample()
        if not len(sample):
            raise DecodeError("the file has no rows", file=str(table.path), fix="leave it out")
        try:
            layout = find_layout(sample, table.columns, table.decimal, self.wanted, table.units)
        except pa.ArrowException as cause:
            raise damaged(table.path, cause) from cause
        except ConfigError as wrong:
            raise ConfigError(wrong.problem, fix=wrong.fix, file=str(table.path), **wrong.where) from None
        first = self.report.layout
        if first is None:
            self.report.layout = layout
            return layout
        if unlike := differences(first, layout):
            raise ConfigError(
                "the files have different columns",
                first=str(self.paths[0]),
                file=str(table.path),
                fix="choose those that all have with --channels, or import them into two recordings",
                **unlike,
            )
        by_name = {channel.name: channel for channel in layout.channels}
        ordered = tuple(by_name[channel.name] for channel in first.channels)
        return Layout(layout.time, ordered, layout.label, layout.device_column, layout.left_out)

    def _gatherer(self, layout: Layout) -> Gatherer:
        self.report.channels = ChannelSurvey(len(layout.channels))
        return Gatherer(self.wanted, self.report.devices, self.report.channels)

    def _writer(self, layout: Layout, out: Path, device_id: str) -> RecordingWriter:
        units = {channel.name: channel.unit for channel in layout.channels if channel.unit}
        about = {"origin": ", ".join(path.name for path in self.paths)[:4000]}
        if units:
            about["units"] = json.dumps(units, ensure_ascii=False, sort_keys=True)
        if len(self.paths) == 1 or self.wanted.device:
            about |= {"device_id": device_id} if not layout.device_column else {}
        return RecordingWriter(out, [channel.name for channel in layout.channels], self.report.cohort, about)

    def _finish(self, writer: RecordingWriter) -> None:
        devices = self.report.devices.values()
        size = writer.finish(
            {
                "devices": len(devices),
                "readings": self.report.rows,
                "labelled": sum(survey.labelled for survey in devices),
                "first_time": min(survey.oldest for survey in devices),
                "last_time": max(survey.newest for survey in devices),
            }
        )
        self.report.recording = {"path": str(writer.path), "bytes": size}

    def _tell(self, sizes: Sequence[int], at: int, share: float) -> None:
        self.progress((sum(sizes[:at]) + share * sizes[at]) / sum(sizes), self.report.rows)

    def _read(self, table: Table, layout: Layout, device_id: str, tell: Callable[[float], None]) -> None:
        row, dropped, file = 0, self.report.dropped, str(table.path)
        gatherer = self.gatherer
        assert gatherer is not None
        for batch, share in table.batches(layout.columns):
            rows, devices = self._rows(batch, row, table, layout, device_id)
            row += len(batch)
            if len(devices) == 1:
                gatherer.add(devices[0][0], rows, file)
            else:
                low = 0
                for name, count in devices:
                    gatherer.hold(name, rows.copy(low, low + count), file)
                    low += count
            self.report.rows += len(rows)
            tell(share)
        gatherer.flush(file)
        self.report.files.append({"file": file, "rows": row, "dropped": self.report.dropped - dropped, **table.about})

    def _rows(
        self, batch: Any, row: int, table: Table, layout: Layout, device_id: str
    ) -> tuple[Rows, list[tuple[str, int]]]:
        """Rows of a batch, those of one device next to each other, and how many each device has.

        `row` of the file is the batch's first, from 0.
        """
        column = ""
        try:
            stamps = None
            if layout.time is not None:
                column = " ".join(layout.time.columns)
                array = joined(batch, layout.time.columns, self.missing)
                stamps = moments.parse(array, layout.time.format, table.decimal)
                if stamps.missing.any() and not self.wanted.drop_untimed:
                    raise CellError(
                        int(np.argmax(stamps.missing)),
                        "a row has no time",
                        None,
                        "correct it, or leave such rows out with --drop-untimed",
                    )
            values = np.empty((len(batch), len(layout.channels)), np.float32)
            for at, channel in enumerate(layout.channels):
                column = channel.column
                values[:, at] = floats(batch.column(column), table.decimal, self.missing)
            labels = None
            if layout.label:
                column = layout.label
                labels, gone = flags(batch.column(column), self.wanted.normal)
                self.report.labels_missing += gone
            column = layout.device_column or ""
            rows = Rows(stamps, values, labels, np.arange(row + 1, row + len(batch) + 1))
            kept = np.arange(len(batch)) if stamps is None else np.flatnonzero(~stamps.missing)
            self.report.dropped += len(batch) - len(kept)
            if layout.device_column is None:
                return (rows if len(kept) == len(batch) else rows.take(kept)), [(device_id, len(kept))]
            at_device, names = self._devices(batch.column(layout.device_column), device_id)
        except pa.ArrowException as cause:
            raise damaged(table.path, cause, after_row=row, column=column) from cause
        except CellError as wrong:
            raise DecodeError(
                wrong.problem,
                fix=wrong.fix,
                file=str(table.path),
                row=row + wrong.row + 1,
                column=column,
                cell=None if wrong.cell is None else str(wrong.cell)[:60],
            ) from None
        order = kept[np.argsort(at_device[kept], kind="stable")]
        counts = np.bincount(at_device[kept], minlength=len(names))
        return rows.take(order), list(zip(names, counts.tolist(), strict=True))

    def _devices(self, cells: Any, prefix: str) -> tuple[npt.NDArray[np.int64], list[str]]:
        """Which device each row is of, int64[n], and the ids of the devices in the order in which they appear."""
        array = plain(cells)
        gone = np.asarray(pc.is_null(array, nan_is_null=True).to_numpy(zero_copy_only=False), bool)
        if gone.any():
            raise CellError(int(np.argmax(gone)), "a row has no device", None, "correct it, or use another column")
        codes = array.cast(pa.string()).dictionary_encode()
        ids = [self._device(cell, prefix) for cell in codes.dictionary.to_pylist()]
        names = list(dict.fromkeys(ids))  # two spellings may be one device: its rows must stay in order
        place = {name: at for at, name in enumerate(names)}
        at = np.array([place[name] for name in ids], np.int64)
        return at[codes.indices.to_numpy(zero_copy_only=False)], names

    def _device(self, cell: str, prefix: str) -> str:
        if cell not in self.cells:
            if len(self.cells) >= MAX_DEVICES:
                raise ConfigError("too many devices", most=MAX_DEVICES, fix="is the --device-column the right one?")
            made = device_id_of(f"{prefix}/{cell.strip()}" if prefix else cell.strip())
            other = next(
                (known for known, name in self.cells.items() if name == made and known.strip() != cell.strip()), None
            )
            if other is not None:
                raise ConfigError(
                    "two names would be the same device", cells=[other, cell], device=made, fix="rename one of them"
                )
            self.cells[cell] = made
        return self.cells[cell]


def _check_place(paths: Sequence[Path], out: Path | None, force: bool) -> None:
    if out is None or not out.exists():
        return
    if any(path.exists() and path.samefile(out) for path in paths):
        raise ConfigError("the recording would replace one of the files", file=str(out), fix="name another with -o")
    if out.is_file() and not force:
        raise ConfigError("there is a recording already", file=str(out), fix="name another place, or give --force")
