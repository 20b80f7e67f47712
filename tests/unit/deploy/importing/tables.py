"""Imports a table of a test and reads back what was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.importing.importer import Report, import_files
from deploy.importing.wanted import Wanted
from edge_filters.io.sensors import recorded_blocks
from schemas.container import read_header
from schemas.records import Floats, Times


@dataclass(frozen=True)
class Imported:
    """A recording and what was said about it. Times, values and labels by device."""

    report: Report
    times: Mapping[str, Times]
    values: Mapping[str, Floats]
    labels: Mapping[str, list[int] | None]
    channels: list[str]
    header: Mapping[str, str]
    data: bytes

    @property
    def only(self) -> str:
        (device,) = self.times
        return device


def imported(tmp_path: Path, *files: Path, **wanted: object) -> Imported:
    """What becomes of files, in the place of what an earlier call of the test has made."""
    out = tmp_path / "out.avro"
    report = import_files(files, out, Wanted(**wanted), force=True)  # type: ignore[arg-type]  # words of the test
    times, values, labels = {}, {}, {}
    channels: list[str] = []
    for device in report.devices:
        blocks = list(recorded_blocks(out, device))
        assert [block.seq for block in blocks] == list(range(len(blocks)))
        times[device] = np.concatenate([block.times for block in blocks])
        values[device] = np.concatenate([block.matrix for block in blocks])
        flagged = [block.labels for block in blocks]
        labels[device] = None if None in flagged else list(b"".join(part or b"" for part in flagged))
        channels = list(blocks[0].channels)
    with out.open("rb") as file:
        header = read_header(file).metadata
    return Imported(report, times, values, labels, channels, header, out.read_bytes())


def table(tmp_path: Path, text: str, name: str = "pump.csv", encoding: str = "utf-8") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding=encoding, newline="", errors="replace")
    return path
