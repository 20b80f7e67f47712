"""What goes from `Split` to the branches, with coders: nothing is pickled where a runner puts a stage break."""

from __future__ import annotations

import struct
from typing import NamedTuple

from apache_beam import coders

from pipelines.io.chunk import Receipt
from schemas.codec import decode, encode
from schemas.errors import DecodeError
from schemas.records import EdgeAggregate, EdgeEvent, SensorBlock
from schemas.sketch import Sketch

_HEAD = struct.Struct("<qqqHHIIII")
#: In place of a number that is not known.
_NOT_KNOWN = -(1 << 63)
_LENGTH = struct.Struct("<I")


class Sighting(NamedTuple):
    """An aggregate, the offset it came from, and its statistics, which are read once to prove and to add them."""

    offset: int
    aggregate: EdgeAggregate
    sketch: Sketch


class Lanes(NamedTuple):
    """One poll chunk, decoded. A chunk comes from one topic, so at most one of the lists is not empty.

    Every chunk passes every branch, also with nothing in it for that branch: that is how a branch answers for it.
    """

    receipt: Receipt
    events: list[EdgeEvent]
    audits: list[SensorBlock]
    aggregates: list[Sighting]
    #: By event: how far its device's clock is ahead of the broker's, us; None where that is not known. Or empty.
    ahead_us: tuple[int | None, ...] = ()


class LanesCoder(coders.Coder):
    """Receipt, then the records as they travel on Kafka."""

    def encode(self, value: Lanes) -> bytes:
        """Bytes of one decoded chunk."""
        flow, topic, partition, begin, end = value.receipt
        names = flow.encode(), topic.encode()
        counts = len(value.events), len(value.audits), len(value.aggregates), len(value.ahead_us)
        out = [_HEAD.pack(partition, begin, end, len(names[0]), len(names[1]), *counts), *names]
        records: list[EdgeEvent | SensorBlock] = [*value.events, *value.audits]
        for record in records:
            payload = encode(record)
            out += [_LENGTH.pack(len(payload)), payload]
        for offset, aggregate, _ in value.aggregates:
            payload = encode(aggregate)
            out += [struct.pack("<q", offset), _LENGTH.pack(len(payload)), payload]
        known = [_NOT_KNOWN if each is None else each for each in value.ahead_us]
        return b"".join([*out, struct.pack(f"<{len(known)}q", *known)])

    def decode(self, encoded: bytes) -> Lanes:
        """Inverse of encode. Raises DecodeError."""
        try:
            partition, begin, end, flow_len, topic_len, *counts = _HEAD.unpack_from(encoded)
            at = _HEAD.size
            flow = encoded[at : at + flow_len].decode()
            topic = encoded[at + flow_len : at + flow_len + topic_len].decode()
            at += flow_len + topic_len
            events, at = _read(encoded, at, counts[0])
            audits, at = _read(encoded, at, counts[1])
            sightings = []
            for _ in range(counts[2]):
                (offset,) = struct.unpack_from("<q", encoded, at)
                (payload,), at = _read(encoded, at + 8, 1)
                aggregate = decode(payload, EdgeAggregate)
                sightings.append(Sighting(offset, aggregate, Sketch.from_aggregate(aggregate)))
            known = struct.unpack_from(f"<{counts[3]}q", encoded, at)
            at += 8 * len(known)
            if at != len(encoded):
                raise ValueError(f"{len(encoded)} bytes, of which {at} are spoken for")
        except (struct.error, UnicodeDecodeError, ValueError) as cause:
            raise DecodeError("an element between two steps is not a decoded chunk") from cause
        return Lanes(
            Receipt(flow, topic, partition, begin, end),
            [decode(payload, EdgeEvent) for payload in events],
            [decode(payload, SensorBlock) for payload in audits],
            sightings,
            tuple(None if each == _NOT_KNOWN else each for each in known),
        )

    def estimate_size(self, value: Lanes) -> int:
        """Beam asks this of almost every element, for a counter: as if all of a kind were as large as the first."""
        total = _HEAD.size
        if value.events:
            total += len(value.events) * len(encode(value.events[0]))
        if value.audits:
            total += len(value.audits) * len(encode(value.audits[0]))
        if value.aggregates:
            total += len(value.aggregates) * len(encode(value.aggregates[0].aggregate))
        return total

    def is_deterministic(self) -> bool:
        """The same records are always the same bytes."""
        return True

    def to_type_hint(self) -> type[Lanes]:
        """The type this coder is for."""
        return Lanes

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


def _read(data: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    out = []
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        out.append(data[at : at + length])
        at += length
    return out, at


coders.registry.register_coder(Lanes, LanesCoder)
