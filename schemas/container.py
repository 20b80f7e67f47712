"""Avro object container files: recordings and what an offline run writes. Over file objects; opens nothing itself.

Written by fastavro, read by a guarded reader of our own: Avro bounds neither counts nor decompressed sizes, and a file
may bring any schema along. Here the schema in the file only serves to find one of ours by its fingerprint, everything
is checked against a limit before it is allocated, and every record must pass the codec's canonical-encoding check.
Whatever the bytes are, `read` gives valid records and then ends or raises DecodeError with where in the file it was.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Literal, NamedTuple, cast

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form
from fastavro.write import Writer

from schemas.codec import BOOK, MARKER, SchemaBook, WriterSchema, _without_logical_types, check_schema, decode
from schemas.errors import DecodeError
from schemas.records import Record

MAGIC = b"Obj\x01"
SYNC_BYTES = 16
MAX_METADATA_BYTES = 256 * 1024
MAX_METADATA_ENTRIES = 64
#: Of one block, compressed or not. A block is written when it is past 64 KiB, and a record is below 1 MiB.
MAX_BLOCK_BYTES = 16 * 1024 * 1024
_WRITE_AT_BYTES = 64 * 1024
#: Of deflate. On measured signals zlib's own choice, 6, takes four times as long as this to save 3 % more.
_LEVEL = 3

Codec = Literal["null", "deflate"]


class ContainerWriter:
    """Writes records of one type to a file object that is open for binary writing. Call `close` at the end."""

    def __init__(
        self,
        file: IO[bytes],
        record: type[Any],
        *,
        codec: Codec = "deflate",
        metadata: Mapping[str, str] | None = None,
        book: SchemaBook = BOOK,
    ) -> None:
        """`metadata`: keys go into the header as `tidegate.KEY`."""
        entry = book.newest(record)
        self._names = tuple(field["name"] for field in entry.source["fields"])
        self._record = record
        extra = {f"tidegate.{key}": value for key, value in (metadata or {}).items()}
        # Usually random. Derived from what the file is, the same records always give the same bytes.
        self._writer = Writer(
            file,
            copy.deepcopy(entry.source),
            codec=codec,
            compression_level=_LEVEL,
            sync_interval=_WRITE_AT_BYTES,
            metadata=extra,
            sync_marker=hashlib.sha256(entry.header + json.dumps(extra, sort_keys=True).encode()).digest()[:SYNC_BYTES],
        )
        self.written = 0

    def write(self, record: Record) -> None:
        """Add a record. Raises DecodeError: it is of another type than the file."""
        if type(record) is not self._record:
            raise DecodeError("another record than the file's", file=self._record.__name__, got=type(record).__name__)
        raw = {name: getattr(record, name) for name in self._names}
        if "applied" in raw:
            raw["applied"] = [{name: getattr(item, name) for name in item.__slots__} for item in raw["applied"]]
        self._writer.write(raw)
        self.written += 1

    def close(self) -> None:
        """Write what is buffered. The file object stays open: it belongs to the caller."""
        self._writer.flush()


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the first block of a file."""

    schema: WriterSchema
    codec: Codec
    sync: bytes
    metadata: dict[str, str]  # the `tidegate.*` keys, without that prefix
    length: int  # bytes


class _Source:
    """Reads exact amounts and knows where it is."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.at = 0

    def take(self, count: int, what: str) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise DecodeError(f"the file ends inside of {what}", offset=self.at + len(data), missing=count - len(data))
        self.at += count
        return data

    def at_end(self) -> bytes:
        """The next byte, or nothing at the end of the file."""
        data = self._file.read(1)
        self.at += len(data)
        return data

    def number(self, what: str, first: bytes = b"") -> int:
        """A zig-zag varint of at most ten bytes."""
        shift = value = 0
        while True:
            byte = (first or self.take(1, what))[0]
            first = b""
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)
            shift += 7
            if shift > 63:
                raise DecodeError(f"{what} is no number", offset=self.at)


def read_header(file: IO[bytes], book: SchemaBook = BOOK) -> Header:
    """Header of a container file; leaves the file object at its first block. Raises only DecodeError."""
    source = _Source(file)
    return _header(source, book)


def _header(source: _Source, book: SchemaBook) -> Header:
    magic = source._file.read(len(MAGIC))
    if magic != MAGIC:
        raise DecodeError(
            "not an Avro container file",
            offset=0,
            starts_with=magic.hex(),
            fix="a recording starts with 'Obj\\x01'; `tidegate import` makes one from CSV",
        )
    source.at = len(MAGIC)
    raw: dict[str, bytes] = {}
    entries = 0
    while count := source.number("the file's metadata"):
        if count < 0:
            source.number("the file's metadata")  # the size of this part of the map; we check the total instead
        entries += abs(count)
        if entries > MAX_METADATA_ENTRIES:
            raise DecodeError("the file's metadata is too large", offset=source.at, entries=entries)
        for _ in range(abs(count)):
            key, value = _sized(source), _sized(source)
            raw[key.decode(errors="replace")] = value
    codec = raw.get("avro.codec", b"null").decode(errors="replace")
    if codec not in ("null", "deflate"):
        raise DecodeError("unknown compression", codec=codec[:40], fix="only 'null' and 'deflate' are read")
    return Header(
        schema=_our_schema(raw.get("avro.schema", b""), book),
        codec=cast(Codec, codec),
        sync=source.take(SYNC_BYTES, "the header"),
        metadata={
            key.removeprefix("tidegate."): value.decode(errors="replace")
            for key, value in raw.items()
            if key.startswith("tidegate.")
        },
        length=source.at,
    )


def _sized(source: _Source) -> bytes:
    size = source.number("the file's metadata")
    if not 0 <= size <= MAX_METADATA_BYTES - source.at:
        raise DecodeError("the file's metadata is too large", offset=source.at, bytes=size)
    return source.take(size, "the file's metadata")


def _our_schema(text: bytes, book: SchemaBook) -> WriterSchema:
    """The schema of ours that a file was written with. The text from the file is only hashed, never decoded with."""
    try:
        schema = json.loads(text)
        check_schema(schema)
        parsed = fastavro.parse_schema(_without_logical_types(schema), {})
        crc = fingerprint(to_parsing_canonical_form(parsed), "CRC-64-AVRO")
    except DecodeError:
        raise
    except Exception as cause:  # not JSON, not a schema, or nested without end
        raise DecodeError("the file's schema cannot be read", offset=0) from cause
    return book.writer(MARKER + bytes.fromhex(crc)[::-1])


def read(file: IO[bytes], expected: type[Record] | None = None, *, book: SchemaBook = BOOK) -> Iterator[Record]:
    """Records of a container file, one after the other, with bounded memory.

    Records before a damaged place are given out first.

    Args:
        file: open for binary reading, at its start.
        expected: type of the records; None takes any of ours.
        book: schemas that are known.

    Raises:
        DecodeError: no container file, a schema that is not ours, damage. Names the byte and the record it was at.
    """
    source = _Source(file)
    header = _header(source, book)
    if expected is not None and header.schema.record is not expected:
        raise DecodeError("the file holds other records", expected=expected.__name__, got=header.schema.record.__name__)
    for start, number, count, body in _blocks(source, header):
        yield from _records(body, count, header.schema, book, start, number)


class Block(NamedTuple):
    """Where a block begins in its file, bytes, and how many records lie before it."""

    start: int
    records: int


def scan(file: IO[bytes], begins: Callable[[Block], None], *, book: SchemaBook = BOOK) -> None:
    """Do everything with a file that is done in native code: its schema, decompression, and walking its records.

    For a process that may die of it: `begins` is told of each block before it is looked at. Ends where the file does
    or where it is damaged, which `read` will say.
    """
    begins(Block(0, 0))
    source = _Source(file)
    try:
        header = _header(source, book)
        blocks = _blocks(source, header, begins)
        for _, _, count, body in blocks:
            stream = io.BytesIO(body)
            for _ in range(count):
                fastavro.schemaless_reader(stream, header.schema.parsed, None)
    except MemoryError:
        raise
    except Exception:  # damage, of any kind: `read` finds it again and has the words for it
        return


def _blocks(
    source: _Source, header: Header, begins: Callable[[Block], None] = lambda _: None
) -> Iterator[tuple[int, int, int, bytes]]:
    """Where each block begins, the records before it, its own, and its body. Raises DecodeError."""
    number = 0
    while first := source.at_end():
        start = source.at - 1
        begins(Block(start, number))
        count, size = source.number("a block", first), source.number("a block")
        if count <= 0 or not 0 < size <= MAX_BLOCK_BYTES:
            raise DecodeError("a block of impossible size", offset=start, record=number, records=count, bytes=size)
        try:
            data = source.take(size, "a block")
            if header.sync != source.take(SYNC_BYTES, "a block"):
                raise DecodeError("the mark behind a block is missing")
            body = data if header.codec == "null" else _inflate(data)
        except DecodeError as wrong:
            raise _placed(wrong, start, number) from wrong
        if count > len(body):
            raise DecodeError("a block of impossible size", offset=start, record=number, records=count, bytes=len(body))
        yield start, number, count, body
        number += count


def _placed(wrong: DecodeError, offset: int, record: int) -> DecodeError:
    """The same error with where in the file it was; what it knows itself goes first."""
    where: dict[str, Any] = {"offset": offset, "record": record} | wrong.where
    return DecodeError(wrong.problem, fix=wrong.fix, **where)


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-15)
    try:
        body = inflater.decompress(data, MAX_BLOCK_BYTES)
    except zlib.error as cause:
        raise DecodeError(f"a block cannot be decompressed: {cause}") from None
    # fastavro leaves three bytes of zlib's checksum behind the raw deflate stream that the format asks for
    if inflater.unconsumed_tail or not inflater.eof or len(inflater.unused_data) > 4:
        raise DecodeError(
            "a block is cut off or too large once decompressed", bytes=len(body), max_bytes=MAX_BLOCK_BYTES
        )
    return body


def _records(
    body: bytes, count: int, schema: WriterSchema, book: SchemaBook, start: int, first: int
) -> Iterator[Record]:
    stream = io.BytesIO(body)
    at = 0
    for number in range(first, first + count):
        try:
            try:
                fastavro.schemaless_reader(stream, schema.parsed, None)
            except Exception as cause:  # see codec.decode
                raise DecodeError("a record does not fit its schema") from cause
            end = stream.tell()
            record: Record = decode(schema.header + body[at:end], schema.record, book)
        except DecodeError as wrong:
            raise _placed(wrong, start, number) from wrong
        yield record
        at = end
    if at != len(body):
        raise DecodeError("bytes left over in a block", offset=start, record=first + count, left=len(body) - at)
