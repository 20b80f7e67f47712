"""Between the engine and the outbox: everything is spooled first, urgent lanes go first, nothing is forgotten early.

The only decisions about sending are here: how much may be on its way, what is sent again after a loss, what is given
up. Parcels go straight from memory while the link keeps up; after an outage they are read back from the spool.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from edge_filters.outgoing import Parcel, Priority
from edge_filters.ports import Delivery, Outbox, Spool

#: Parcels and bytes on their way at most: enough to fill the link, small beside the memory of a device.
MAX_ON_THE_WAY = 1024
MAX_BYTES_ON_THE_WAY = 3 * 1024 * 1024
#: Share of both that lanes behind the urgent one leave free, so that an event never waits for their acknowledgements.
LEFT_FOR_URGENT = 0.25
_READ_RECORDS, _READ_BYTES = 256, 256 * 1024


class Courier:
    """Moves parcels from the spool to the outbox. One thread."""

    def __init__(self, spool: Spool, outbox: Outbox) -> None:
        self._spool = spool
        self._outbox = outbox
        self._next = {lane: spool.first(lane) for lane in Priority}
        self._away: dict[Priority, deque[tuple[int, Parcel, Any]]] = {lane: deque() for lane in Priority}
        self._bytes_away = self._count_away = 0
        self._lost = self._said_lost = False
        self.acked: Counter[bytes] = Counter()
        self.acked_bytes: Counter[bytes] = Counter()
        self.refused: Counter[bytes] = Counter()
        self.lost_total = self.refused_total = 0
        self.notices: list[str] = []

    @property
    def idle(self) -> bool:
        """Whether everything was acknowledged."""
        return all(self._spool.first(lane) >= self._spool.end(lane) for lane in Priority)

    def put(self, parcels: Sequence[Parcel]) -> None:
        """Spool parcels and, while the link keeps up, hand them straight to the outbox. Raises SpoolError."""
        if not parcels:
            return
        starts = self._spool.append(parcels)
        if self._lost or not self._outbox.ready:
            return
        keeping_up = {lane for lane, start in starts.items() if self._next[lane] == start}
        for parcel in parcels:
            lane = parcel.priority
            if lane in keeping_up:
                if self._is_full(lane):
                    keeping_up.discard(lane)
                else:
                    self._send(lane, parcel)

    def pump(self) -> None:
        """Take acknowledgements in, and send what has room. Costs nothing when there is nothing to do."""
        for lane in Priority:
            if self._away[lane]:
                self._reap(lane)
        if self._lost:
            if any(self._away.values()):
                return  # wait until each one on the way is known: what arrived must not be sent before what did not
            self._lost = False
            self._next = {lane: self._spool.first(lane) for lane in Priority}
            self._outbox.restart()
        if not self._outbox.ready:
            return
        for lane in Priority:
            while not self._is_full(lane):
                number = self._spool.next(lane, max(self._next[lane], self._spool.first(lane)))
                self._next[lane] = number
                if number >= self._spool.end(lane):
                    break
                records, size = self._room(lane)
                parcels = self._spool.read(lane, number, min(records, _READ_RECORDS), min(size, _READ_BYTES))
                for parcel in parcels:  # all of them: the spool goes on from where it was read to at no cost
                    self._send(lane, parcel)
                if not parcels and self._spool.next(lane, number) == number:
                    break

    def _is_full(self, lane: Priority) -> bool:
        return min(self._room(lane)) <= 0

    def _room(self, lane: Priority) -> tuple[int, int]:
        """Records and bytes that may still be sent of a lane."""
        share = 1.0 if lane is Priority.URGENT else 1.0 - LEFT_FOR_URGENT
        return (
            int(MAX_ON_THE_WAY * share) - self._count_away,
            int(MAX_BYTES_ON_THE_WAY * share) - self._bytes_away,
        )

    def _send(self, lane: Priority, parcel: Parcel) -> None:
        self._away[lane].append((self._next[lane], parcel, self._outbox.send(parcel)))
        self._next[lane] += 1
        self._count_away += 1
        self._bytes_away += len(parcel.payload)

    def _reap(self, lane: Priority) -> None:
        away = self._away[lane]
        done: list[Parcel] = []
        first = self._spool.first(lane)
        while away:
            number, parcel, receipt = away[0]
            report = self._outbox.report(receipt)
            if report.delivery is Delivery.PENDING:
                break
            away.popleft()
            self._count_away -= 1
            self._bytes_away -= len(parcel.payload)
            if report.delivery is Delivery.LOST:
                self.lost_total += 1
            if report.delivery is Delivery.LOST and not self._lost:
                self._lost = True
                if not self._said_lost:
                    self._said_lost = True
                    self.notices.append(f"a record was not acknowledged and is sent again: {report.why}")
            if self._lost or number < first:  # what follows a loss is sent again too, to keep the order
                continue
            if report.delivery is Delivery.REFUSED:
                self.refused[parcel.key] += lane is not Priority.GAPS
                self.refused_total += 1
                self.notices.append(f"{parcel.key.decode()}: a record for {parcel.topic} is dropped: {report.why}")
            else:
                self._said_lost = False
                if lane is not Priority.GAPS:  # no device has counted it as one of its records
                    self.acked[parcel.key] += 1
                    self.acked_bytes[parcel.key] += len(parcel.payload) + len(parcel.key)
            done.append(parcel)
        if done:
            self._spool.ack(lane, done)
