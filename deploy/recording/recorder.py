"""Topics to files: what was recorded is whole when the command ends, however it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy import records
from deploy.recording.files import Stamp, TopicFile, stamps_of
from schemas import topics
from schemas.codec import decode_any
from schemas.errors import ConfigError, DecodeError, SpoolError
from schemas.topics import Topic

#: How much of a recording a killed process may lose, seconds.
FLUSH_S = 5.0


@dataclass(slots=True)
class Recorded:
    """What one topic gave. `left_out`: tombstones, and records that cannot be read or are of another type."""

    topic: str
    file: Path
    written: int = 0
    left_out: int = 0
    problem: str = ""  # of the first one left out that is no tombstone

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "topic": self.topic,
            "file": str(self.file) if self.written or self.file.exists() else None,
            "records": self.written,
            "left_out": self.left_out,
            "problem": self.problem or None,
        }


@dataclass(slots=True)
class Recorder:
    """One run. `files`: topic as the broker knows it -> where it goes."""

    files: dict[str, Path]
    prefix: str = ""
    results: dict[str, Recorded] = field(default_factory=dict)
    _open: dict[str, TopicFile] = field(default_factory=dict)

    def begin(self) -> None:
        """Make the files of the topics whose type is known. Raises ConfigError: one cannot be made."""
        for name, path in self.files.items():
            self.results[name] = Recorded(name, path)
            known = _catalogued(name, self.prefix)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as cause:
                raise ConfigError(
                    "the output folder cannot be made", folder=str(path.parent), cause=str(cause)
                ) from None
            if known is not None:
                self._open[name] = TopicFile(path, known.record)

    def take(self, message: Any) -> None:
        """Write what the Kafka client gave. Raises SpoolError: the disk failed."""
        result = self.results[message.topic]
        if message.value is None:
            result.left_out += 1
            return
        try:
            record = decode_any(message.value)
        except DecodeError as wrong:
            self._leave_out(result, message, str(wrong))
            return
        file = self._open.get(message.topic)
        if file is None:  # not in the catalogue: its first record says what it holds
            file = self._open[message.topic] = TopicFile(result.file, type(record))
        if not isinstance(record, file.record):
            self._leave_out(result, message, f"{type(record).__name__} among {file.record.__name__} records")
            return
        try:
            file.write(record, Stamp(message.partition, message.offset, message.timestamp))
        except OSError as cause:
            raise _disk(result.file, cause) from cause
        result.written += 1

    def _leave_out(self, result: Recorded, message: Any, why: str) -> None:
        result.left_out += 1
        result.problem = result.problem or f"partition {message.partition}, offset {message.offset}: {why}"

    def flush(self) -> None:
        """Leave nothing in memory. Raises SpoolError: the disk failed."""
        for name, file in self._open.items():
            try:
                file.flush()
            except OSError as cause:
                raise _disk(self.files[name], cause) from cause

    def finish(self) -> None:
        """Give the files their names. Raises SpoolError: the disk failed; files before it are whole."""
        for name, file in self._open.items():
            try:
                file.finish()
            except OSError as cause:
                raise _disk(self.files[name], cause) from cause

    def drop(self) -> None:
        """Nothing was recorded: leave nothing."""
        for file in self._open.values():
            file.drop()


def record(
    bootstrap_servers: str,
    recorder: Recorder,
    *,
    since_us: int | None = None,
    until_us: int | None = None,
    limit: int | None = None,
    follow: bool = False,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Record until the end, the limit or `stop`. What was read before an error is kept, whole.

    Raises: UnavailableError: no broker, or no such topic. ConfigError: a file cannot be made. SpoolError: the disk
    failed.
    """
    flushed_s = time.monotonic()

    def stopped() -> bool:
        nonlocal flushed_s
        if begun and time.monotonic() - flushed_s > FLUSH_S:
            recorder.flush()
            flushed_s = time.monotonic()
        return stop()

    begun = False
    reading = records.messages(
        bootstrap_servers,
        list(recorder.files),
        since_us=since_us,
        until_us=until_us,
        limit=limit,
        follow=follow,
        stop=stopped,
    )
    try:
        recorder.begin()
        begun = True
        for message in reading:
            recorder.take(message)
            progress(1)
    except BaseException:
        if begun and any(result.written for result in recorder.results.values()):
            recorder.finish()
        else:
            recorder.drop()
        raise
    recorder.finish()


def places(names: Sequence[str], prefix: str, out: Path, *, force: bool = False) -> dict[str, Path]:
    """Where each topic goes: one topic into `out` when that ends with .avro, else into a folder, without the prefix.

    `names`: without prefix; `all` stands for the catalogue. Raises ConfigError: several topics for one file, or
    something is there already.
    """
    wanted = [t.name for t in topics.CATALOGUE] if list(names) == ["all"] else list(dict.fromkeys(names))
    if out.suffix == ".avro" and not out.is_dir():
        if len(wanted) > 1:
            raise ConfigError(
                "a file holds records of one topic", output=str(out), topics=wanted, fix="name a folder with -o"
            )
        found = {prefix + wanted[0]: out}
    else:
        for name in wanted:
            if "/" in name or name in ("", ".", ".."):
                raise ConfigError("not a topic name", topic=name)
        found = {prefix + name: out / f"{name}.avro" for name in wanted}
    there = [str(path) for path in found.values() if path.exists() or stamps_of(path).exists()]
    if there and not force:
        raise ConfigError("there is a recording already", file=there[0], fix="name another place, or give --force")
    return found


def _catalogued(name: str, prefix: str) -> Topic | None:
    try:
        return topics.by_name(name.removeprefix(prefix))
    except KeyError:
        return None


def _disk(path: Path, cause: OSError) -> SpoolError:
    return SpoolError("the recording cannot be written", file=str(path), cause=cause.strerror or str(cause))
