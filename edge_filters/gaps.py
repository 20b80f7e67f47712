"""Which records were given up, gathered by device, life and lane until it is told as gap markers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edge_filters.outgoing import Parcel
from schemas.codec import peek_identity
from schemas.records import GapMarker, GapReason

#: Runs in one marker: below the size that a marker may have, whatever the numbers are.
MAX_RUNS = 8000

Runs = list[tuple[int, int]]


def merged(runs: Iterable[tuple[int, int]]) -> Runs:
    """Runs in order, each both ends included; what touches or overlaps is one.

    >>> merged([(5, 5), (1, 2), (3, 3), (2, 3)])
    [(1, 3), (5, 5)]
    """
    out: Runs = []
    for first, last in sorted(runs):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(last, out[-1][1]))
        else:
            out.append((first, last))
    return out


class Gaps:
    """A set of identities. Each is in it once, however often it is added."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, int, str, GapReason], Runs] = {}

    def __bool__(self) -> bool:
        return bool(self._runs)

    def add(self, parcel: Parcel, reason: GapReason) -> None:
        """Note a record. One that does not tell its identity cannot be named, and none of ours is such a one."""
        identity = peek_identity(parcel.payload)
        if identity is None:
            return
        runs = self._runs.setdefault((identity.device_id, identity.boot_epoch, parcel.topic, reason), [])
        if runs and runs[-1][1] + 1 == identity.seq:
            runs[-1] = (runs[-1][0], identity.seq)
        else:
            runs.append((identity.seq, identity.seq))

    def take(self, marker: GapMarker) -> None:
        """Note what a marker names."""
        key = (marker.device_id, marker.boot_epoch, marker.lane, marker.reason)
        self._runs.setdefault(key, []).extend(marker.runs)

    def has(self, parcel: Parcel) -> bool:
        """Whether a record is named."""
        identity = peek_identity(parcel.payload)
        return identity is not None and any(
            first <= identity.seq <= last
            for reason in GapReason
            for first, last in self._runs.get((identity.device_id, identity.boot_epoch, parcel.topic, reason), ())
        )

    def markers(self, at_us: int) -> Iterator[GapMarker]:
        """All of it. `at_us`: microseconds since 1970, by the edge's clock."""
        for (device_id, boot_epoch, lane, reason), unsorted in self._runs.items():
            runs = merged(unsorted)
            for begin in range(0, len(runs), MAX_RUNS):
                part = runs[begin : begin + MAX_RUNS]
                yield GapMarker(
                    device_id=device_id,
                    boot_epoch=boot_epoch,
                    seq=part[0][0],
                    lane=lane,
                    reason=reason,
                    count=sum(last - first + 1 for first, last in part),
                    firsts=[first for first, _ in part],
                    lasts=[last for _, last in part],
                    at=at_us,
                )
