"""Recorded topics as files: `TOPIC.avro`, and beside it `TOPIC.stamps.csv` with where and when each record lay.

Files are written under another name and take their own at the end, so that there is never half a recording.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from schemas import topics
from schemas.container import ContainerWriter, read, read_header
from schemas.errors import ConfigError, DecodeError
from schemas.records import Record, SensorBlock

_STAMPS_HEAD = "partition,offset,stamped_ms\n"


@dataclass(frozen=True, slots=True)
class Stamp:
    """Where a record lay and when, in milliseconds since 1970 by the topic's clock (the broker's where edges write)."""

    partition: int
    offset: int
    stamped_ms: int


@dataclass(frozen=True, slots=True)
class Found:
    """A record of a topic or a file. `topic`: its name without prefix; of a file that is no topic's, its stem."""

    topic: str
    record: Record
    stamp: Stamp | None = None


def stamps_of(path: Path) -> Path:
    """Where the stamps of a recorded topic lie."""
    return path.with_name(path.name.removesuffix(".avro") + ".stamps.csv")


class TopicFile:
    """One recorded topic being written. Either `finish` gives it its name, or `drop` leaves nothing of it."""

    def __init__(self, path: Path, record: type[Any], *, stamps: bool = True) -> None:
        """Raises ConfigError: the file cannot be made."""
        self.path, self.written, self.record = path, 0, record
        self._parts = [path.with_name(path.name + ".part")] + ([_part(stamps_of(path))] if stamps else [])
        try:
            self._file: IO[bytes] = self._parts[0].open("wb")
            self._stamps: IO[str] | None = self._parts[1].open("w", encoding="ascii") if stamps else None
        except OSError as cause:
            raise ConfigError("the recording cannot be written", file=str(path), cause=cause.strerror) from None
        self._writer = ContainerWriter(self._file, record)
        if self._stamps is not None:
            self._stamps.write(_STAMPS_HEAD)

    def write(self, record: Record, stamp: Stamp | None = None) -> None:
        """Add a record. Raises OSError: the disk failed."""
        self._writer.write(record)
        if self._stamps is not None and stamp is not None:
            self._stamps.write(f"{stamp.partition},{stamp.offset},{stamp.stamped_ms}\n")
        self.written += 1

    def flush(self) -> None:
        """Give the system what is buffered, so that a killed process leaves it. Raises OSError: the disk failed."""
        self._writer.close()  # writes a block; more may follow
        for file in (self._file, self._stamps):
            if file is not None:
                file.flush()

    def finish(self) -> None:
        """Write out, force to disk, and take the name. Raises OSError: the disk failed."""
        self._writer.close()
        for file in (self._file, self._stamps):
            if file is not None:
                file.flush()
                os.fsync(file.fileno())
                file.close()
        if self._stamps is not None:
            self._parts[1].replace(stamps_of(self.path))
        self._parts[0].replace(self.path)

    def drop(self) -> None:
        """Leave nothing."""
        for file in (self._file, self._stamps):
            if file is not None:
                file.close()
        for part in self._parts:
            part.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def recorded_files(path: Path) -> list[Path]:
    """The files of a recording: itself, or those in a folder, topics of the catalogue in its order first.

    Raises ConfigError: there is nothing.
    """
    if path.is_dir():
        names = [f"{topic.name}.avro" for topic in topics.CATALOGUE]
        found = sorted(path.glob("*.avro"), key=lambda p: (names.index(p.name) if p.name in names else 99, p.name))
        if not found:
            raise ConfigError(
                "nothing is recorded here", folder=str(path), fix="it must hold files such as edge.events.avro"
            )
        return found
    if not path.exists():
        raise ConfigError("there is no such recording", path=str(path))
    return [path]


def record_type(path: Path) -> type[Any]:
    """What a file holds records of. Raises ConfigError, DecodeError with its name."""
    try:
        with path.open("rb") as file:
            return read_header(file).schema.record
    except OSError as cause:
        raise ConfigError("the recording cannot be read", file=str(path), cause=cause.strerror) from None
    except DecodeError as wrong:
        raise _in_file(wrong, path) from wrong


def topic_of(path: Path) -> str:
    """Topic of a file: by its name, else by what it holds; a recording of readings has none. Raises as record_type."""
    stem = path.name.removesuffix(".avro")
    if stem in {topic.name for topic in topics.CATALOGUE}:
        return stem
    kind = record_type(path)
    if kind is SensorBlock:
        return stem
    return next(topic.name for topic in topics.CATALOGUE if topic.record is kind)


def found_in(path: Path) -> Iterator[Found]:
    """Records of one file with their stamps, where those are beside it. Raises ConfigError, DecodeError."""
    topic = topic_of(path)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
        except OSError as cause:
            raise ConfigError("the recording cannot be read", file=str(path), cause=cause.strerror) from None
        stamps = _stamps(stack, stamps_of(path))
        try:
            for record in read(file):
                yield Found(topic, record, next(stamps, None))
        except DecodeError as wrong:
            raise _in_file(wrong, path) from wrong


def _stamps(stack: ExitStack, path: Path) -> Iterator[Stamp | None]:
    """Stamps line by line; where a line is not one, the rest is not known: the records themselves are what counts."""
    if path.name.endswith(".stamps.csv") and path.is_file():
        file = stack.enter_context(path.open(encoding="ascii", errors="replace"))
        if file.readline(100) == _STAMPS_HEAD:
            while line := file.readline(100):
                numbers = line.strip().split(",")
                if len(numbers) != 3 or not all(n.removeprefix("-").isdecimal() for n in numbers):
                    return
                yield Stamp(*map(int, numbers))


def everything(paths: Sequence[Path], damaged: list[str] | None = None) -> Iterator[Found]:
    """Records of several recordings, file by file. A sentence per damaged file goes to `damaged`, else it is raised.

    Raises ConfigError: nothing is there. DecodeError: damage, where `damaged` is None.
    """
    for path in (file for each in paths for file in recorded_files(each)):
        try:
            yield from found_in(path)
        except DecodeError as wrong:
            if damaged is None:
                raise
            damaged.append(str(wrong))


def _in_file(wrong: DecodeError, path: Path) -> DecodeError:
    return DecodeError(wrong.problem, fix=wrong.fix, **({"file": str(path)} | wrong.where))
