"""Tell what was seen before from what was never sent: by identity, and by what the record holds.

A device writes to one partition in the order of its identities, so a new record is one comparison with the last one.
What is not new is one of three things. The same identity with the same bytes is a resend: it was answered, and goes.
The same identity with other bytes, or one from before the last that nobody has seen, means that two writers use one
device's name: a clone, or a disk that was set back. That is never merged and never dropped without a word. Only what
lies further back in the same life than the memory reaches cannot be told; it counts as a resend, and is counted apart.

The state travels as a snapshot and the changes since then (deltas): what is written at each step costs by the records
that came, not by the devices that exist.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from schemas.errors import DecodeError
from schemas.ids import Identity

#: Records that are remembered of each device in each topic: as many as an edge process may have on its way at once,
#: which is how far back it sends again after a crash. Fewer where there are very many devices; see `ROOM`.
KEEP, KEEP_AT_LEAST = 1024, 16
#: Records that are remembered of all devices together, 28 bytes each; at most twice as many are held for a while.
ROOM = 1_000_000

_VERSION = 2
_ENTRY = struct.Struct("<qqqI")  # boot_epoch, seq, offset, CRC-32 of the payload
_HEAD = struct.Struct("<B?HHI")  # version, whole, bytes of the topic and of the device, entries
_Who = tuple[str, str]


class Seen(Enum):
    """What a record is, seen from those before it."""

    NEW = "newer than all of its device"
    RESENT = "the same as one before"
    FORGOTTEN = "older than what is remembered of this life"
    OTHER_PAYLOAD = "another record had this identity"
    WENT_BACK = "never seen, though its device has sent later ones"


class Last(NamedTuple):
    """One remembered record: its identity within the device, the offset it had, and the CRC-32 of its payload."""

    boot_epoch: int
    seq: int
    offset: int
    crc: int


class _Memory:
    """The last records of one device in one topic, ascending. `fresh` of them were not saved yet.

    `whole`: nothing came before them, so what is older than all of them was never seen.
    """

    __slots__ = ("entries", "fresh", "newest", "whole")

    def __init__(self, whole: bool) -> None:
        self.whole = whole
        self.newest: tuple[int, int] = (-(2**63), -(2**63))
        self.entries = bytearray()
        self.fresh = 0

    def find(self, this: tuple[int, int]) -> tuple[int, int | None]:
        """Where `this` is or would be, and the CRC where it is."""
        low, high = 0, len(self.entries) // _ENTRY.size
        while low < high:
            middle = (low + high) // 2
            epoch, seq, _, crc = _ENTRY.unpack_from(self.entries, middle * _ENTRY.size)
            if (epoch, seq) == this:
                return middle, crc
            if (epoch, seq) < this:
                low = middle + 1
            else:
                high = middle
        return low, None


class Dedupe:
    """The last records of every device in every topic. Not thread-safe."""

    def __init__(self, keep: int = KEEP, room: int = ROOM) -> None:
        self._keep, self._room = keep, room
        #: Whether a device that is met for the first time has sent nothing before. Not so where reading began in
        #: the middle of a topic and nobody knows what came before.
        self.from_the_beginning = True
        self._memories: dict[_Who, _Memory] = {}
        self._most_bytes = 2 * keep * _ENTRY.size  # of one device, before it is shortened
        self._changed: set[_Who] = set()

    def __len__(self) -> int:
        return len(self._memories)

    def see(self, topic: str, identity: Identity, payload: bytes, offset: int = -1) -> Seen:
        """What this record is. It is remembered where it is new; a damaged memory is never overwritten by an old one.

        Args:
            topic, identity: whose, and which.
            payload: the record as it came.
            offset: where it lies in its partition.
        """
        device, boot_epoch, seq = identity
        who = (topic, device)
        this = (boot_epoch, seq)
        memory = self._memories.get(who)
        if memory is None:
            memory = self._memories[who] = _Memory(self.from_the_beginning)
            self._most_bytes = 2 * self._kept() * _ENTRY.size
        if this > memory.newest:
            memory.newest = this
            memory.entries += _ENTRY.pack(boot_epoch, seq, offset, zlib.crc32(payload))
            memory.fresh += 1
            self._changed.add(who)
            if len(memory.entries) > self._most_bytes:
                self._shorten(memory)
            return Seen.NEW
        place, crc = memory.find(this)
        if crc is not None:
            return Seen.RESENT if crc == zlib.crc32(payload) else Seen.OTHER_PAYLOAD
        if place == 0 and boot_epoch == memory.newest[0] and not memory.whole:
            return Seen.FORGOTTEN
        return Seen.WENT_BACK

    def learn(self, topic: str, device: str, last: Last) -> None:
        """Take over what an earlier run knew of a device; nothing where this one knows as much."""
        memory = self._memories.setdefault((topic, device), _Memory(whole=False))
        self._most_bytes = 2 * self._kept() * _ENTRY.size
        if (this := (last.boot_epoch, last.seq)) > memory.newest:
            memory.newest = this
            memory.entries += _ENTRY.pack(last.boot_epoch, last.seq, last.offset, last.crc)
            memory.fresh += 1
            self._changed.add((topic, device))

    def last_below(self, topic: str, device: str, offset: int) -> Last | None:
        """The newest remembered record of a device that lies below `offset`; None where there is none."""
        memory = self._memories.get((topic, device))
        if memory is None:
            return None
        low, high = 0, len(memory.entries) // _ENTRY.size  # offsets ascend with the identities
        while low < high:
            middle = (low + high) // 2
            if _ENTRY.unpack_from(memory.entries, middle * _ENTRY.size)[2] < offset:
                low = middle + 1
            else:
                high = middle
        if not low:
            return None
        epoch, seq, lies_at, crc = _ENTRY.unpack_from(memory.entries, (low - 1) * _ENTRY.size)
        return Last(epoch, seq, lies_at, crc)

    def delta(self) -> bytes:
        """What came since the last delta or snapshot; empty when nothing did."""
        changed, self._changed = self._changed, set()
        return b"".join(self._encoded(who, self._memories[who].fresh) for who in changed)

    def snapshot(self) -> bytes:
        """Everything; takes the place of all deltas so far."""
        self._changed.clear()
        return b"".join(self._encoded(who, self._kept()) for who in self._memories)

    def _kept(self) -> int:
        return max(KEEP_AT_LEAST, min(self._keep, self._room // (len(self._memories) or 1)))

    def _shorten(self, memory: _Memory) -> None:
        memory.whole = False
        del memory.entries[: len(memory.entries) - self._kept() * _ENTRY.size]
        memory.fresh = min(memory.fresh, self._kept())

    def _encoded(self, who: _Who, count: int) -> bytes:
        """The last `count` entries of one device."""
        memory = self._memories[who]
        held = len(memory.entries) // _ENTRY.size
        whole = memory.whole and not (held > count and count >= self._kept())
        count = min(count, held)
        memory.fresh = 0
        topic, device = who[0].encode(), who[1].encode()
        entries = memory.entries[len(memory.entries) - count * _ENTRY.size :]
        return b"".join((_HEAD.pack(_VERSION, whole, len(topic), len(device), count), topic, device, entries))

    @classmethod
    def restore(cls, parts: Iterable[bytes], keep: int = KEEP, room: int = ROOM) -> Dedupe:
        """From a snapshot and deltas, in any order.

        Raises DecodeError: bytes that neither snapshot() nor delta() made.
        """
        out = cls(keep, room)
        found: dict[_Who, dict[tuple[int, int], bytes]] = {}
        torn: set[_Who] = set()
        for part in parts:
            for who, whole, entries in _read(part):
                if not whole:
                    torn.add(who)
                known = found.setdefault(who, {})
                for at in range(0, len(entries), _ENTRY.size):
                    entry = entries[at : at + _ENTRY.size]
                    epoch, seq, _, _ = _ENTRY.unpack(entry)
                    known[epoch, seq] = entry
        for who, known in found.items():
            memory = out._memories[who] = _Memory(who not in torn and len(known) <= 2 * out._keep)
            ascending = sorted(known)
            memory.newest = ascending[-1]
            memory.entries = bytearray(b"".join(known[this] for this in ascending[-2 * out._keep :]))
        out._most_bytes = 2 * out._kept() * _ENTRY.size
        return out


def _read(part: bytes) -> Iterator[tuple[_Who, bool, bytes]]:
    at = 0
    while at < len(part):
        if at + _HEAD.size > len(part):
            raise DecodeError("the saved state of the dedupe is cut short", at=at, bytes=len(part))
        version, whole, topic_size, device_size, count = _HEAD.unpack_from(part, at)
        if version != _VERSION:
            raise DecodeError("the saved state of the dedupe is of another version", version=version, ours=_VERSION)
        at += _HEAD.size
        end = at + topic_size + device_size + count * _ENTRY.size
        if not count or end > len(part):
            raise DecodeError("the saved state of the dedupe is cut short", at=at, bytes=len(part))
        try:
            who = part[at : at + topic_size].decode(), part[at + topic_size : at + topic_size + device_size].decode()
        except UnicodeDecodeError as cause:
            raise DecodeError("the saved state of the dedupe holds a name that is not UTF-8", at=at) from cause
        yield who, whole, part[at + topic_size + device_size : end]
        at = end
