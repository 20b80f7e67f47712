"""Where a shard of a source stands, as it is kept in Beam's state. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from pipelines.io.partition import Partition
from pipelines.io.watermark import UNKNOWN_US
from schemas.errors import DecodeError


class At(NamedTuple):
    """Where a shard stands in one partition: the next offset, and its watermark in us."""

    offset: int
    watermark_us: int


@dataclass(slots=True)
class ShardState:
    """State of a shard. `serial` counts its ticks that changed something; `deltas` those in the dedupe's bag."""

    serial: int = 0
    deltas: int = 0
    at: dict[Partition, At] = field(default_factory=dict)

    _HEAD = struct.Struct("<qII")
    _ITEM = struct.Struct("<qqIH")

    def encode(self) -> bytes:
        """Compact bytes for Beam's state."""
        parts = [self._HEAD.pack(self.serial, self.deltas, len(self.at))]
        for (topic, number), (offset, watermark_us) in self.at.items():
            name = topic.encode()
            parts += [self._ITEM.pack(offset, watermark_us, number, len(name)), name]
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> ShardState:
        """Inverse of encode(). Raises DecodeError: not such bytes."""
        try:
            serial, deltas, n = cls._HEAD.unpack_from(data)
            state, position = cls(serial, deltas), cls._HEAD.size
            for _ in range(n):
                offset, watermark_us, number, size = cls._ITEM.unpack_from(data, position)
                position += cls._ITEM.size
                name = data[position : position + size].decode()
                position += size
                state.at[Partition(name, number)] = At(offset, watermark_us)
        except (struct.error, UnicodeDecodeError) as cause:
            raise DecodeError("the saved state of a source shard is not readable", bytes=len(data)) from cause
        return state

    def hold_us(self) -> int:
        """The watermark that the whole shard can stand for."""
        return min((at.watermark_us for at in self.at.values()), default=UNKNOWN_US)
