"""Files of model packages in chunks: cut for the wire, and put together again with bounded memory. Pure."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

from schemas.manifest import MAX_MODEL_BYTES
from schemas.records import ArtifactChunk

#: Files that may be incomplete at the same time.
MAX_PARTIAL = 1024
#: Below the broker's default limit of 1 MiB per record, with room for the frame.
CHUNK_BYTES = 512 * 1024


def cut(data: bytes) -> list[ArtifactChunk]:
    """A file as chunks, in order. An empty file is one empty chunk."""
    sha256 = hashlib.sha256(data).digest()
    pieces = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)] or [b""]
    return [
        ArtifactChunk(sha256=sha256, index=i, count=len(pieces), total_bytes=len(data), data=piece)
        for i, piece in enumerate(pieces)
    ]


def chunk_key(chunk: ArtifactChunk) -> bytes:
    """Kafka key of a chunk: sending a file again replaces it instead of adding to it."""
    return f"{chunk.sha256.hex()}:{chunk.index}".encode()


@dataclass(slots=True)
class _Partial:
    count: int
    total_bytes: int
    pieces: dict[int, bytes] = field(default_factory=dict)
    held_bytes: int = 0


class Assembler:
    """Chunks in, whole files out. Chunks may come in any order, more than once, and for files nobody wants.

    Holds at most `max_bytes`; beyond that the file touched longest ago is forgotten (its chunks can be read again
    from the topic). A file is given out only when its bytes have the hash it was announced with.
    """

    def __init__(self, max_bytes: int = MAX_MODEL_BYTES) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._partial: OrderedDict[bytes, _Partial] = OrderedDict()
        self._whole: OrderedDict[bytes, bytes] = OrderedDict()

    def add(self, chunk: ArtifactChunk) -> str:
        """Take a chunk. Returns why it was refused, or an empty string."""
        if chunk.sha256 in self._whole:
            return ""
        if chunk.total_bytes > self._max_bytes:
            return f"a file of {chunk.total_bytes} bytes is more than the {self._max_bytes} allowed"
        if not chunk.data and (chunk.total_bytes or chunk.count != 1):
            return "an empty piece of a file"
        partial = self._partial.setdefault(chunk.sha256, _Partial(chunk.count, chunk.total_bytes))
        self._partial.move_to_end(chunk.sha256)
        if (partial.count, partial.total_bytes) != (chunk.count, chunk.total_bytes):
            self._forget(chunk.sha256)  # one of them lies; whichever is sent again finds a clean start
            return "chunks of one file disagree about its size"
        # A chunk that is sent again takes the place of the one before, as it does in the compacted topic.
        grown = len(chunk.data) - len(partial.pieces.get(chunk.index, b""))
        if partial.held_bytes + grown > partial.total_bytes:
            self._forget(chunk.sha256)
            return "the chunks are more than the file they belong to"
        partial.pieces[chunk.index] = chunk.data
        partial.held_bytes += grown
        self._held_bytes += grown
        if len(partial.pieces) == partial.count:
            data = b"".join(partial.pieces[i] for i in range(partial.count))
            self._forget(chunk.sha256)
            if hashlib.sha256(data).digest() != chunk.sha256:
                return "the chunks do not add up to the hash they were sent under"
            self._whole[chunk.sha256] = data
            self._held_bytes += len(data)
        self._make_room(keep=chunk.sha256)
        return ""

    def get(self, sha256: bytes) -> bytes | None:
        """A whole file, or None while chunks are missing."""
        return self._whole.get(sha256)

    def drop(self, sha256: bytes) -> None:
        """Forget a file that is not needed (any more)."""
        self._forget(sha256)
        self._held_bytes -= len(self._whole.pop(sha256, b""))

    def _forget(self, sha256: bytes) -> None:
        partial = self._partial.pop(sha256, None)
        self._held_bytes -= partial.held_bytes if partial else 0

    def _make_room(self, keep: bytes) -> None:
        while len(self._partial) > MAX_PARTIAL:
            self._forget(next(iter(self._partial)))
        for pool in (self._partial, self._whole):
            for sha256 in list(pool):
                if self._held_bytes <= self._max_bytes:
                    return
                if sha256 != keep:
                    self.drop(sha256)
