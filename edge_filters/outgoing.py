"""Records to parcels: bytes with the topic, key and lane they travel under. Pure."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from schemas import topics
from schemas.codec import encode, peek_identity
from schemas.records import ClaimKind, DeviceClaim, DeviceStatus, EdgeAggregate, EdgeEvent, GapMarker, SensorBlock
from schemas.topics import Topic
from schemas.tracing import Hop, headers_of

#: Before the device in the key of a knock, so that it does not take the place of the claim that it asks about.
KNOCK = b"knock:"

FromDevice = EdgeEvent | EdgeAggregate | SensorBlock


class Priority(IntEnum):
    """Lanes of the spool; a lower one goes first when the link is narrow.

    Where there is no room, the highest gives first. A random sample that is thinned out is still a random sample; an
    aggregate is one of many, and its readings were decided on; an event is what all of this is for. What names the
    records that were given up is given up itself by nobody.
    """

    URGENT = 0
    GAPS = 1
    BULK = 2
    SAMPLES = 3


class Parcel(NamedTuple):
    """One record ready for the wire. `topic` is the catalogue's name, without prefix; `key` is the device."""

    priority: Priority
    topic: str
    key: bytes
    payload: bytes


_WHERE: dict[type[FromDevice], tuple[Priority, Topic]] = {
    EdgeEvent: (Priority.URGENT, topics.EVENTS),
    EdgeAggregate: (Priority.BULK, topics.AGGREGATES),
    SensorBlock: (Priority.SAMPLES, topics.SAMPLES),
}


def pack(record: FromDevice) -> Parcel:
    """Parcel of a record of a device. Raises DecodeError: it is larger than its type may be."""
    priority, topic = _WHERE[type(record)]
    return Parcel(priority, topic.name, record.device_id.encode(), encode(record))


def pack_status(status: DeviceStatus) -> Parcel:
    """Parcel of a status. It goes past the spool: a newer status replaces an older one."""
    return Parcel(Priority.URGENT, topics.STATUS.name, status.device_id.encode(), encode(status))


def pack_gap(marker: GapMarker) -> Parcel:
    """Parcel of a gap marker. Only the spool makes them."""
    return Parcel(Priority.GAPS, topics.GAPS.name, marker.device_id.encode(), encode(marker))


def pack_claim(claim: DeviceClaim) -> Parcel:
    """Parcel of a claim. It goes past the spool, too: only now does it say anything."""
    key = claim.device_id.encode()
    if claim.kind is ClaimKind.KNOCK:
        key = KNOCK + key
    return Parcel(Priority.URGENT, topics.CLAIMS.name, key, encode(claim))


_TRACED = frozenset({topics.EVENTS.name, topics.SAMPLES.name})


def headers(parcel: Parcel) -> list[tuple[str, bytes]]:
    """Kafka headers of a parcel: the trace of a window that is sent. Derived when it leaves, so none is spooled."""
    if parcel.topic not in _TRACED:
        return []
    identity = peek_identity(parcel.payload)
    return [] if identity is None else list(headers_of(identity.event_id, Hop.EDGE))
