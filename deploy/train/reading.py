"""Recordings as streams: what is in them, and their readings batch by batch, with memory that does not grow.

A row with a value that is not finite is left out, as an edge leaves it out, and counted. What is left is numbered from
0 per device, in the order of the recordings; a recording may hold many devices and a device may have many recordings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from schemas.container import read
from schemas.errors import ConfigError, DecodeError
from schemas.records import Floats, SensorBlock, Times

Flags = npt.NDArray[np.bool_]
Say = Callable[[str], None]

#: A step in event time above this many usual steps, or below zero, ends a stretch: a window never reaches across it.
MAX_GAP_STEPS = 5
#: Steps in event time that are kept to find the usual one; past that every second one is dropped.
_MAX_STEPS = 1 << 18
#: Numbers in the batches of all devices together.
_BATCH_NUMBERS = 1 << 20
#: A pass over more than this says how far it is.
_LONG_BYTES = 16 << 20


@dataclass(slots=True)
class Device:
    """What a first pass found out about a device.

    Attributes:
        files: SHA-256 of each recording that it is in.
        readings: complete rows; `incomplete` rows hold a value that is not finite, `missing` counts those per channel.
        step_us: usual step in event time, microseconds; 0 where time never goes forward.
        span_us: first to last event time, microseconds.
        labelled: whether every block carries labels; `anomalous` counts the complete rows that are labelled so.
        low, high: smallest and largest value per channel; `falls` counts the rows where it went down.
    """

    device_id: str
    cohort: str
    channels: tuple[str, ...]
    files: list[str] = field(default_factory=list)
    readings: int = 0
    incomplete: int = 0
    step_us: float = 0.0
    labelled: bool = True
    anomalous: int = 0
    first_us: int = 0
    last_us: int = 0
    missing: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    low: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    high: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    falls: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    rises: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def max_gap_us(self) -> float:
        """Longest step in event time within a window."""
        return MAX_GAP_STEPS * self.step_us

    @property
    def still(self) -> list[str]:
        """Channels that have one value only."""
        return [name for name, same in zip(self.channels, self.low == self.high, strict=True) if same]

    @property
    def counters(self) -> list[str]:
        """Channels that go up with nearly every row and never down: a clock, a row number, a total."""
        odd = (self.falls == 0) & (self.rises >= 0.9 * max(self.readings - 1, 1)) & (self.readings > 2)
        return [name for name, yes in zip(self.channels, odd, strict=True) if yes]


@dataclass(frozen=True, slots=True)
class Survey:
    """All devices in the order in which they were met, and the recordings in order of time."""

    devices: dict[str, Device]
    paths: list[Path]


@dataclass(frozen=True, slots=True)
class Batch:
    """Complete rows of one device that follow one another; `first` is the number of the first.

    `times` int64[n], microseconds; `values` float32[n, c]; `labels` bool[n], all False where there are none.
    """

    device_id: str
    first: int
    times: Times
    values: Floats
    labels: Flags


class _Steps:
    """A bounded, evenly thinned sample of the forward steps in event time."""

    def __init__(self) -> None:
        self._kept: list[npt.NDArray[np.int64]] = []
        self._count = 0
        self._every = 1

    def add(self, steps: npt.NDArray[np.int64]) -> None:
        forward = steps[steps > 0][:: self._every]
        self._kept.append(forward)
        self._count += len(forward)
        if self._count > _MAX_STEPS:
            self._kept = [np.concatenate(self._kept)[::2]]
            self._count, self._every = len(self._kept[0]), self._every * 2

    def usual(self) -> float:
        return float(np.median(np.concatenate(self._kept))) if self._count else 0.0


def survey(paths: Sequence[Path], say: Say) -> Survey:
    """Look through recordings once.

    Raises:
        ConfigError: a file cannot be read, or one is given twice, or a device changes its channels or cohort.
        DecodeError: a file is damaged or holds no readings.
    """
    devices: dict[str, Device] = {}
    steps: dict[str, _Steps] = {}
    last: dict[str, tuple[int, Floats]] = {}
    starts: list[int] = []
    hashes = {path: sha256_of(path) for path in paths}
    if len(set(hashes.values())) < len(paths):
        raise ConfigError("a recording is given twice", files=[str(path) for path in paths])
    seen: set[Path] = set()
    for path, block in _blocks(paths, "looking through the recordings", say):
        device = devices.get(block.device_id)
        if device is None:
            device = devices[block.device_id] = _new(block)
            steps[block.device_id] = _Steps()
        elif (device.cohort, device.channels) != (block.cohort, tuple(block.channels)):
            raise ConfigError(
                "a device changes its channels or its cohort",
                file=str(path),
                device=block.device_id,
                before=[device.cohort, *device.channels],
                then=[block.cohort, *block.channels],
                fix="train what belongs together, one package for each set of channels",
            )
        if path not in seen:
            seen.add(path)
            starts.append(int(block.times[0]) if len(block.times) else 0)
        if not device.files or device.files[-1] != hashes[path]:
            device.files.append(hashes[path])
        _add(device, block, steps[block.device_id], last)
    for device_id, found in steps.items():
        devices[device_id].step_us = found.usual()
    order = sorted(range(len(paths)), key=lambda at: starts[at])
    return Survey(devices, [paths[at] for at in order])


def _new(block: SensorBlock) -> Device:
    wide = len(block.channels)
    return Device(
        block.device_id,
        block.cohort,
        tuple(block.channels),
        missing=np.zeros(wide, np.int64),
        low=np.full(wide, np.inf, np.float32),
        high=np.full(wide, -np.inf, np.float32),
        falls=np.zeros(wide, np.int64),
        rises=np.zeros(wide, np.int64),
    )


def _add(device: Device, block: SensorBlock, steps: _Steps, last: dict[str, tuple[int, Floats]]) -> None:
    device.labelled = device.labelled and block.labels is not None
    times, values, labels, finite = _complete(block)
    if finite is not None:
        device.missing += np.count_nonzero(~finite, axis=0)
        device.incomplete += len(finite) - len(times)
    if not len(times):
        return
    before = last.get(device.device_id)
    if before is None:
        device.first_us = int(times[0])
    else:
        steps.add(np.array([int(times[0]) - before[0]], np.int64))
        values = np.concatenate([before[1], values])
    steps.add(np.diff(times))
    device.rises += np.count_nonzero(values[1:] > values[:-1], axis=0)
    device.falls += np.count_nonzero(values[1:] < values[:-1], axis=0)
    device.low, device.high = np.minimum(device.low, values.min(axis=0)), np.maximum(device.high, values.max(axis=0))
    device.readings += len(times)
    device.anomalous += int(np.count_nonzero(labels))
    device.last_us = int(times[-1])
    last[device.device_id] = int(times[-1]), values[-1:].copy()


def batches(found: Survey, doing: str, say: Say) -> Iterator[Batch]:
    """The complete rows of every device, some thousand at a time. Raises what `survey` raises."""
    width = max((len(device.channels) for device in found.devices.values()), default=1)
    enough = max(1, _BATCH_NUMBERS // (width * max(len(found.devices), 1)))
    held: dict[str, list[tuple[Times, Floats, Flags]]] = {name: [] for name in found.devices}
    rows = dict.fromkeys(found.devices, 0)
    given = dict.fromkeys(found.devices, 0)

    def out(name: str) -> Batch:
        times, values, labels = (np.concatenate(part) for part in zip(*held[name], strict=True))
        batch = Batch(name, given[name], times, values, labels)
        given[name] += rows[name]
        held[name], rows[name] = [], 0
        return batch

    for path, block in _blocks(found.paths, doing, say):
        times, values, labels, _ = _complete(block)
        name = block.device_id
        if name not in held or given[name] + rows[name] + len(times) > found.devices[name].readings:
            raise _changed(path)
        held[name].append((times, values, labels))
        rows[name] += len(times)
        if rows[name] >= enough:
            yield out(name)
    yield from (out(name) for name in found.devices if rows[name])
    if any(given[name] < device.readings for name, device in found.devices.items()):
        raise _changed(*found.paths)


def _changed(*paths: Path) -> DecodeError:
    return DecodeError(
        "a recording changed while it was read",
        file=", ".join(map(str, paths)),
        fix="learn from a recording that is finished; stop what still writes to it, or copy it first",
    )


def _complete(block: SensorBlock) -> tuple[Times, Floats, Flags, Flags | None]:
    """Rows whose values are all finite, and which values are, where not all are."""
    times, values = block.times, block.matrix
    labels = np.zeros(len(times), np.bool_) if block.labels is None else np.frombuffer(block.labels, np.uint8) > 0
    finite: Flags = np.isfinite(values)
    if finite.all():
        return times, values, labels, None
    rows = finite.all(axis=1)
    return times[rows], values[rows], labels[rows], finite


def _blocks(paths: Sequence[Path], doing: str, say: Say) -> Iterator[tuple[Path, SensorBlock]]:
    """Every block with the file it is from. Says each tenth of a long way."""
    total = before = 0
    try:
        total = sum(path.stat().st_size for path in paths)
    except OSError as cause:
        raise ConfigError("the recording cannot be read", file=str(cause.filename), cause=cause.strerror) from None
    said = 0
    for path in paths:
        empty = True
        try:
            with path.open("rb") as file:
                for block in read(file, SensorBlock):
                    assert isinstance(block, SensorBlock)
                    empty = False
                    yield path, block
                    tenth = (before + file.tell()) * 10 // total
                    if total > _LONG_BYTES and said < tenth < 10:
                        said = tenth
                        say(f"{doing}: {tenth}0 %")
        except OSError as cause:
            raise ConfigError("the recording cannot be read", file=str(path), cause=cause.strerror) from None
        except DecodeError as wrong:
            raise DecodeError(
                f"the recording is damaged: {wrong.problem}", fix=wrong.fix, **({"file": str(path)} | wrong.where)
            ) from wrong
        if empty:
            raise DecodeError("the recording holds no readings", file=str(path))
        before += path.stat().st_size


def sha256_of(path: Path) -> str:
    """Hash of a file in hex, read in parts. Raises ConfigError: there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as cause:
        raise ConfigError("the recording cannot be read", file=str(path), cause=cause.strerror) from None
