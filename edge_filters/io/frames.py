"""How a parcel lies in the spool: length, CRC-32, then lengths of topic and key, topic, key and payload.

The CRC is there because Avro has none: most single flipped bits in a record decode to another record in silence.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from edge_filters.outgoing import Parcel, Priority

HEAD, LENGTHS = 8, 2
MAX_FRAME_BYTES = 2 * 1024 * 1024


def frame(parcel: Parcel) -> bytes:
    """A parcel as it lies in a segment."""
    topic = parcel.topic.encode()
    body = bytes((len(topic), len(parcel.key))) + topic + parcel.key + parcel.payload
    return struct.pack("<II", len(body), zlib.crc32(body)) + body


def frame_bytes(parcel: Parcel) -> int:
    """Bytes that a parcel takes in the spool."""
    return HEAD + LENGTHS + len(parcel.topic) + len(parcel.key) + len(parcel.payload)


class Found(NamedTuple):
    """A parcel and where in the data the next one begins."""

    parcel: Parcel
    end: int


def frames(data: bytes, priority: Priority, at: int = 0) -> Iterator[Found]:
    """Whole and undamaged frames from `at` on; ends at the first that is not."""
    while at + HEAD + LENGTHS <= len(data):
        size, crc = struct.unpack_from("<II", data, at)
        start, end = at + HEAD, at + HEAD + size
        if not LENGTHS <= size <= MAX_FRAME_BYTES or end > len(data):
            return
        body = data[start:end]
        if zlib.crc32(body) != crc or LENGTHS + body[0] + body[1] > size:
            return
        topic_end = LENGTHS + body[0]
        key_end = topic_end + body[1]
        topic = body[LENGTHS:topic_end].decode(errors="replace")
        yield Found(Parcel(priority, topic, body[topic_end:key_end], body[key_end:]), end)
        at = end
