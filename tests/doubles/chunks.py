"""Poll chunks as the source hands them out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipelines.io.chunk import Chunk, Record
from schemas import records as r
from schemas import topics
from schemas.codec import encode

_TOPIC_OF = {r.EdgeEvent: topics.EVENTS, r.SensorBlock: topics.SAMPLES, r.EdgeAggregate: topics.AGGREGATES}
#: When the broker got the records, long after anything the other doubles make.
RECEIVED_MS = 1_000_000


def chunk(
    records: Iterable[Any],
    *,
    topic: str = "",
    prefix: str = "",
    begin: int = 0,
    partition: int = 3,
    received_ms: int = RECEIVED_MS,
    watermark_us: int = 0,
    **changes: Any,
) -> Chunk:
    """Records, bytes or None (a tombstone), with offsets from `begin`. The first record tells the topic."""
    values = list(records)
    name = topic or (prefix + _TOPIC_OF[type(values[0])].name)
    out = []
    for offset, value in enumerate(values, begin):
        payload = value if value is None or isinstance(value, bytes) else encode(value)
        out.append(Record(offset, b"key-%d" % offset, payload, received_ms))
    return Chunk("flow", name, partition, begin, begin + len(out), watermark_us, out, **changes)
