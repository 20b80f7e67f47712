"""The import itself: files in, one recording and a report out, a batch of rows at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from deploy.importing import times as moments
from deploy.importing.cells import CellError, Missing, flags, floats, plain
from deploy.importing.layout import Layout, differences, find_layout, joined
from deploy.importing.recording import RecordingWriter, device_id_of
from deploy.importing.survey import ChannelSurvey, DeviceSurvey
from deploy.importing.tables import Table, damaged, open_table
from deploy.importing.wanted import Wanted
from schemas.errors import ConfigError, DecodeError
from schemas.records import Floats, Times

#: Each holds rows that wait for their block.
MAX_DEVICES = 10_000

Rows = npt.NDArray[np.int64]


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
) -> Report:
    """Make a recording of files, appended in their order. All rows are read either way.

    Args:
        paths: CSV, Parquet, npy or npz files.
        out: the recording; None: a dry run that writes nothing.
        wanted: what the user said; the rest is found.
        progress: is told how far it is, once a batch.

    Returns:
        What was understood.

    Raises:
        ConfigError: a file or column is missing, or something cannot be found without being told.
        DecodeError: a file is damaged or a cell is wrong. Names file, row and column; nothing is written then.
    """
    return _Import(paths, out, wanted, progress).run()


class _Import:
    def __init__(self, paths: Sequence[Path], out: Path | None, wanted: Wanted, progress: Progress) -> None:
        self.paths, self.out, self.wanted, self.progress = paths, out, wanted, progress
        if out is not None and any(path.exists() and out.exists() and path.samefile(out) for path in paths):
            raise ConfigError("the recording would replace one of the files", file=str(out), fix="name another with -o")
        moments.check_zone(wanted.timezone)
        if wanted.time_format:
            moments.check_format(wanted.time_format)
        cohort = wanted.cohort or (device_id_of(out.stem) if out else wanted.device or "import")
        self.report = Report(cohort=cohort, timezone=wanted.timezone)
        self.missing = Missing.of(wanted.missing)
        self.cells: dict[str, str] = {}  # device column's cell to device id
        self.writer: RecordingWriter | None = None

    def run(self) -> Report:
        sizes = [max(path.stat().st_size, 1) if path.is_file() else 1 for path in self.paths]
        ids = self._file_devices()
        with ExitStack() as stack:
            for at, path in enumerate(self.paths):
                table = open_table(path, self.wanted)
                layout = self._understand(table)
                if self.out is not None and self.writer is None:
                    self.writer = stack.enter_context(self._open(layout, self.out, ids[0]))
                self._read(table, layout, ids[at], lambda share, at=at: self._tell(sizes, at, share))  # type: ignore[misc]
            if not self.report.rows:
                raise DecodeError("there are no rows", files=[str(path) for path in self.paths])
            if self.writer is not None:
                self._finish(self.writer)
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

    def _understand(self, table: Table) -> Layout:
        sample = table.sample()
        if not len(sample):
            raise DecodeError("the file has no rows", file=str(table.path), fix="leave it out")
        try:
            layout = find_layout(sample, table.columns, table.decimal, self.wanted)
        except pa.ArrowException as cause:
            raise damaged(table.path, cause) from cause
        except ConfigError as wrong:
            raise ConfigError(wrong.problem, fix=wrong.fix, file=str(table.path), **wrong.where) from None
        first = self.report.layout
        if first is None:
            self.report.layout, self.report.channels = layout, ChannelSurvey(len(layout.channels))
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

    def _open(self, layout: Layout, out: Path, device_id: str) -> RecordingWriter:
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
        row, dropped = 0, self.report.dropped
        for batch, share in table.batches(layout.columns):
            self._add(batch, row, table, layout, device_id)
            row += len(batch)
            tell(share)
        self.report.files.append(
            {"file": str(table.path), "rows": row, "dropped": self.report.dropped - dropped, **table.about}
        )

    def _add(self, batch: Any, row: int, table: Table, layout: Layout, device_id: str) -> None:
        """Rows of one batch; `row` of the file is its first, from 0."""
        counted = self.report.channels
        assert counted is not None
        numbers = np.arange(row + 1, row + len(batch) + 1)
        column = ""
        try:
            stamped = None
            if layout.time is not None:
                column = " ".join(layout.time.columns)
                array = joined(batch, layout.time.columns, self.missing)
                stamped = moments.parse(array, layout.time.format, table.decimal)
                if stamped.missing.any() and not self.wanted.drop_untimed:
                    raise CellError(
                        int(np.argmax(stamped.missing)),
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
            groups = list(self._by_device(batch, layout, device_id))
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
        for name, which in groups:
            if stamped is not None and stamped.missing.any():
                kept = ~stamped.missing[which]
                self.report.dropped += int((~kept).sum())
                which = np.arange(len(batch))[which][kept]
            self._add_rows(name, stamped, which, values, labels, table, numbers)

    def _add_rows(
        self,
        device_id: str,
        stamped: moments.Moments | None,
        which: Any,
        values: Floats,
        labels: npt.NDArray[np.uint8] | None,
        table: Table,
        numbers: Rows,
    ) -> None:
        counted = self.report.channels
        assert counted is not None
        survey = self.report.devices.get(device_id)
        if survey is None:
            if len(self.report.devices) >= MAX_DEVICES:
                raise ConfigError(
                    "too many devices",
                    most=MAX_DEVICES,
                    fix="is the --device-column the right one? Import the devices in parts otherwise",
                )
            survey = self.report.devices[device_id] = DeviceSurvey()
        rows, numbers = values[which], numbers[which]
        if not len(rows):
            return
        if stamped is None:
            at = np.rint((survey.rows + np.arange(len(rows))) * (self.wanted.step_us or 1.0))
            if self.wanted.start_us + at[-1] > moments.LAST_US:
                raise ConfigError("the times made from the rate pass the year 9999", fix="correct --rate or --start")
            times: Times = self.wanted.start_us + at.astype(np.int64)
        else:
            part = moments.Moments(stamped.times[which], stamped.zoned[which], stamped.missing[which])
            last = survey.last_time if survey.rows else None
            times, unclear = moments.to_utc(part, self.wanted.timezone, last)
            survey.unclear += unclear
        flagged = None if labels is None else labels[which]
        survey.add(times, flagged, str(table.path), numbers)
        counted.add(rows)
        self.report.rows += len(rows)
        if self.writer is not None:
            self.writer.add(device_id, times, rows, flagged)

    def _by_device(self, batch: Any, layout: Layout, device_id: str) -> Iterator[tuple[str, Any]]:
        """Device ids and their rows in the batch, in the order in which they first appear."""
        if layout.device_column is None:
            yield device_id, slice(None)
            return
        array = plain(batch.column(layout.device_column))
        gone = np.asarray(pc.is_null(array, nan_is_null=True).to_numpy(zero_copy_only=False), bool)
        if gone.any():
            raise CellError(int(np.argmax(gone)), "a row has no device", None, "correct it, or use another column")
        codes = array.cast(pa.string()).dictionary_encode()
        at = codes.indices.to_numpy(zero_copy_only=False)
        order = np.argsort(at, kind="stable")
        edges = np.searchsorted(at[order], np.arange(len(codes.dictionary) + 1))
        for number, cell in enumerate(codes.dictionary.to_pylist()):
            yield self._device(cell, device_id), order[edges[number] : edges[number + 1]]

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
