"""A plain reader of topics, as any customer would write one: a Kafka client, fastavro and the schema files. No codec,
pipeline or deploy code of the product is used.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form
from kafka import KafkaConsumer, TopicPartition

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas" / "avro"


class Unreadable(Exception):
    """Bytes that are no record of ours."""


@dataclass(frozen=True, slots=True)
class Message:
    """One record as it lies in a topic."""

    partition: int
    offset: int
    key: bytes
    value: bytes


def _plain(schema: Any) -> Any:
    """Without logical types, so that times stay integers."""
    if isinstance(schema, dict):
        return {name: _plain(value) for name, value in schema.items() if name != "logicalType"}
    return [_plain(item) for item in schema] if isinstance(schema, list) else schema


def _load() -> dict[bytes, Any]:
    found = {}
    for path in SCHEMAS.glob("*.avsc"):
        schema = json.loads(path.read_text())
        rabin = fingerprint(to_parsing_canonical_form(copy.deepcopy(schema)), "CRC-64-AVRO")
        found[b"\xc3\x01" + bytes.fromhex(rabin)[::-1]] = fastavro.parse_schema(_plain(schema))
    return found


_BY_HEADER = _load()


def decode(value: bytes) -> dict[str, Any]:
    """The fields of a record, and its name as `""`. Raises Unreadable."""
    schema = _BY_HEADER.get(value[:10])
    if schema is None:
        raise Unreadable(f"unknown header {value[:10].hex()}")
    body = io.BytesIO(value[10:])
    try:
        fields: Any = fastavro.schemaless_reader(body, schema)
    except Exception as cause:
        raise Unreadable(f"{type(cause).__name__}: {cause}") from cause
    if body.read(1):
        raise Unreadable("bytes behind the record")
    return {"": schema["name"].rpartition(".")[2], **fields}


def consumer(servers: str, *, committed: bool = True) -> KafkaConsumer:
    """A client that reads from the beginning and belongs to no group."""
    return KafkaConsumer(
        bootstrap_servers=servers,
        bootstrap_timeout_ms=30_000,
        isolation_level="read_committed" if committed else "read_uncommitted",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )


def read_all(servers: str, topic: str, *, committed: bool = True) -> list[Message]:
    """Everything that is in a topic now, in the order of each partition."""
    reader = consumer(servers, committed=committed)
    try:
        partitions = [TopicPartition(topic, number) for number in sorted(reader.partitions_for_topic(topic) or ())]
        if not partitions:
            raise LookupError(f"no topic {topic}")
        reader.assign(partitions)
        reader.seek_to_beginning(*partitions)
        ends = reader.end_offsets(partitions)
        found: list[Message] = []
        while any(reader.position(p) < ends[p] for p in partitions):
            for messages in reader.poll(timeout_ms=500).values():
                found += [Message(m.partition, m.offset, m.key or b"", m.value or b"") for m in messages]
        return sorted(found, key=lambda m: (m.partition, m.offset))
    finally:
        reader.close()


def positions(servers: str, group: str, topic: str) -> dict[int, int]:
    """Offsets that a group has committed, by partition."""
    reader = KafkaConsumer(
        bootstrap_servers=servers, bootstrap_timeout_ms=30_000, group_id=group, enable_auto_commit=False
    )
    try:
        found = {
            n: reader.committed(TopicPartition(topic, n)) for n in sorted(reader.partitions_for_topic(topic) or ())
        }
        return {number: offset for number, offset in found.items() if offset is not None}
    finally:
        reader.close()


def decoded(messages: Iterable[Message]) -> Iterator[tuple[Message, dict[str, Any] | None, str]]:
    """Each message with its fields; or with None and the reason where it is no record."""
    for message in messages:
        try:
            yield message, decode(message.value), ""
        except Unreadable as wrong:
            yield message, None, str(wrong)
