"""The recording as it is written: rows gather per device into blocks, under a temporary name until all is well."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.container import MAX_METADATA_BYTES, ContainerWriter
from schemas.errors import ConfigError
from schemas.ids import DEVICE_ID
from schemas.records import Floats, SensorBlock, Times

BLOCK_READINGS = 256
#: Of one block's arrays: well below the limit of a record.
MAX_BLOCK_BYTES = 512 << 10
#: Cells that wait for their block to fill, over all devices.
MAX_HELD_CELLS = 4 << 20
#: What is known only at the end stands in the header in so many characters, written over blanks.
_WIDTH = 24
_AT_THE_END = ("devices", "readings", "labelled", "first_time", "last_time")

Labels = npt.NDArray[np.uint8]


def device_id_of(text: str) -> str:
    """A device id from a file's name or a cell. Raises ConfigError: nothing of it can stay.

    >>> device_id_of("Pump 7 (north)")
    'Pump-7-north'
    """
    clean = re.sub(r"[^A-Za-z0-9._/-]+", "-", text).strip("-/._")[:128]
    if not DEVICE_ID.fullmatch(clean):
        raise ConfigError(f"no device id can be made of {text[:60]!r}", fix="name the device with --device")
    return clean


@dataclass(slots=True)
class _Held:
    """Rows of one device that wait."""

    seq: int = 0
    rows: int = 0
    times: list[Times] = field(default_factory=list)
    values: list[Floats] = field(default_factory=list)
    labels: list[Labels] = field(default_factory=list)


class RecordingWriter:
    """Writes SensorBlocks of any number of devices, in the order of their rows; the same rows give the same bytes.

    As a context: the file appears under its name when the block ends well, and not at all otherwise. An OSError within,
    such as that of a full disk, becomes a ConfigError. `open` it within: a signal then finds no file that nobody drops.
    """

    def __init__(self, path: Path, channels: Sequence[str], cohort: str, about: Mapping[str, str]) -> None:
        """Raises ConfigError: the names of the channels are too long for a recording."""
        self.path, self._channels, self._cohort = path, list(channels), cohort
        self._block = max(1, min(BLOCK_READINGS, MAX_BLOCK_BYTES // (4 * len(channels) + 9)))
        self._held: dict[str, _Held] = {}
        self._waiting = 0
        blanks = {key: _blank(key) for key in _AT_THE_END}
        self._metadata = {"channels": json.dumps(self._channels), "cohort": cohort, **about, **blanks}
        held = BytesIO()
        ContainerWriter(held, SensorBlock, metadata=self._metadata)
        self._head = held.getvalue()
        if len(self._head) > MAX_METADATA_BYTES:
            raise ConfigError(
                "the names of the columns are too long for a recording",
                file=str(path),
                bytes=len(self._head),
                most=MAX_METADATA_BYTES,
                fix="choose fewer with --channels, or shorten their names",
            )
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")

    def open(self) -> None:
        """Begin the file. Raises OSError: it cannot be written there."""
        if self.path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        self._file = self._part.open("wb")
        self._writer = ContainerWriter(self._file, SensorBlock, metadata=self._metadata)

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            return  # `finish` has closed it
        self._drop()
        if isinstance(error, OSError):
            raise self._unwritable(error) from None

    def _drop(self) -> None:
        with suppress(
            OSError, AttributeError
        ):  # closing writes what is left, and cannot on a full disk; or not open yet
            self._file.close()
        with suppress(OSError):
            self._part.unlink()

    def _unwritable(self, cause: OSError) -> ConfigError:
        return ConfigError(
            "the recording cannot be written",
            file=str(self.path),
            cause=cause.strerror,
            fix="make room, or name another place with -o",
        )

    def add(self, device_id: str, times: Times, values: Floats, labels: Labels | None) -> None:
        """Rows of one device: int64[n] µs, float32[n, c], uint8[n] or None throughout."""
        if not len(times):
            return
        held = self._held.setdefault(device_id, _Held())
        held.times.append(times)
        held.values.append(values)
        if labels is not None:
            held.labels.append(labels)
        held.rows += len(times)
        self._waiting += len(times)
        if held.rows >= self._block:
            self._write(device_id, held, whole_blocks=True)
        if self._waiting * len(self._channels) > MAX_HELD_CELLS:
            self._write_all()

    def finish(self, numbers: Mapping[str, int]) -> int:
        """Write what waits and the numbers of the header, and give the file its name. Returns its size in bytes."""
        self._write_all()
        self._writer.close()
        for key in _AT_THE_END:
            self._file.seek(self._head.rindex(_blank(key).encode()))  # the last: a column may be named like a blank
            self._file.write(str(numbers[key]).ljust(_WIDTH).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.seek(0, os.SEEK_END)
        self._file.close()
        self._part.replace(self.path)
        return size

    def _write_all(self) -> None:
        for device_id, held in self._held.items():
            if held.rows:
                self._write(device_id, held, whole_blocks=False)

    def _write(self, device_id: str, held: _Held, whole_blocks: bool) -> None:
        times, values, labels = _joined(held.times), _joined(held.values), _joined(held.labels) if held.labels else None
        end = held.rows - held.rows % self._block if whole_blocks else held.rows
        for first in range(0, end, self._block):
            rows = slice(first, min(first + self._block, end))
            self._writer.write(
                SensorBlock(
                    device_id=device_id,
                    boot_epoch=1,
                    seq=held.seq,
                    cohort=self._cohort,
                    channels=self._channels,
                    event_times=times[rows].astype("<i8").tobytes(),
                    values=values[rows].astype("<f4").tobytes(),
                    labels=None if labels is None else labels[rows].tobytes(),
                )
            )
            held.seq += 1
        left = held.rows - end
        held.times, held.values = [times[end:].copy()] if left else [], [values[end:].copy()] if left else []
        held.labels = [labels[end:].copy()] if left and labels is not None else []
        self._waiting -= end
        held.rows = left


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _blank(key: str) -> str:
    return f"<{key}>".ljust(_WIDTH, "_")
