"""What lies in the topics, gathered by device, life and lane. Pure: it keeps numbers and hashes, never payloads."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from schemas import topics
from schemas.codec import encode, peek_identity
from schemas.ids import Identity
from schemas.records import Decision, DeviceStatus, EdgeAggregate, EdgeEvent, Failure, GapMarker, SensorBlock

#: Lanes a device sends on, in the order in which they are shown.
LANES = (topics.EVENTS.name, topics.AGGREGATES.name, topics.SAMPLES.name)
_RECORD = {topics.EVENTS.name: EdgeEvent, topics.AGGREGATES.name: EdgeAggregate, topics.SAMPLES.name: SensorBlock}


class Place(NamedTuple):
    """Where a record lies. `stamped_ms`: milliseconds by the topic's clock; -1s where a file does not tell."""

    topic: str
    partition: int = -1
    offset: int = -1
    stamped_ms: int = -1


class Sum(NamedTuple):
    """What an aggregate says of its window [start_us, end_us), event time in microseconds."""

    start_us: int
    end_us: int
    readings: int
    escalated: int


class SeenEvent(NamedTuple):
    """One event. `sensed_to`: event time, microseconds. `places`: where it lies, several when it was sent again."""

    sensed_to: int
    places: tuple[Place, ...]


@dataclass(slots=True)
class LaneBook:
    """Records of one life on one lane, by sequence number."""

    seen: dict[int, bytes] = field(default_factory=dict)
    again: Counter[int] = field(default_factory=Counter)
    differing: set[int] = field(default_factory=set)

    def take(self, seq: int, mark: bytes) -> None:
        """Note a record; `mark` is a hash of it."""
        first = self.seen.setdefault(seq, mark)
        if first is not mark:
            self.again[seq] += 1
            if first != mark:
                self.differing.add(seq)


@dataclass(slots=True)
class LifeBook:
    """One life of one device: from one start of its process to the next."""

    device_id: str
    boot_epoch: int
    report: DeviceStatus | None = None
    lanes: dict[str, LaneBook] = field(default_factory=lambda: {lane: LaneBook() for lane in LANES})
    events: dict[int, SeenEvent] = field(default_factory=dict)
    sums: dict[int, Sum] = field(default_factory=dict)
    decided: LaneBook = field(default_factory=LaneBook)
    audit_rate: float = 0.0
    given_up: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: {lane: [] for lane in LANES})


class Book:
    """Everything that was read. `checks_decisions` is False where decisions were not looked at."""

    def __init__(self) -> None:
        self.lives: dict[tuple[str, int], LifeBook] = {}
        self.dead: dict[tuple[str, int, int], str] = {}
        self.unreadable: list[tuple[Place, str]] = []
        self.cut: set[str] = set()  # topics whose beginning was not read
        self.committed: dict[tuple[str, int], int] = {}  # by topic and partition: what the pipeline has answered
        self.missing: set[str] = set()  # lanes that were not recorded at all
        self.records = 0
        self.checks_decisions = True
        self.newest_ms = 0
        self._first: dict[tuple[str, int], int] = {}

    def life(self, identity: Identity) -> LifeBook:
        """Of a record's device, made when it is the first."""
        key = identity.device_id, identity.boot_epoch
        found = self.lives.get(key)
        if found is None:
            found = self.lives[key] = LifeBook(*key)
        return found

    def by_device(self) -> Iterator[tuple[str, list[LifeBook]]]:
        """Devices in their order, each with its lives in theirs."""
        devices: dict[str, list[LifeBook]] = {}
        for key in sorted(self.lives):
            devices.setdefault(key[0], []).append(self.lives[key])
        yield from devices.items()

    def take(self, place: Place, record: Any) -> None:
        """Note one record of any topic; what does not belong there is unreadable."""
        self._reached(place)
        lane = place.topic
        if isinstance(record, DeviceStatus) and lane == topics.STATUS.name:
            life = self.life(record.identity)
            if life.report is None or record.seq >= life.report.seq:
                life.report = record
        elif isinstance(record, Decision) and lane == topics.DECISIONS.name:
            self.life(record.identity).decided.take(record.seq, _mark(record))
        elif isinstance(record, GapMarker) and lane == topics.GAPS.name and record.lane in LANES:
            self.life(record.identity).given_up[record.lane] += record.runs
        elif isinstance(record, Failure) and lane == topics.DEAD_LETTERS.name:
            self._dead(record)
        elif isinstance(record, EdgeEvent | EdgeAggregate | SensorBlock) and type(record) is _RECORD.get(lane):
            self._sent(place, record)
        else:
            self.unreadable.append((place, f"{type(record).__name__} in {lane}"))

    def take_unreadable(self, place: Place, payload: bytes, problem: str) -> None:
        """Note a record that does not decode; where it still tells its identity, it counts as arrived."""
        self._reached(place)
        self.unreadable.append((place, problem))
        identity = peek_identity(payload)
        if identity is not None and place.topic in LANES:
            self.life(identity).lanes[place.topic].take(identity.seq, _hash(payload))

    def _reached(self, place: Place) -> None:
        self.records += 1
        self.newest_ms = max(self.newest_ms, place.stamped_ms)
        if place.offset > 0 and (place.topic, place.partition) not in self._first:
            self.cut.add(place.topic)
        self._first.setdefault((place.topic, place.partition), place.offset)

    def _sent(self, place: Place, record: EdgeEvent | EdgeAggregate | SensorBlock) -> None:
        life, seq = self.life(record.identity), record.seq
        life.lanes[place.topic].take(seq, _mark(record))
        if isinstance(record, EdgeEvent):
            before = life.events.get(seq)
            life.events[seq] = SeenEvent(record.sensed_to, (*(before.places if before else ()), place))
        elif isinstance(record, EdgeAggregate):
            life.sums[seq] = Sum(record.window_start, record.window_end, record.readings, record.windows_escalated)
        else:
            life.audit_rate = record.sampled_at_rate

    def _dead(self, failure: Failure) -> None:
        lane = next((lane for lane in LANES if failure.source == lane or failure.source.endswith("." + lane)), "")
        if lane:
            self.dead[lane, failure.partition, failure.offset] = failure.reason


def _mark(record: Any) -> bytes:
    return _hash(encode(record))


def _hash(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=8).digest()
