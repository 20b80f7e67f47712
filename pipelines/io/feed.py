"""The one consumer of a process: a thread that reads ahead, so that a pipeline's tick never waits for the network.

The thread owns the reader of the log: manual assignment, read_committed, no group membership (the group id names the
committed offsets, nothing else). It polls into one bounded buffer per partition and pauses a partition whose buffer
is full. A tick asks for the records at an offset; where the feed stands elsewhere it is told to seek and the tick
goes away empty-handed. The thread outlives everything the broker does: it waits for a missing broker or topic with
one sentence in the log, retries for ever (or until the start deadline), and names a gap when records were deleted
before they were read.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Protocol

from pipelines.io.chunk import Resume
from pipelines.io.commit_note import CommitNote
from pipelines.io.feed_config import FeedConfig, Start
from pipelines.io.memory import Remembered, load
from pipelines.io.partition import Partition
from pipelines.io.readahead import PER_RECORD, ReadAhead, Taken
from pipelines.io.transport import Committed, LogAway, LogReader, OffsetsGone, OpenReader, Read
from schemas.errors import DecodeError, MissingToolError, TidegateError, UnavailableError

log = logging.getLogger(__name__)

#: How long one poll may wait for data; also how long a seek can take to be noticed.
POLL_S = 0.05
MAX_POLL = 5_000
#: A poll that brought fewer records than this is followed by a short rest: a fetch per record costs half a core.
TRICKLE = 200
REST_S = 0.01
#: How often the broker is asked whether a silent partition has anything unread.
SILENCE_CHECK_S = 0.2
#: How long one request for offsets may take before it counts as "the broker was away for a moment".
SLOW_S = 1.0
#: How often partitions that were added later are looked for.
PARTITIONS_CHECK_S = 30.0
RETRY_S = 0.5


class Gate(Protocol):
    """Who commits the offsets that reading starts from, and has to be alone with that."""

    def fence(self) -> None:
        """Shut out everybody else. Asked again and again. Raises LogAway, TidegateError."""
        ...

    def begins(self, partition: Partition, committed: Committed | None) -> None:
        """What was committed when reading of a partition began."""
        ...


class Feed:
    """Reads all partitions of the configured topics ahead, in one thread. Thread-safe."""

    def __init__(self, config: FeedConfig, open_reader: OpenReader | None = None, gate: Gate | None = None) -> None:
        """`open_reader`: where the records are, if not where the configuration says. `gate`: see there."""
        self._config = config
        self._open = open_reader or config.reader
        self._gate = gate
        self._lock = threading.Lock()
        self._buffers: dict[Partition, ReadAhead] = {}
        self._starts: dict[Partition, Start] = {}
        self._failure: TidegateError | None = None
        self._stop = threading.Event()
        self._reader: LogReader | None = None
        self._asker: LogReader | None = None
        self._begun_s = self._away_since_s = self._settled_at_s = 0.0
        self._thread = threading.Thread(target=self._run, name=f"feed-{'+'.join(config.topics)}", daemon=True)

    def start(self) -> None:
        """Start reading. Raises MissingToolError: without crc32c kafka-python reads 20 times slower, in silence."""
        if importlib.util.find_spec("crc32c") is None:
            raise MissingToolError("the Python package crc32c is missing", fix="pip install crc32c")
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop the thread and close the consumer."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def starts(self) -> dict[Partition, Start]:
        """Every known partition with its starting point; empty until broker and topics have been found.

        Raises TidegateError: the feed gave up, UnavailableError when the start deadline has passed.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            return self._starts

    def take(self, partition: Partition, offset: int, max_records: int, max_bytes: int) -> Taken:
        """See ReadAhead.take; never blocks. Raises TidegateError: the feed gave up."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            buffer = self._buffers.get(partition)
            taken = Taken([], offset) if buffer is None else buffer.take(offset, max_records, max_bytes)
            if self._away_since_s or time.monotonic() < self._settled_at_s:
                return taken._replace(settling=True)
            return taken

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._begun_s = partitions_checked_s = silence_checked_s = time.monotonic()
        while not self._stop.is_set():
            try:
                if self._reader is None:
                    self._reader = self._open()
                reader, now_s = self._reader, time.monotonic()
                if not self._starts or now_s - partitions_checked_s > PARTITIONS_CHECK_S:
                    partitions_checked_s = now_s
                    if missing := self._find_partitions(reader):
                        self._wait("topics are missing: " + ", ".join(missing))
                        continue
                self._obey_seeks(reader)
                self._pause_full(reader)
                received = self._receive(reader.read(POLL_S, MAX_POLL))
                if now_s - silence_checked_s > SILENCE_CHECK_S:
                    silence_checked_s = now_s
                    self._check_silence(reader)
                if 0 < received < TRICKLE:
                    self._stop.wait(REST_S)
            except OffsetsGone as gone:
                self._jump(gone.asked)
            except LogAway as away:
                self._wait(str(away))
            except TidegateError as error:
                self._fail(error)
            except Exception as cause:  # the boundary of the thread: whoever takes from the feed is told
                log.exception("the Kafka feed hit an unexpected error")
                self._fail(TidegateError(f"the Kafka feed failed: {type(cause).__name__}: {cause}"))
        for used in (self._reader, self._asker):
            if used is not None:
                used.close()

    def _fail(self, error: TidegateError) -> None:
        """Hand an error to the ticks, which fail the job with it, and end the thread."""
        with self._lock:
            self._failure = error
        self._stop.set()

    def _wait(self, why: str) -> None:
        """The broker or a topic is away: one sentence per outage, then wait a little."""
        now_s, deadline_s = time.monotonic(), self._config.start_deadline_s
        servers, topics = self._config.bootstrap_servers, ", ".join(self._config.topics)
        if not self._starts and deadline_s is not None and now_s - self._begun_s > deadline_s:
            self._fail(
                UnavailableError(
                    f"the Kafka source found no way to start within {deadline_s:g} s: {why}",
                    fix="start the broker and create the topics, or allow a longer start deadline",
                    bootstrap_servers=servers,
                    topics=topics,
                )
            )
            return
        if not self._away_since_s:
            with self._lock:
                self._away_since_s = now_s
            log.warning("waiting for Kafka at %s (topics %s): %s; reading goes on by itself", servers, topics, why)
        self._stop.wait(RETRY_S)

    def _is_back(self) -> None:
        if self._away_since_s:
            now_s = time.monotonic()
            log.warning("Kafka is back after %.1f s; reading goes on", now_s - self._away_since_s)
            self._settle(now_s)

    def _settle(self, now_s: float) -> None:
        with self._lock:
            self._away_since_s, self._settled_at_s = 0.0, now_s + self._config.outage_grace_s

    def _find_partitions(self, reader: LogReader) -> list[str]:
        """Assign every partition of every topic, each where it stands or starts. Topics that are missing."""
        numbers = {topic: reader.partitions(topic) for topic in self._config.topics}
        if missing := [topic for topic, found in numbers.items() if not found]:
            return missing
        self._is_back()
        every = [Partition(topic, n) for topic, found in numbers.items() for n in found]
        starts = self._starting_points(reader, [p for p in every if p not in self._starts])
        if not starts:
            return []
        with self._lock:
            buffers = self._buffers | {p: ReadAhead(start.offset) for p, start in starts.items()}
        reader.assign({p: buffers[p].position for p in every})
        with self._lock:
            self._buffers = buffers
            self._starts = {**self._starts, **starts}
            for buffer in buffers.values():
                buffer.paused = False
        log.info("reading %d partitions of %s", len(every), ", ".join(self._config.topics))
        return []

    def _starting_points(self, reader: LogReader, new: Iterable[Partition]) -> dict[Partition, Start]:
        if not (partitions := list(new)):
            return {}
        if self._gate is not None:
            self._gate.fence()  # before the offsets are read: what another process commits later must not count
        first = reader.first(partitions)
        remembered = self._remembered()
        out: dict[Partition, Start] = {}
        for p in partitions:
            committed = reader.committed(p) if self._config.group_id is not None else None
            if self._gate is not None:
                self._gate.begins(p, committed)
            if committed is None:
                out[p] = Start(first[p], first[p], Resume(), True)
                continue
            try:
                resume = CommitNote.parse(committed.note).resume(committed.offset)
            except DecodeError as error:
                log.warning("the note beside the committed offset of %s[%d] is not used: %s", *p, error)
                resume = Resume(committed.offset)
            out[p] = self._start(first[p], committed.offset, resume, remembered.get(p))
        return out

    def _start(self, first: int, live_from: int, resume: Resume, kept: Remembered | None) -> Start:
        """Where a partition begins that was read before; `kept`: what the dedupe knew of it then."""
        if kept is None:
            warm_from = max(first, live_from - self._config.warm_up_records)
            return Start(min(warm_from, live_from), live_from, resume, warm_from == first)
        warm_from = max(first, kept.as_of, live_from - self._config.most_warm_up)
        known = {device: last for device, last in kept.devices.items() if last.offset < live_from}
        return Start(min(warm_from, live_from), live_from, resume, warm_from <= max(first, kept.as_of), known)

    def _remembered(self) -> dict[Partition, Remembered]:
        """What earlier runs have kept. Raises LogAway."""
        if not self._config.memory_topic or self._config.group_id is None:
            return {}
        reader = self._open()
        try:
            return load(reader, self._config.memory_topic, self._config.group_id)
        finally:
            reader.close()

    def _obey_seeks(self, reader: LogReader) -> None:
        with self._lock:
            for p, buffer in self._buffers.items():
                if buffer.seek is not None:
                    reader.seek(p, buffer.seek)
                    buffer.moved_to(buffer.seek)
                    buffer.paused = False

    def _pause_full(self, reader: LogReader) -> None:
        limit = max(1 << 20, self._config.buffer_bytes // max(1, len(self._buffers)))
        for p, buffer in self._buffers.items():
            if not buffer.paused and buffer.held_bytes >= limit:
                reader.pause(p)
                buffer.paused = True
            elif buffer.paused and buffer.held_bytes <= limit // 2:
                reader.resume(p)
                buffer.paused = False

    def _receive(self, polled: list[Read]) -> int:
        """Buffer what a poll brought; how many records it was."""
        if not polled:
            return 0
        self._is_back()
        now_s = time.monotonic()
        with self._lock:
            for partition, records, size in polled:
                self._buffers[partition].receive(records, size + PER_RECORD * len(records), now_s)
        return sum(len(read.records) for read in polled)

    def _check_silence(self, reader: LogReader) -> None:
        """Ask the broker which partitions, of those that have been silent for a while, have nothing unread."""
        since_s = time.monotonic() - self._config.silence_after_s
        silent = [
            p
            for p, buffer in self._buffers.items()
            if not buffer.waiting and buffer.seek is None and buffer.received_at_s <= since_s
        ]
        if not silent:
            return
        if self._asker is None:
            # Records of an open transaction are unread too, but to a read_committed reader the log ends before them.
            self._asker = self._open(read_committed=False)
        asked_at_us = time.time_ns() // 1000  # before asking: the answer speaks for an earlier moment, never a later
        begun_s = time.monotonic()
        ends = self._asker.ends(silent)
        self._is_back()
        if (now_s := time.monotonic()) - begun_s > SLOW_S:
            self._settle(now_s)
        with self._lock:
            for p in silent:
                position = reader.position(p)
                if position is not None and position >= ends[p]:
                    self._buffers[p].nothing_unread(position, asked_at_us)

    def _jump(self, asked: Mapping[Partition, int]) -> None:
        """Records were deleted before we read them, or the log was cut: say so, and go on where records are."""
        reader = self._reader
        if reader is None:
            return
        try:
            first = reader.first(asked)
        except LogAway as away:  # the partitions stand still; the next read names them again
            self._wait(str(away))
            return
        for p, told in asked.items():
            offset = told if told >= 0 else self._buffers[p].position
            start = first[p]
            where = f"{p.topic}[{p.number}]"
            if start > offset:
                gone = f"{start - offset} offsets, {offset} to {start - 1}, were deleted before they were read"
                log.error("%s: %s; their records are lost", where, gone)
            else:
                log.error(
                    "%s: the log was cut or created anew, offset %d is gone; reading from %d", where, offset, start
                )
            with self._lock:
                reader.seek(p, start)
                self._buffers[p].paused = False
                self._buffers[p].jump(offset, start)
