"""Drop what was seen before, by identity: within one device and topic, (boot_epoch, seq) only ever grows.

A device writes to one partition in the order of its identities, so "already seen" is one comparison with the last
one, and the memory is two numbers per device. The state travels as a snapshot and the changes since then (deltas):
what is written at each step costs by the devices that changed, not by those that exist.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from schemas.errors import DecodeError
from schemas.ids import Identity

_ENTRY = struct.Struct("<qqHH")


class Dedupe:
    """Last (boot_epoch, seq) of every device in every topic. Not thread-safe."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], tuple[int, int]] = {}
        self._changed: set[tuple[str, str]] = set()

    def __len__(self) -> int:
        return len(self._last)

    def first_time(self, topic: str, identity: Identity) -> bool:
        """Whether this identity is newer than all of its device in this topic; it is remembered when it is."""
        device, boot_epoch, seq = identity
        who = (topic, device)
        this = (boot_epoch, seq)
        last = self._last.get(who)
        if last is not None and this <= last:
            return False
        self._last[who] = this
        self._changed.add(who)
        return True

    def delta(self) -> bytes:
        """What changed since the last delta or snapshot; empty when nothing did."""
        changed, self._changed = self._changed, set()
        return self._encode(changed)

    def snapshot(self) -> bytes:
        """Everything; takes the place of all deltas so far."""
        self._changed.clear()
        return self._encode(self._last)

    def _encode(self, who: Iterable[tuple[str, str]]) -> bytes:
        parts: list[bytes] = []
        for topic, device in who:
            topic_name, device_name = topic.encode(), device.encode()
            boot_epoch, seq = self._last[topic, device]
            parts += [_ENTRY.pack(boot_epoch, seq, len(topic_name), len(device_name)), topic_name, device_name]
        return b"".join(parts)

    @classmethod
    def restore(cls, parts: Iterable[bytes]) -> Dedupe:
        """From a snapshot and deltas, in any order: the greater of two entries wins.

        Raises DecodeError: bytes that neither snapshot() nor delta() made.
        """
        out = cls()
        for part in parts:
            for who, last in _entries(part):
                out._last[who] = max(last, out._last.get(who, last))
        return out


def _entries(part: bytes) -> Iterator[tuple[tuple[str, str], tuple[int, int]]]:
    at = 0
    while at < len(part):
        if at + _ENTRY.size > len(part):
            raise DecodeError("the saved state of the dedupe is cut short", at=at, bytes=len(part))
        boot_epoch, seq, topic_size, device_size = _ENTRY.unpack_from(part, at)
        at += _ENTRY.size
        end = at + topic_size + device_size
        if end > len(part):
            raise DecodeError("the saved state of the dedupe is cut short", at=at, bytes=len(part))
        try:
            who = part[at : at + topic_size].decode(), part[at + topic_size : end].decode()
        except UnicodeDecodeError as cause:
            raise DecodeError("the saved state of the dedupe holds a name that is not UTF-8", at=at) from cause
        yield who, (boot_epoch, seq)
        at = end
