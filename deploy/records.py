"""Records of a topic for people: read from the broker, decoded, one line each. Whatever the bytes are, it is a line."""

from __future__ import annotations

import base64
import difflib
import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

from deploy.cluster import reach, unreachable
from deploy.text import safe, utc
from schemas.codec import BOOK, decode_any
from schemas.errors import DecodeError, UnavailableError
from schemas.records import Record

#: Longest wait of one poll: how soon Ctrl-C and the end of the topic are noticed.
_POLL_MS = 200


@dataclass(frozen=True)
class Line:
    """One record as it lay in the topic: decoded, or the reason why it could not be; both None for a tombstone."""

    topic: str
    partition: int
    offset: int
    stamped_ms: int  # broker's or producer's time, as the topic is configured; milliseconds since 1970
    key: bytes | None
    payload: bytes | None
    record: Record | None
    problem: str | None

    @classmethod
    def of(cls, message: Any) -> Line:
        """From what the Kafka client returns. Never raises for what is in it."""
        record, problem = None, None
        if message.value is not None:
            try:
                record = decode_any(message.value)
            except DecodeError as error:
                problem = str(error)
        return cls(
            message.topic,
            message.partition,
            message.offset,
            message.timestamp,
            message.key,
            message.value,
            record,
            problem,
        )

    def as_json(self) -> dict[str, Any]:
        """For programs: stable names; bytes as base64, times as they are on the wire."""
        out: dict[str, Any] = {
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "stamped_ms": self.stamped_ms,
            "key": None if self.key is None else self.key.decode(errors="backslashreplace"),
            "type": None if self.record is None else type(self.record).__name__,
            "record": None if self.record is None else plain(self.record),
        }
        if self.problem is not None:
            out |= {"problem": self.problem, "payload": plain(self.payload)}
        return out

    def as_text(self) -> str:
        """For people: `time topic/partition@offset key Type field=value …`. Nothing in it can steer a terminal."""
        return safe(self._text())

    def _text(self) -> str:
        whole = utc(self.stamped_ms * 1000)  # a producer may have stamped it with anything
        at = whole[11:23] if whole.endswith("Z") else whole
        key = "-" if self.key is None else self.key.decode(errors="backslashreplace")
        head = f"{at} {self.topic}/{self.partition}@{self.offset} {key}"
        if self.problem is not None:
            return f"{head} NOT READABLE: {self.problem}"
        if self.record is None:
            return f"{head} removed (tombstone)"
        times = _time_fields(type(self.record))
        values = (f"{f.name}={_short(getattr(self.record, f.name), f.name in times)}" for f in fields(self.record))
        return f"{head} {type(self.record).__name__} {' '.join(values)}"


def follow(
    bootstrap_servers: str, topic: str, *, start: str | int = "end", limit: int | None = None, follow: bool = True
) -> Iterator[Line]:
    """Records of every partition of `topic` as they come.

    Args:
        start: `beginning`, `end`, or how many microseconds ago.
        limit: end after so many.
        follow: go on at the end of the topic; else end where it ended at the start.

    Raises: UnavailableError: no broker answers, or it has no such topic.
    """
    since_us = time.time_ns() // 1000 - start if isinstance(start, int) else None
    reading = messages(bootstrap_servers, [topic], since_us=since_us, at_end=start == "end", limit=limit, follow=follow)
    return (Line.of(message) for message in reading)


def messages(
    bootstrap_servers: str,
    names: Sequence[str],
    *,
    since_us: int | None = None,
    until_us: int | None = None,
    at_end: bool = False,
    limit: int | None = None,
    follow: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Any]:
    """What the Kafka client returns for each record of some topics, undecoded, from their beginning.

    Args:
        names: of the topics, with their prefix.
        since_us: begin at the first record with this stamp or a later one, microseconds since 1970.
        until_us: end before the first record with this stamp or a later one; with `follow`, it may lie ahead.
        at_end: begin at the end.
        limit: end after so many.
        follow: go on at the end of the topics; else end where they ended at the start.
        stop: asked a few times a second; ends it.

    Raises: UnavailableError: no broker answers, or it has no such topic.
    """
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError

    reach(bootstrap_servers, timeout_s=10.0)
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=bootstrap_servers.split(","),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            bootstrap_timeout_ms=10_000,
        )
    except KafkaError as cause:
        raise unreachable(bootstrap_servers, cause) from cause
    try:
        partitions = [
            TopicPartition(name, number)
            for name in names
            for number in sorted(_partitions(consumer, name, bootstrap_servers))
        ]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        if until_us is not None and until_us <= time.time_ns() // 1000:
            ends, follow = ends | _offsets(consumer, partitions, until_us), False
        _seek(consumer, partitions, since_us, at_end, ends)
        left = limit
        while (left is None or left > 0) and not stop():
            if follow and until_us is not None and until_us <= time.time_ns() // 1000:
                ends = consumer.end_offsets(partitions) | _offsets(consumer, partitions, until_us)
                follow = False
            if not follow and all(consumer.position(p) >= ends[p] for p in partitions):
                return
            batches = consumer.poll(timeout_ms=_POLL_MS, max_records=500)
            # Partitions have no common order; the stamps give one that reads well. Within one, its own order stays.
            for message in heapq.merge(*batches.values(), key=lambda m: m.timestamp):
                if not follow and message.offset >= ends[TopicPartition(message.topic, message.partition)]:
                    continue
                if until_us is not None and message.timestamp * 1000 >= until_us:
                    continue
                yield message
                left = None if left is None else left - 1
                if left == 0:
                    return
    except KafkaError as cause:
        raise unreachable(bootstrap_servers, cause) from cause
    finally:
        consumer.close()


def _partitions(consumer: Any, name: str, bootstrap_servers: str) -> Iterable[int]:
    known: Iterable[int] | None = consumer.partitions_for_topic(name)
    if not known:
        near = difflib.get_close_matches(name, consumer.topics(), n=1)
        fix = f"did you mean {near[0]}?" if near else "make the topics with `tidegate topics apply`"
        raise UnavailableError("the broker has no such topic", topic=name, broker=bootstrap_servers, fix=fix)
    return known


def _offsets(consumer: Any, partitions: list[Any], at_us: int) -> dict[Any, int]:
    """First offset with that stamp or a later one, of the partitions that have one."""
    found = consumer.offsets_for_times(dict.fromkeys(partitions, max(0, -(-at_us // 1000))))
    return {partition: at.offset for partition, at in found.items() if at is not None}


def _seek(consumer: Any, partitions: list[Any], since_us: int | None, at_end: bool, ends: dict[Any, int]) -> None:
    if since_us is None and not at_end:
        consumer.seek_to_beginning(*partitions)
        return
    found = {} if since_us is None else _offsets(consumer, partitions, since_us)
    for partition in partitions:
        consumer.seek(partition, min(found.get(partition, ends[partition]), ends[partition]))


def plain(value: Any) -> Any:
    """A record, or a part of one, as JSON knows it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return value


def _short(value: Any, is_time: bool) -> str:
    """One field for people: hashes by their first 8 digits, other bytes by their size, times as times."""
    if isinstance(value, bytes):
        return value.hex()[:8] if len(value) == 32 else f"<{len(value)} bytes>"
    if is_time and isinstance(value, int):
        return utc(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, list) and value and is_dataclass(value[0]):
        return f"<{len(value)} items>"
    if isinstance(value, str):
        return value if value.isprintable() and " " not in value and value else repr(value)
    return str(value).replace(" ", "")


def _time_fields(record: type[Any]) -> set[str]:
    """Names of the fields that the schema says are times."""
    out = set()
    for field in BOOK.newest(record).source["fields"]:
        kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
        if any(isinstance(kind, dict) and kind.get("logicalType") == "timestamp-micros" for kind in kinds):
            out.add(field["name"])
    return out
