"""What flows between the steps: poll chunks in, encoded batches out, and the receipts that tie one to the other.

A Beam element is a poll chunk of one topic-partition, never a record: Beam's cost per element is then paid once per
a few hundred records. Chunks and batches have their own compact coders, so that nothing is pickled where an element
crosses a stage, and bytes that are not ours raise DecodeError and nothing else.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.coders import Coder

from schemas.errors import DecodeError

#: Most records or acknowledgements that one encoded element may claim to hold.
MAX_ITEMS = 1_000_000


class Record(NamedTuple):
    """One record as the broker has it. `value` is None for a tombstone.

    `retried`: it was a dead letter and was sent again on purpose. It does not travel on behind the source.
    """

    offset: int
    key: bytes | None
    value: bytes | None
    append_time_ms: int
    retried: bool = False


class Receipt(NamedTuple):
    """Names one handed-out range of one partition; a sink gives it back when the range is safe.

    `begin` is the first offset of the range and `end` the one after its last, dropped records included.
    """

    flow: str
    topic: str
    partition: int
    begin: int
    end: int


class WindowAck(NamedTuple):
    """Says how many contributions to one window of one lane are inside what a sink writes.

    `contributions` is what this batch adds; with `cumulative` it is the total of the (window, key) so far, as
    accumulating panes carry it, and takes the place of an earlier, smaller one.
    """

    flow: str
    lane: str
    window_end_us: int
    key: bytes
    contributions: int
    cumulative: bool = False


class Resume(NamedTuple):
    """Where an earlier run had got to in this partition, as its commit tells.

    Records below `position` were answered by every record lane. Windows of a lane that end at or before
    `horizons[lane]` (us) are closed for good: they were written with everything below `position`.
    """

    position: int = 0
    horizons: tuple[tuple[str, int], ...] = ()

    def horizon_us(self, lane: str) -> int:
        """Closed horizon of a lane, us; 0 when the lane has none."""
        return dict(self.horizons).get(lane, 0)


class Chunk(NamedTuple):
    """Records of one partition in offset order, cut from the log between `begin` and `end` (exclusive).

    `watermark_us` is the partition's watermark just before this chunk: what lateness of its records is judged by.
    `lost_from` is -1, or the first of the offsets up to `begin` that the broker had deleted before they were read.
    `refused` names those of the records that go to the dead letters as they are: offset and a reason of refusal.py.
    """

    flow: str
    topic: str
    partition: int
    begin: int
    end: int
    watermark_us: int
    records: list[Record]
    resume: Resume = Resume()
    lost_from: int = -1
    refused: tuple[tuple[int, str], ...] = ()

    @property
    def receipt(self) -> Receipt:
        """What a sink acknowledges when everything made from this chunk is safe."""
        return Receipt(self.flow, self.topic, self.partition, self.begin, self.end)

    def fresh(self) -> list[Record]:
        """Records that no earlier run has answered in full; the rest is here only for windows that were open."""
        if self.begin >= self.resume.position:
            return self.records
        return [r for r in self.records if r.offset >= self.resume.position]


class Outgoing(NamedTuple):
    """One encoded record for a sink."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Batch(NamedTuple):
    """What a sink writes and flushes in one go, and what it may acknowledge afterwards.

    A batch without records is right and needed: it tells the ledger that a branch had nothing to write.
    """

    records: list[Outgoing]
    receipts: tuple[Receipt, ...] = ()
    windows: tuple[WindowAck, ...] = ()


_CHUNK = struct.Struct("<4sqqqqI")
_CHUNK_MAGIC = b"TGC2"
_BATCH = struct.Struct("<4sIII")
_BATCH_MAGIC = b"TGB1"
_I32 = struct.Struct("<i")
_I64 = struct.Struct("<q")


class _Reader:
    """Walks over bytes that may be anything. Raises DecodeError where they end too early or lie."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, n: int) -> bytes:
        end = self._at + n
        if n < 0 or end > len(self._data):
            raise DecodeError("an element between two steps is cut short", want=n, left=len(self._data) - self._at)
        part = self._data[self._at : end]
        self._at = end
        return part

    def blob(self) -> bytes:
        return self.take(int(_I32.unpack(self.take(4))[0]))

    def maybe(self) -> bytes | None:
        n = int(_I32.unpack(self.take(4))[0])
        return None if n == -1 else self.take(n)

    def text(self) -> str:
        try:
            return self.blob().decode()
        except UnicodeDecodeError as cause:
            raise DecodeError("an element between two steps holds a name that is not UTF-8") from cause

    def i64(self) -> int:
        return int(_I64.unpack(self.take(8))[0])

    def count(self, n: int, floor: int) -> int:
        """`n`, when that many items of at least `floor` bytes can be in what is left."""
        if not 0 <= n <= MAX_ITEMS or n * floor > len(self._data) - self._at:
            raise DecodeError("an element between two steps claims more items than it holds", items=n)
        return n

    def numbers(self, n: int, dtype: str) -> list[int]:
        kind = np.dtype(dtype)
        out: list[int] = np.frombuffer(self.take(n * kind.itemsize), kind).tolist()
        return out

    def end(self) -> None:
        if self._at != len(self._data):
            raise DecodeError("bytes left over after an element between two steps", left=len(self._data) - self._at)


def _blob(data: bytes) -> bytes:
    return _I32.pack(len(data)) + data


def _maybe(data: bytes | None) -> bytes:
    return _I32.pack(-1) if data is None else _blob(data)


def _lengths(parts: list[bytes | None]) -> npt.NDArray[np.int32]:
    return np.fromiter((-1 if p is None else len(p) for p in parts), "<i4", len(parts))


def encode_chunk(chunk: Chunk) -> bytes:
    """Bytes of a chunk: a fixed head, the names, then columns of offsets, times and lengths, then the payloads."""
    records = chunk.records
    n = len(records)
    keys = [r.key for r in records]
    values = [r.value for r in records]
    head = _CHUNK.pack(_CHUNK_MAGIC, chunk.partition, chunk.begin, chunk.end, chunk.watermark_us, n)
    names = [_blob(chunk.flow.encode()), _blob(chunk.topic.encode()), _I64.pack(chunk.lost_from)]
    resume = [_I64.pack(chunk.resume.position), _I32.pack(len(chunk.resume.horizons))]
    resume += [_blob(lane.encode()) + _I64.pack(at) for lane, at in chunk.resume.horizons]
    refused = [_I32.pack(len(chunk.refused))]
    refused += [_I64.pack(offset) + _blob(reason.encode()) for offset, reason in chunk.refused]
    columns = [
        np.fromiter((r.offset for r in records), "<i8", n).tobytes(),
        np.fromiter((r.append_time_ms for r in records), "<i8", n).tobytes(),
        _lengths(keys).tobytes(),
        _lengths(values).tobytes(),
    ]
    payload = [p for p in keys if p is not None] + [p for p in values if p is not None]
    return b"".join([head, *names, *resume, *refused, *columns, *payload])


def decode_chunk(data: bytes) -> Chunk:
    """Inverse of encode_chunk. Raises DecodeError, whatever the bytes are."""
    reader = _Reader(data)
    magic, partition, begin, end, watermark_us, n = _CHUNK.unpack(reader.take(_CHUNK.size))
    if magic != _CHUNK_MAGIC:
        raise DecodeError("an element between two steps is not a chunk", magic=magic.hex())
    flow, topic, lost_from = reader.text(), reader.text(), reader.i64()
    position = reader.i64()
    lanes = reader.count(int(_I32.unpack(reader.take(4))[0]), 12)
    horizons = tuple((reader.text(), reader.i64()) for _ in range(lanes))
    n_refused = reader.count(int(_I32.unpack(reader.take(4))[0]), 12)
    refused = tuple((reader.i64(), reader.text()) for _ in range(n_refused))
    reader.count(n, 24)
    offsets, times = reader.numbers(n, "<i8"), reader.numbers(n, "<i8")
    key_lengths, value_lengths = reader.numbers(n, "<i4"), reader.numbers(n, "<i4")
    keys = [None if size == -1 else reader.take(size) for size in key_lengths]
    values = [None if size == -1 else reader.take(size) for size in value_lengths]
    reader.end()
    records = list(map(Record, offsets, keys, values, times))
    resume = Resume(position, horizons)
    return Chunk(flow, topic, partition, begin, end, watermark_us, records, resume, lost_from, refused)


def encode_batch(batch: Batch) -> bytes:
    """Bytes of a batch, item after item."""
    out = [_BATCH.pack(_BATCH_MAGIC, len(batch.records), len(batch.receipts), len(batch.windows))]
    for key, value, headers in batch.records:
        out += [_maybe(key), _maybe(value), _I32.pack(len(headers))]
        out += [_blob(name.encode()) + _blob(content) for name, content in headers]
    for r in batch.receipts:
        out += [_blob(r.flow.encode()), _blob(r.topic.encode()), _I64.pack(r.partition), _I64.pack(r.begin)]
        out.append(_I64.pack(r.end))
    for w in batch.windows:
        out += [_blob(w.flow.encode()), _blob(w.lane.encode()), _I64.pack(w.window_end_us), _blob(w.key)]
        out += [_I64.pack(w.contributions), _I64.pack(int(w.cumulative))]
    return b"".join(out)


def decode_batch(data: bytes) -> Batch:
    """Inverse of encode_batch. Raises DecodeError, whatever the bytes are."""
    reader = _Reader(data)
    magic, n_records, n_receipts, n_windows = _BATCH.unpack(reader.take(_BATCH.size))
    if magic != _BATCH_MAGIC:
        raise DecodeError("an element between two steps is not a batch", magic=magic.hex())
    records = [_decode_outgoing(reader) for _ in range(reader.count(n_records, 12))]
    receipts = tuple(
        Receipt(reader.text(), reader.text(), reader.i64(), reader.i64(), reader.i64())
        for _ in range(reader.count(n_receipts, 32))
    )
    windows = tuple(
        WindowAck(reader.text(), reader.text(), reader.i64(), reader.blob(), reader.i64(), bool(reader.i64()))
        for _ in range(reader.count(n_windows, 36))
    )
    reader.end()
    return Batch(records, receipts, windows)


def _decode_outgoing(reader: _Reader) -> Outgoing:
    key, value = reader.maybe(), reader.maybe()
    headers = reader.count(int(_I32.unpack(reader.take(4))[0]), 8)
    return Outgoing(key, value, tuple((reader.text(), reader.blob()) for _ in range(headers)))


class ChunkCoder(Coder):
    """Beam's view of encode_chunk and decode_chunk."""

    def encode(self, value: Chunk) -> bytes:
        """See encode_chunk."""
        return encode_chunk(value)

    def decode(self, encoded: bytes) -> Chunk:
        """See decode_chunk. Raises DecodeError."""
        return decode_chunk(encoded)

    def estimate_size(self, value: Chunk) -> int:
        """Beam asks this of almost every element, for a counter: as if all records were as large as the first."""
        return _CHUNK.size + sum(24 + len(r.key or b"") + len(r.value or b"") for r in value.records[:1]) * len(
            value.records
        )

    def is_deterministic(self) -> bool:
        """The same chunk is always the same bytes."""
        return True

    def to_type_hint(self) -> type[Chunk]:
        """The type this coder is for."""
        return Chunk

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


class BatchCoder(Coder):
    """Beam's view of encode_batch and decode_batch."""

    def encode(self, value: Batch) -> bytes:
        """See encode_batch."""
        return encode_batch(value)

    def decode(self, encoded: bytes) -> Batch:
        """See decode_batch. Raises DecodeError."""
        return decode_batch(encoded)

    def estimate_size(self, value: Batch) -> int:
        """As for chunks."""
        return _BATCH.size + sum(12 + len(r.key or b"") + len(r.value or b"") for r in value.records[:1]) * len(
            value.records
        )

    def is_deterministic(self) -> bool:
        """The same batch is always the same bytes."""
        return True

    def to_type_hint(self) -> type[Batch]:
        """The type this coder is for."""
        return Batch

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


def _register(registry: Any) -> None:
    registry.register_coder(Chunk, ChunkCoder)
    registry.register_coder(Batch, BatchCoder)


_register(beam.coders.registry)
