"""The one consumer of a process: a thread that reads ahead, so that a pipeline's tick never waits for the network.

The thread owns the KafkaConsumer: manual assignment, read_committed, no group membership (the group id names the
committed offsets, nothing else). It polls into one bounded buffer per partition and pauses a partition whose buffer
is full. A tick asks for the records at an offset; where the feed stands elsewhere it is told to seek and the tick
goes away empty-handed. The thread outlives everything the broker does: it waits for a missing broker or topic with
one sentence in the log, retries for ever (or until `start_deadline_s`), and names a gap when records were deleted
before they were read.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from pipelines.io.chunk import Record, Resume
from pipelines.io.commit_note import CommitNote
from pipelines.io.partition import Partition
from schemas.errors import ConfigError, DecodeError, TidegateError, UnavailableError

log = logging.getLogger(__name__)

#: How long one poll may wait for data; also how long a seek can take to be noticed.
POLL_MS = 50
#: How often the broker is asked whether a silent partition has anything unread.
SILENCE_CHECK_S = 0.2
#: How long one request for offsets may take before it counts as "the broker is away".
REQUEST_MS = 5_000
#: How often partitions that were added later are looked for.
PARTITIONS_CHECK_S = 30.0
RETRY_S = 0.5
#: A poll that brought fewer records than this is followed by a short rest: a fetch per record costs half a core.
TRICKLE = 200
REST_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedConfig:
    """What a feed reads and how much it may hold.

    topics:             read together by one consumer; all of them must exist before anything is handed out.
    group_id:           names the committed offsets to start from; None starts at the beginning, without commits.
    client:             further settings of kafka-python's consumer (TLS, SASL, ...).
    start_deadline_s:   how long the broker and the topics may be missing at start; None waits for ever.
    buffer_bytes:       of one partition; reading of it pauses above that.
    warm_up_records:    how many records before the committed offset are read again, for what they tell the dedupe.
    """

    topics: tuple[str, ...]
    bootstrap_servers: str
    group_id: str | None = None
    client: Mapping[str, Any] = field(default_factory=dict)
    start_deadline_s: float | None = None
    buffer_bytes: int = 4 << 20
    warm_up_records: int = 0
    silence_after_s: float = 0.5

    def __post_init__(self) -> None:
        if not self.topics:
            raise ConfigError("a Kafka source needs at least one topic")
        unknown = sorted(set(self.client) - set(KafkaConsumer.DEFAULT_CONFIG))
        if unknown:
            raise ConfigError("settings that kafka-python's consumer does not have", settings=unknown)

    def consumer(self, **extra: Any) -> KafkaConsumer:
        """A consumer with our fixed settings. Raises KafkaError: the broker is not there."""
        return KafkaConsumer(
            **{
                "request_timeout_ms": 10_000,
                "bootstrap_timeout_ms": 5_000,
                "reconnect_backoff_max_ms": 1_000,
                "metadata_max_age_ms": 30_000,
                **self.client,
                "bootstrap_servers": self.bootstrap_servers,
                "group_id": self.group_id,
                "enable_auto_commit": False,
                "auto_offset_reset": "none",
                "isolation_level": "read_committed",
                "allow_auto_create_topics": False,
                "metrics_enabled": False,
                **extra,
            }
        )


class Start(NamedTuple):
    """Where reading of a partition begins: at `offset`, as the commit of an earlier run in `resume` tells.

    Records from `offset` up to `live_from` are only for warming up the dedupe.
    """

    offset: int
    live_from: int
    resume: Resume


class Taken(NamedTuple):
    """Answer to one tick for one partition.

    `end` is the offset to ask for next. `lost_from` is -1, or the first offset that the broker no longer had.
    `nothing_unread_at_us` is None, or the moment at which the broker, asked later than that, had nothing unread.
    """

    records: list[Record]
    end: int
    lost_from: int
    nothing_unread_at_us: int | None
    more: bool


@dataclass(slots=True)
class _Buffer:
    """Read-ahead of one partition.

    `next` is the offset that the next tick must ask for, `position` the one that the consumer reads next, `jump`
    the pair (first lost offset or -1, offset to go on at) when the log no longer has what comes next.
    """

    next: int = -1
    position: int = -1
    batches: deque[list[Record]] = field(default_factory=deque)
    held_bytes: int = 0
    paused: bool = False
    seek: int | None = None
    jump: tuple[int, int] | None = None
    received_at_s: float = 0.0
    nothing_unread_at_us: int | None = None


class Feed:
    """Reads all partitions of the configured topics ahead, in one thread. Thread-safe."""

    def __init__(self, config: FeedConfig) -> None:
        self._config = config
        self._lock = threading.Condition()
        self._buffers: dict[Partition, _Buffer] = {}
        self._starts: dict[Partition, Start] = {}
        self._failure: TidegateError | None = None
        self._stop = threading.Event()
        self._consumer: KafkaConsumer | None = None
        self._away_since_s: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"feed-{'+'.join(config.topics)}", daemon=True)

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop the thread and close the consumer."""
        self._stop.set()
        with self._lock:
            self._lock.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def starts(self) -> dict[Partition, Start]:
        """Every known partition with its starting point; empty until broker and topics have been found.

        Raises UnavailableError: they were not found within the deadline.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            return dict(self._starts)

    def wait_for_data(self, timeout_s: float) -> None:
        """Return when records are waiting, or after `timeout_s`."""
        with self._lock:
            self._lock.wait_for(lambda: any(b.batches for b in self._buffers.values()), timeout_s)

    def take(self, partition: Partition, offset: int, max_records: int, max_bytes: int) -> Taken:
        """Records from `offset` on, at most so many. Never blocks; empty when the feed has to move there first.

        Raises UnavailableError: the start deadline has passed.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            buffer = self._buffers.get(partition)
            if buffer is None:
                return Taken([], offset, -1, None, False)
            if buffer.next != offset:
                if buffer.seek != offset:
                    buffer.seek = offset
                return Taken([], offset, -1, None, False)
            if buffer.jump is not None and (not buffer.batches or buffer.batches[0][0].offset >= buffer.jump[1]):
                (lost_from, buffer.next), buffer.jump = buffer.jump, None
                return Taken([], buffer.next, lost_from, None, bool(buffer.batches))
            records = self._cut(buffer, max_records, max_bytes)
            if records:
                buffer.next = records[-1].offset + 1
            quiet = None if buffer.batches or records else buffer.nothing_unread_at_us
            return Taken(records, buffer.next, -1, quiet, bool(buffer.batches))

    @staticmethod
    def _cut(buffer: _Buffer, max_records: int, max_bytes: int) -> list[Record]:
        out: list[Record] = []
        size = 0
        while buffer.batches and len(out) < max_records and size < max_bytes:
            batch = buffer.batches.popleft()
            room = max_records - len(out)
            if len(batch) > room:
                buffer.batches.appendleft(batch[room:])
                batch = batch[:room]
            out += batch
            size += _size(batch)
        buffer.held_bytes -= size
        return out

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        checked_s = partitions_checked_s = time.monotonic()
        begun_s = partitions_checked_s
        while not self._stop.is_set():
            try:
                if self._consumer is None:
                    self._consumer = self._config.consumer()
                now_s = time.monotonic()
                if not self._starts or now_s - partitions_checked_s > PARTITIONS_CHECK_S:
                    partitions_checked_s = now_s
                    if not self._find_partitions(self._consumer):
                        self._still_waiting(begun_s, "topics are missing")
                        continue
                self._apply_seeks(self._consumer)
                self._pause_full(self._consumer)
                received = self._receive(self._consumer, self._consumer.poll(timeout_ms=POLL_MS, max_records=5_000))
                if 0 < received < TRICKLE:
                    self._stop.wait(REST_S)
                if time.monotonic() - checked_s > SILENCE_CHECK_S:
                    self._check_silence(self._consumer)
                    checked_s = time.monotonic()
            except OffsetOutOfRangeError as error:
                self._note_loss(error)
            except (KafkaError, OSError) as error:
                self._still_waiting(begun_s, f"{type(error).__name__}: {error}")
            except TidegateError as error:
                self._fail(error)
            except Exception as cause:
                log.exception("the Kafka feed hit an unexpected error")
                self._fail(TidegateError(f"the Kafka feed failed: {type(cause).__name__}: {cause}"))
        if self._consumer is not None:
            self._consumer.close(autocommit=False, timeout_ms=1_000)

    def _fail(self, error: TidegateError) -> None:
        """Hand an error to the ticks, which fail the job with it, and end the thread."""
        with self._lock:
            self._failure = error
        self._stop.set()

    def _still_waiting(self, begun_s: float, why: str) -> None:
        """Note that the broker or a topic is away: one sentence per outage, then wait a little."""
        now_s = time.monotonic()
        where = {"bootstrap_servers": self._config.bootstrap_servers, "topics": list(self._config.topics)}
        deadline_s = self._config.start_deadline_s
        if not self._starts and deadline_s is not None and now_s - begun_s > deadline_s:
            self._fail(
                UnavailableError(
                    f"the Kafka source found no way to start within {deadline_s:g} s: {why}",
                    fix="start the broker and create the topics, or wait longer (start deadline)",
                    **where,
                )
            )
            return
        if self._away_since_s is None:
            self._away_since_s = now_s
            log.warning("waiting for Kafka at %(bootstrap_servers)s, topics %(topics)s", where)
            log.warning("the reason to wait: %s; reading goes on by itself when it is gone", why)
        self._stop.wait(RETRY_S)

    def _back(self) -> None:
        if self._away_since_s is not None:
            log.warning("Kafka is back after %.1f s; reading goes on", time.monotonic() - self._away_since_s)
            self._away_since_s = None

    def _find_partitions(self, consumer: KafkaConsumer) -> bool:
        """Assign every partition of every topic, each at its starting point. False while a topic is missing."""
        found: list[Partition] = []
        for topic in self._config.topics:
            numbers = consumer.partitions_for_topic(topic)
            if not numbers:
                return False
            found += [Partition(topic, n) for n in sorted(numbers)]
        new = [p for p in found if p not in self._starts]
        if not new:
            return True
        starts = self._starting_points(consumer, new)
        positions = {p: b.position for p, b in self._buffers.items()}
        consumer.assign([TopicPartition(*p) for p in found])
        for p, start in starts.items():
            positions[p] = start.offset
        for p in found:
            consumer.seek(TopicPartition(*p), positions[p])
        consumer.resume(*(TopicPartition(*p) for p in found))
        with self._lock:
            for p, start in starts.items():
                self._buffers[p] = _Buffer(next=start.offset, position=start.offset)
            for b in self._buffers.values():
                b.paused = False
            self._starts = {**self._starts, **starts}
        log.info("reading %d partitions of %s", len(found), ", ".join(self._config.topics))
        return True

    def _starting_points(self, consumer: KafkaConsumer, new: Iterable[Partition]) -> dict[Partition, Start]:
        tps = {p: TopicPartition(*p) for p in new}
        first = consumer.beginning_offsets(list(tps.values()), timeout_ms=REQUEST_MS)
        out: dict[Partition, Start] = {}
        for p, tp in tps.items():
            committed = consumer.committed(tp, metadata=True, timeout_ms=REQUEST_MS) if self._config.group_id else None
            if committed is None or committed.offset < 0:
                out[p] = Start(first[tp], first[tp], Resume())
                continue
            try:
                resume = CommitNote.parse(committed.metadata or "").resume(committed.offset)
            except DecodeError as error:
                log.warning("the note beside a committed offset is not ours, it is not used: %s", error)
                resume = Resume(committed.offset)
            warm_from = max(first[tp], committed.offset - self._config.warm_up_records)
            out[p] = Start(min(warm_from, committed.offset), committed.offset, resume)
        return out

    def _apply_seeks(self, consumer: KafkaConsumer) -> None:
        with self._lock:
            wanted = [(p, b, b.seek) for p, b in self._buffers.items() if b.seek is not None]
            for p, b, offset in wanted:
                b.batches.clear()
                b.held_bytes, b.seek, b.jump = 0, None, None
                b.next = b.position = offset
                b.nothing_unread_at_us = None
                consumer.seek(TopicPartition(*p), offset)

    def _pause_full(self, consumer: KafkaConsumer) -> None:
        limit = self._config.buffer_bytes
        for p, b in self._buffers.items():
            if not b.paused and b.held_bytes >= limit:
                consumer.pause(TopicPartition(*p))
                b.paused = True
            elif b.paused and b.held_bytes <= limit // 2:
                consumer.resume(TopicPartition(*p))
                b.paused = False

    def _receive(self, consumer: KafkaConsumer, polled: Mapping[TopicPartition, list[Any]]) -> int:
        """Buffer what a poll brought; how many records it was."""
        if not polled:
            return 0
        self._back()
        now_s = time.monotonic()
        with self._lock:
            for tp, raw in polled.items():
                buffer = self._buffers[Partition(tp.topic, tp.partition)]
                records = [Record(r.offset, r.key, r.value, r.timestamp) for r in raw]
                buffer.batches.append(records)
                buffer.held_bytes += _size(records)
                buffer.position = records[-1].offset + 1
                buffer.received_at_s = now_s
                buffer.nothing_unread_at_us = None
            self._lock.notify_all()
        return sum(map(len, polled.values()))

    def _check_silence(self, consumer: KafkaConsumer) -> None:
        """Ask the broker which partitions, of those that have been silent for a while, have nothing unread."""
        now_s = time.monotonic()
        silent = [
            (p, b)
            for p, b in self._buffers.items()
            if not b.batches and b.seek is None and now_s - b.received_at_s >= self._config.silence_after_s
        ]
        if not silent:
            return
        asked_at_us = time.time_ns() // 1000  # before the question: an answer speaks for an earlier moment, never later
        ends = consumer.end_offsets([TopicPartition(*p) for p, _ in silent], timeout_ms=REQUEST_MS)
        self._back()
        with self._lock:
            for p, b in silent:
                tp = TopicPartition(*p)
                position = consumer.position(tp, timeout_ms=0)
                if position is not None and position >= ends[tp] and b.seek is None:
                    b.position = position
                    b.nothing_unread_at_us = asked_at_us

    def _note_loss(self, error: OffsetOutOfRangeError) -> None:
        """Records were deleted before we read them, or the log was cut: name the gap, go on where records are."""
        consumer = self._consumer
        if consumer is None:
            return
        asked: Mapping[TopicPartition, int] = error.args[0]
        first = consumer.beginning_offsets(list(asked), timeout_ms=REQUEST_MS)
        for tp, offset in asked.items():
            start = first[tp]
            if start > offset:
                log.error(
                    "%s[%d]: offsets %d to %d (%d) were deleted by the broker before they were read; they are lost",
                    tp.topic, tp.partition, offset, start - 1, start - offset,
                )  # fmt: skip
            else:
                log.error(
                    "%s[%d]: offset %d is beyond the end of the log, which was cut or created anew; reading it from %d",
                    tp.topic, tp.partition, offset, start,
                )  # fmt: skip
            with self._lock:
                buffer = self._buffers[Partition(tp.topic, tp.partition)]
                consumer.seek(tp, start)
                buffer.position = start
                if start <= offset:
                    buffer.batches.clear()
                    buffer.held_bytes = 0
                buffer.jump = (offset if start > offset else -1, start)
                buffer.nothing_unread_at_us = None


def _size(records: list[Record]) -> int:
    return sum(len(r.value or b"") + len(r.key or b"") + 64 for r in records)
