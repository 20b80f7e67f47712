"""Recorded topics as files: one Avro container file per topic, named `<topic>.avro`. Source and sink of a replay.

Only for the in-process runner: the files are local and written by one process.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import apache_beam as beam
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from pipelines.io.chunk import Batch, Chunk, Record
from schemas.clocks import FIRST_US, LAST_US
from schemas.codec import decode, encode
from schemas.container import ContainerWriter, read
from schemas.errors import ConfigError, DecodeError
from schemas.records import EdgeAggregate, EdgeEvent, SensorBlock
from schemas.topics import Topic

MAX_CHUNK = 1_000
#: How far one topic may run ahead of the others, so that what happened together is replayed together.
SLICE_US = 5_000_000


def file_of(folder: str, topic: Topic) -> Path:
    """Where a recorded topic lies."""
    return Path(folder) / f"{topic.name}.avro"


def event_time(record: EdgeEvent | EdgeAggregate | SensorBlock) -> int:
    """When the newest reading in a record was taken, microseconds."""
    if isinstance(record, EdgeEvent):
        return record.sensed_to
    if isinstance(record, EdgeAggregate):
        return record.window_end
    return int(record.times.max()) if record.event_times else 0


@dataclass(slots=True)
class _Stream:
    """One recorded topic with its next record looked at, and where it broke off, if it did."""

    topic: Topic
    records: Iterator[Any]
    number: int = 0
    head: Any = None
    damage: DecodeError | None = None
    time_us: int = 0

    def advance(self) -> None:
        try:
            self.head = next(self.records, None)
        except DecodeError as cause:
            self.head, self.damage = None, cause
        if self.head is not None and FIRST_US <= (at_us := event_time(self.head)) <= LAST_US:
            self.time_us = max(self.time_us, at_us)


class ReadRecorded(beam.PTransform):
    """Recorded topics to a PCollection[Chunk], interleaved by event time.

    A topic that was not recorded is empty. A file that breaks off gives what is before the damage; the place is in
    `damaged_files`.
    """

    def __init__(self, folder: str, topics: Iterable[Topic]) -> None:
        super().__init__()
        self._folder, self._topics = folder, tuple(topics)

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection[Chunk]:
        """One element that unfolds into all chunks."""
        step = beam.ParDo(_Unfold(self._topics)).with_output_types(Chunk)
        return pbegin | "Folder" >> beam.Create([self._folder]) | "Unfold" >> step


class _Unfold(beam.DoFn):
    def __init__(self, topics: tuple[Topic, ...]) -> None:
        self._topics = topics

    def process(self, folder: str) -> Iterator[TimestampedValue]:
        for chunk, first_us in chunks(folder, self._topics):
            yield TimestampedValue(chunk, Timestamp(micros=first_us))


def chunks(folder: str, topics: Iterable[Topic]) -> Iterator[tuple[Chunk, int]]:
    """Chunks of recorded topics with their earliest event time, us. The topic furthest behind goes first."""
    streams = []
    files: list[IO[bytes]] = []
    try:
        for topic in topics:
            path = file_of(folder, topic)
            if path.exists():
                files.append(path.open("rb"))
                streams.append(_Stream(topic, read(files[-1], topic.record)))
                streams[-1].advance()
        while open_streams := [s for s in streams if s.head is not None]:
            behind = min(open_streams, key=lambda s: s.time_us)
            others = [s.time_us for s in open_streams if s is not behind]
            yield _take(behind, min(others, default=2**63) + SLICE_US)
    finally:
        for file in files:
            file.close()


def _take(stream: _Stream, until_us: int) -> tuple[Chunk, int]:
    begin, first_us = stream.number, event_time(stream.head)
    records: list[Record] = []
    while stream.head is not None and stream.time_us <= until_us and len(records) < MAX_CHUNK:
        first_us = min(first_us, event_time(stream.head))
        key = stream.head.device_id.encode()
        records.append(Record(stream.number, key, encode(stream.head), stream.time_us // 1000))
        stream.number += 1
        stream.advance()
    return Chunk("", stream.topic.name, -1, begin, stream.number, 0, records), min(max(0, first_us), LAST_US)


def damaged_files(folder: str, topics: Iterable[Topic]) -> list[str]:
    """A sentence for each recorded topic that cannot be read to its end."""
    found = []
    for topic in topics:
        path = file_of(folder, topic)
        if not path.exists():
            continue
        with path.open("rb") as file:
            try:
                for _ in read(file, topic.record):
                    pass
            except DecodeError as cause:
                found.append(f"{path.name}: {cause}")
    return found


@dataclass(slots=True)
class RecordedTopics:
    """Open files of one run. Beam copies DoFns around; this stays in the process, under `name`.

    Raises ConfigError on entry: the folder cannot be made.
    """

    folder: Path
    progress: Callable[[int], None] | None = None  # told of each record that is written
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    written: dict[str, int] = field(default_factory=dict)
    _files: dict[str, IO[bytes]] = field(default_factory=dict)
    _writers: dict[str, ContainerWriter] = field(default_factory=dict)

    def __enter__(self) -> RecordedTopics:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise ConfigError("the output folder cannot be made", folder=str(self.folder), cause=str(cause)) from None
        _RUNS[self.name] = self
        return self

    def open(self, topic: Topic) -> None:
        """Begin the file of a topic; an older one is replaced. Raises ConfigError: it cannot be written."""
        path = file_of(str(self.folder), topic)
        try:
            self._files[topic.name] = path.open("wb")
        except OSError as cause:
            raise ConfigError("an output file cannot be written", file=str(path), cause=str(cause)) from None
        self._writers[topic.name] = ContainerWriter(self._files[topic.name], topic.record)
        self.written[topic.name] = 0

    def write(self, topic: Topic, payload: bytes) -> None:
        """Add an encoded record."""
        self._writers[topic.name].write(decode(payload, topic.record))
        self.written[topic.name] += 1
        if self.progress is not None:
            self.progress(1)

    def __exit__(self, *_: object) -> None:
        del _RUNS[self.name]
        for name, writer in self._writers.items():
            writer.close()
            self._files[name].flush()
            os.fsync(self._files[name].fileno())
            self._files[name].close()


_RUNS: dict[str, RecordedTopics] = {}


class WriteRecorded(beam.PTransform):
    """PCollection[Batch] to the file of a topic."""

    def __init__(self, run: RecordedTopics, topic: Topic) -> None:
        super().__init__()
        run.open(topic)
        self._write = _Append(run.name, topic)

    def expand(self, batches: beam.PCollection[Batch]) -> beam.PCollection[Batch]:
        """Append each batch."""
        return batches | beam.ParDo(self._write).with_output_types(Batch)


class _Append(beam.DoFn):
    def __init__(self, run: str, topic: Topic) -> None:
        self._run, self._topic = run, topic

    def process(self, batch: Batch) -> Iterator[Batch]:
        for record in batch.records:
            _RUNS[self._run].write(self._topic, record.value or b"")
        yield batch
