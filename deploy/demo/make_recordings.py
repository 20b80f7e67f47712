"""Makes the shipped recordings from the original CSV files. Run once; what it wrote is committed in deploy/demo/data.

    python -m deploy.demo.make_recordings --smd FOLDER --nab FOLDER -o deploy/demo/data

FOLDER of --smd holds `machine-*_{train,test}.csv.gz` (columns c00..c37, the test part also `label`), FOLDER of --nab is
a copy of the NAB repository (`data/`, `labels/`). The same files give the same bytes.
"""

from __future__ import annotations

import argparse
import copy
import csv
import gzip
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import fastavro
import numpy as np
import numpy.typing as npt

from schemas.codec import BOOK
from schemas.errors import ConfigError, TidegateError, exit_code
from schemas.records import Floats, SensorBlock, Times

BLOCK_READINGS = 256

SMD_COHORT = "servers"
SMD_MACHINES = ("1-7", "2-1", "2-2", "2-7", "2-8", "3-4")
#: Metrics that vary in the training part of every machine, each from another group of metrics that move together.
SMD_CHANNELS = ("c00", "c01", "c08", "c12", "c13", "c14", "c22", "c24")
SMD_NORMAL_ROWS = 8_000  # the last ones of the training part
SMD_LIVE_ROWS = 6_000
SMD_STEP_US = 60_000_000
#: The origin has no timestamps: the first row of each training part is set to this moment, one row a minute.
SMD_START = datetime(2019, 7, 1, tzinfo=UTC)

NAB_COHORT = "temperature"
NAB_CHANNELS = ("temperature",)


@dataclass(frozen=True, slots=True)
class NabFile:
    """One NAB file: its first `normal_rows` rows, all before its first labelled window, are the normal part."""

    device_id: str
    path: str
    normal_rows: int


NAB_FILES = (
    NabFile("machine-temperature", "realKnownCause/machine_temperature_system_failure.csv", 2_100),
    NabFile("ambient-temperature", "realKnownCause/ambient_temperature_system_failure.csv", 3_000),
)


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one device in file order: times int64[n] in µs, values float32[n, c], labels uint8[n] or None."""

    device_id: str
    cohort: str
    channels: tuple[str, ...]
    times: Times
    values: Floats
    labels: npt.NDArray[np.uint8] | None  # None: the origin does not label them, and takes them as normal
    origin: str


def live_slice(labels: npt.NDArray[np.uint8], rows: int, lead: int = 500, step: int = 100) -> tuple[int, int]:
    """Where to cut the live part out of a long labelled one, by rule and not by taste.

    The window of `rows` rows that holds most labelled segments wholly; among equals the one whose first segment
    begins nearest to `lead` rows after its start, and then the earliest. Starts are multiples of `step`.

    >>> live_slice(np.repeat([0, 1, 0, 1, 0], [700, 10, 300, 10, 980]).astype(np.uint8), 1_000)
    (200, 1200)
    """
    edges = np.diff(np.concatenate([[0], labels.astype(np.int8), [0]]))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)

    def rank(first: int) -> tuple[int, int, int]:
        inside = starts[(starts >= first) & (ends <= first + rows)]
        return -len(inside), abs(int(inside[0]) - first - lead) if len(inside) else 0, first

    best = min(range(0, max(len(labels) - rows, 0) + 1, step), key=rank)
    return best, best + rows


def smd_parts(folder: Path, machine: str) -> Iterator[tuple[str, Part]]:
    """The normal and the live part of one machine."""
    start_us = int(SMD_START.timestamp()) * 1_000_000
    train = _read_smd(folder / f"machine-{machine}_train.csv.gz")
    test = _read_smd(folder / f"machine-{machine}_test.csv.gz")
    device_id = f"machine-{machine}"

    def cut(table: dict[str, npt.NDArray[np.float64]], first: int, last: int, before: int, origin: str) -> Part:
        rows = np.arange(before + first, before + last, dtype=np.int64)
        values = np.stack([table[name][first:last] for name in SMD_CHANNELS], axis=1).astype(np.float32)
        labels = table["label"][first:last].astype(np.uint8) if "label" in table else None
        times = start_us + rows * SMD_STEP_US
        return Part(
            device_id, SMD_COHORT, SMD_CHANNELS, times, values, labels, f"{origin} rows {first}..{last - 1} from 0"
        )

    height = len(train["c00"])
    yield "normal", cut(train, height - SMD_NORMAL_ROWS, height, 0, f"machine-{machine}_train")
    first, last = live_slice(test["label"].astype(np.uint8), SMD_LIVE_ROWS)
    yield "live", cut(test, first, last, height, f"machine-{machine}_test")


def nab_parts(folder: Path, file: NabFile) -> Iterator[tuple[str, Part]]:
    """The normal and the live part of one file: together every row of it, in file order, repeats and all."""
    with (folder / "labels" / "combined_windows.json").open() as text:
        windows = [(_moment(low), _moment(high)) for low, high in json.load(text)[file.path]]
    with (folder / "data" / file.path).open(newline="") as text:
        rows = [(_moment(row["timestamp"]), float(row["value"])) for row in csv.DictReader(text)]
    times = np.array([at for at, _ in rows], np.int64)
    values = np.array([[value] for _, value in rows], np.float32)
    labels = np.zeros(len(rows), np.uint8)
    for low, high in windows:
        labels |= ((times >= low) & (times <= high)).astype(np.uint8)
    if labels[: file.normal_rows].any():
        raise ConfigError("the normal part has labelled rows in it", file=file.path)
    for name, rows_of in (("normal", slice(0, file.normal_rows)), ("live", slice(file.normal_rows, None))):
        low, high, _ = rows_of.indices(len(rows))
        yield (
            name,
            Part(
                file.device_id,
                NAB_COHORT,
                NAB_CHANNELS,
                times[rows_of],
                values[rows_of],
                labels[rows_of],
                f"{file.path} rows {low}..{high - 1} from 0",
            ),
        )


def write_part(path: Path, part: Part) -> None:
    """One container file of SensorBlocks. Its sync mark is derived from its content, so that a second run is equal."""
    entry = BOOK.newest(SensorBlock)
    times, values = part.times.astype("<i8"), part.values.astype("<f4")
    labels = b"" if part.labels is None else part.labels.tobytes()
    blocks = []
    for seq, first in enumerate(range(0, len(times), BLOCK_READINGS)):
        rows = slice(first, first + BLOCK_READINGS)
        block = SensorBlock(
            device_id=part.device_id,
            boot_epoch=1,
            seq=seq,
            cohort=part.cohort,
            channels=list(part.channels),
            event_times=times[rows].tobytes(),
            values=values[rows].tobytes(),
            labels=None if part.labels is None else part.labels[rows].tobytes(),
        )
        blocks.append({name: getattr(block, name) for name in SensorBlock.__slots__})
    about = {
        "device_id": part.device_id,
        "cohort": part.cohort,
        "channels": json.dumps(part.channels),
        "readings": str(len(times)),
        "labelled": str(sum(labels)),
        "first_time": str(int(times[0])),
        "last_time": str(int(times[-1])),
        "origin": part.origin,
    }
    content = hashlib.sha256(times.tobytes() + values.tobytes() + labels)
    with path.open("wb") as file:
        fastavro.writer(
            file,
            copy.deepcopy(entry.source),
            blocks,
            codec="deflate",
            codec_compression_level=9,
            sync_interval=64 * 1024,
            sync_marker=content.digest()[:16],
            metadata={f"tidegate.{key}": value for key, value in about.items()},
        )


def _read_smd(path: Path) -> dict[str, npt.NDArray[np.float64]]:
    with gzip.open(path, "rt") as text:
        names = text.readline().strip().split(",")
        table = np.loadtxt(text, delimiter=",", ndmin=2)
    return dict(zip(names, table.T, strict=True))


def _moment(text: str) -> int:
    """`2013-12-02 21:15:00[.000000]`, taken as UTC, in microseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Write all recordings. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.demo.make_recordings", description=__doc__.splitlines()[0])
    parser.add_argument("--smd", type=Path, required=True, metavar="FOLDER", help="machine-*_{train,test}.csv.gz")
    parser.add_argument("--nab", type=Path, required=True, metavar="FOLDER", help="a copy of the NAB repository")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER", help="where the recordings go")
    args = parser.parse_args(argv)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        sources = [smd_parts(args.smd, machine) for machine in SMD_MACHINES]
        sources += [nab_parts(args.nab, file) for file in NAB_FILES]
        for source in sources:
            for name, part in source:
                path = args.out / f"{part.device_id}.{name}.avro"
                write_part(path, part)
                print(f"{path.name}: {len(part.times)} readings, {path.stat().st_size} bytes, from {part.origin}")
    except OSError as missing:
        print(f"make_recordings: a source file cannot be read: {missing}", file=sys.stderr)
        return exit_code(ConfigError(""))
    except TidegateError as error:
        print(f"make_recordings: {error}", file=sys.stderr)
        return exit_code(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
