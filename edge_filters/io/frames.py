"""How a parcel lies in the spool: length, CRC-32C and number, then lengths of topic and key, topic, key and payload.

The CRC is there because Avro has none: most single flipped bits in a record decode to another record in silence. It
begins from a seed made of the spool's own name and the lane and covers the number, so that a frame counts only where it
was written: copied from another device, another lane or another place in the lane it is as good as damaged.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from crc32c import crc32c

from edge_filters.outgoing import Parcel, Priority

_HEAD, _SEALED, _NUMBER = struct.Struct("<IIQ"), struct.Struct("<IQ"), struct.Struct("<Q")
HEAD, LENGTHS = _HEAD.size, 2
MAX_FRAME_BYTES = 2 * 1024 * 1024
#: Set in the length of a frame that counts only together with the next one.
_MORE = 1 << 31
#: Numbers that are looked for behind damage: more records than that are not lost in one place.
_LOOK_AHEAD = 256
#: A size of at most MAX_FRAME_BYTES and not zero, with or without _MORE, then any CRC. Matches may overlap.
_SIZE_AND_CRC = rb"(?=(?!\0\0\0[\0\x80])..[\0-\x20][\0\x80]...."


def frame(parcel: Parcel, number: int, seed: int, *, more: bool = False) -> bytes:
    """A parcel as it lies in a segment; `more`: it is void without the frame that follows."""
    topic = parcel.topic.encode()
    body = bytes((len(topic), len(parcel.key))) + topic + parcel.key + parcel.payload
    size = len(body) | (_MORE if more else 0)
    return _HEAD.pack(size, crc32c(body, crc32c(_SEALED.pack(size, number), seed)), number) + body


def frame_bytes(parcel: Parcel) -> int:
    """Bytes that a parcel takes in the spool."""
    return HEAD + LENGTHS + len(parcel.topic) + len(parcel.key) + len(parcel.payload)


class Found(NamedTuple):
    """A parcel, its number, whether it needs the next one, and where in the data it begins and the next one does."""

    parcel: Parcel
    number: int
    more: bool
    begin: int
    end: int


def frames(
    data: bytes, priority: Priority, seed: int, expected: int, at: int = 0, *, search: bool = True
) -> Iterator[Found]:
    """Whole and undamaged frames from `at` on, numbered from `expected`; what is damaged between them is left out.

    Without `search` it ends at the first one that is not whole, as the last one of a part of a segment is.
    """
    while at < len(data):
        found = _frame_at(data, at, priority, seed)
        if found is None or found.number < expected:
            if not search:
                return
            found = _behind_damage(data, at, priority, seed, expected)
            if found is None:
                return
        yield found
        at, expected = found.end, found.number + 1


def _frame_at(data: bytes, at: int, priority: Priority, seed: int) -> Found | None:
    if at < 0 or at + HEAD + LENGTHS > len(data):
        return None
    raw_size, crc, number = _HEAD.unpack_from(data, at)
    size = raw_size & ~_MORE
    start, end = at + HEAD, at + HEAD + size
    if not LENGTHS <= size <= MAX_FRAME_BYTES or end > len(data):
        return None
    body = data[start:end]
    if crc32c(body, crc32c(_SEALED.pack(raw_size, number), seed)) != crc or LENGTHS + body[0] + body[1] > size:
        return None
    topic_end = LENGTHS + body[0]
    key_end = topic_end + body[1]
    topic = body[LENGTHS:topic_end].decode(errors="replace")
    return Found(
        Parcel(priority, topic, body[topic_end:key_end], body[key_end:]), number, bool(raw_size & _MORE), at, end
    )


def _behind_damage(data: bytes, at: int, priority: Priority, seed: int, expected: int) -> Found | None:
    """The whole frame with the lowest number that can be behind damage, found by what its head looks like.

    One pass for all numbers: a power cut leaves megabytes of zeros, and every start would look for each number in them.
    """
    places: list[tuple[int, int]] = []
    last = expected + _LOOK_AHEAD - 1
    for top in sorted({expected >> 8, last >> 8}):
        low, high = max(expected, top << 8) & 0xFF, min(last, (top << 8) + 0xFF) & 0xFF
        number = b"[" + re.escape(bytes([low])) + b"-" + re.escape(bytes([high])) + b"]"
        head = re.compile(_SIZE_AND_CRC + number + re.escape(top.to_bytes(7, "little")) + b")", re.DOTALL)
        for match in head.finditer(data, at):
            place = match.start()
            places.append((int.from_bytes(data[place + 8 : place + 16], "little"), place))
    for wanted, place in sorted(places):
        found = _frame_at(data, place, priority, seed)
        if found is not None and found.number == wanted:
            return found
    return None


# -- the head of a segment --------------------------------------------------------------------------------------------

_MAGIC = b"TGSPOOL2"
_OWNER = struct.Struct("<8s16sQQI4x")
OWNER_BYTES = _OWNER.size


class Owner(NamedTuple):
    """Where a segment belongs: the name of its spool, 16 random bytes, the lane, and the number of its first parcel."""

    spool: bytes
    lane: Priority
    first: int

    def seed(self) -> int:
        """What the CRCs of its frames begin from."""
        return int(crc32c(bytes((self.lane,)), crc32c(self.spool)))

    def packed(self) -> bytes:
        """The first bytes of the segment."""
        raw = _OWNER.pack(_MAGIC, *self, 0)
        return raw[:-8] + struct.pack("<I4x", crc32c(raw[:-8]))

    @classmethod
    def of(cls, data: bytes) -> Owner | None:
        """Inverse of `packed`; None: damaged, or no segment."""
        if len(data) < OWNER_BYTES or data[:8] != _MAGIC:
            return None
        _, spool, lane, first, crc = _OWNER.unpack_from(data)
        if crc32c(data[: OWNER_BYTES - 8]) != crc or lane not in set(Priority):
            return None
        return cls(spool, Priority(lane), first)


# -- how far a lane is acknowledged -----------------------------------------------------------------------------------

_SLOT = struct.Struct("<QQI")
#: Far enough apart that no disk tears both in one write.
SLOT_APART = 512


def slot(turn: int, acked: int, seed: int) -> bytes:
    """One of the two places in which the pointer of a lane is written by turns."""
    raw = struct.pack("<QQ", turn, acked)
    return raw + struct.pack("<I", crc32c(raw, seed))


def read_slots(data: bytes, seed: int) -> tuple[int, int, int]:
    """Turn and number of the newest slot that is whole, and which one it is; zeros where none is."""
    best = (0, 0, 0)
    for side in (0, 1):
        at = side * SLOT_APART
        if at + _SLOT.size <= len(data):
            turn, acked, crc = _SLOT.unpack_from(data, at)
            if crc32c(data[at : at + 16], seed) == crc:
                best = max(best, (turn, acked, side))
    return best
