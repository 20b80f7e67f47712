"""Hostile Avro, built in code: records and container files, each with a name. No file of these is kept."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from schemas.codec import BOOK, HEADER_BYTES, MAX_BYTES, encode
from schemas.container import MAGIC, MAX_BLOCK_BYTES, ContainerWriter
from tests.golden.samples import SAMPLES


class Case(NamedTuple):
    """`name` for the reader; `data` for the parser."""

    name: str
    data: bytes


def varint(number: int) -> bytes:
    """A zig-zag varint of any size: also of those that no long has."""
    rest = number << 1 if number >= 0 else (-number << 1) - 1
    out = bytearray()
    while rest > 0x7F:
        out.append(0x80 | rest & 0x7F)
        rest >>= 7
    return bytes([*out, rest])


#: What stands for a length, a count or an index and is none.
NUMBERS: dict[str, bytes] = {
    "-1": varint(-1),
    "99": varint(99),
    "2^31": varint(2**31),
    "2^40": varint(2**40),
    "2^62": varint(2**62),
    "-2^62": varint(-(2**62)),
    "-2^63": varint(-(2**63)),
    "2^70": varint(2**70),
    "eleven bytes": b"\xff" * 10 + b"\x01",
    "without an end": b"\xff" * 40,
    "overlong zero": b"\x80\x00",
    "cut off": b"\x80",
}
BAD_TEXT = {
    "not UTF-8": b"\xff\xfe\xfd",
    "a lone surrogate": b"\xed\xa0\x80",
    "overlong UTF-8": b"\xc0\xaf",
    "a nul": b"a\0b",
    "escapes of a terminal": b"\x1b[2J\r\nINFO all is well",
    "a path": b"../../etc/passwd",
    "a separator": b"pump:1:2",
}


def records() -> Iterator[Case]:
    """Payloads of every record, damaged field by field."""
    for name, sample in SAMPLES.items():
        record = sample()
        entry = BOOK.newest(type(record))
        whole = encode(record)
        head, body = whole[:HEADER_BYTES], whole[HEADER_BYTES:]
        for what, number in NUMBERS.items():
            yield Case(f"{name}: first length {what}", head + number + body[1:])
            yield Case(f"{name}: only a length {what}", head + number)
            yield Case(f"{name}: last byte {what}", whole[:-1] + number)
            yield Case(f"{name}: middle {what}", whole[: len(whole) // 2] + number + whole[len(whole) // 2 + 1 :])
        for what, text in BAD_TEXT.items():
            yield Case(f"{name}: first text is {what}", head + varint(len(text)) + text + body[1 + body[0] // 2 :])
        for cut in (0, 1, 2, 9, 10, 11, len(whole) // 2, len(whole) - 1):
            yield Case(f"{name}: ends after {cut}", whole[:cut])
        yield Case(f"{name}: a byte too many", whole + b"\0")
        yield Case(f"{name}: twice", whole + whole)
        yield Case(f"{name}: zeros", head + bytes(MAX_BYTES[type(record)] - HEADER_BYTES))
        yield Case(f"{name}: 0x02", head + b"\x02" * (MAX_BYTES[type(record)] - HEADER_BYTES))
        yield Case(f"{name}: 0xff", head + b"\xff" * (MAX_BYTES[type(record)] - HEADER_BYTES))
        yield Case(f"{name}: a byte larger than allowed", head + bytes(MAX_BYTES[type(record)] - HEADER_BYTES + 1))
        yield Case(f"{name}: header of a schema that nobody has", whole[:2] + bytes(8) + body)
        for at, field in enumerate(entry.source["fields"]):
            if isinstance(field["type"], dict) and field["type"]["type"] in ("array", "map", "enum"):
                for what, number in NUMBERS.items():
                    yield Case(f"{name}: {field['name']} begins with {what}", _with(record, entry, at, number))


def _with(record: Any, entry: Any, at: int, instead: bytes) -> bytes:
    """The record with something else in place of one field and all behind it."""
    import fastavro

    head = dict(entry.parsed, fields=entry.parsed["fields"][:at])
    raw = {field["name"]: getattr(record, field["name"]) for field in head["fields"]}
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(_plain(head), {}, _force=True), raw)
    return bytes(entry.header + out.getvalue() + instead)


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if not key.startswith("__")}


# --- container files -------------------------------------------------------------------------------------------------


def container(records: list[Any], codec: Any = "null") -> bytes:
    """A container file as we write it."""
    file = io.BytesIO()
    writer = ContainerWriter(file, type(records[0]), codec=codec)
    for record in records:
        writer.write(record)
    writer.close()
    return file.getvalue()


def text(words: bytes) -> bytes:
    """As Avro writes bytes."""
    return varint(len(words)) + words


def header(schema: bytes, codec: bytes = b"null", sync: bytes = b"s" * 16) -> bytes:
    """The first part of a container file."""
    return MAGIC + varint(2) + text(b"avro.schema") + text(schema) + text(b"avro.codec") + text(codec) + b"\0" + sync


def block(count: int, body: bytes, sync: bytes = b"s" * 16) -> bytes:
    """One block."""
    return varint(count) + varint(len(body)) + body + sync


def _nested(depth: int, begin: str, core: str, end: str) -> bytes:
    return (begin * depth + core + end * depth).encode()


def schemas() -> Iterator[Case]:
    """Schemas that a file may bring along."""
    record = {"type": "record", "name": "r"}
    yield Case("recursive", json.dumps(record | {"fields": [{"name": "f", "type": ["null", "r"]}]}).encode())
    yield Case("an array of nulls", b'{"type": "array", "items": "null"}')
    yield Case("an array of empty records", b'{"type":"array","items":{"type":"record","name":"e","fields":[]}}')
    yield Case("fixed of 2^40", b'{"type": "fixed", "name": "f", "size": 1099511627776}')
    yield Case("fixed of -1", b'{"type": "fixed", "name": "f", "size": -1}')
    yield Case("fixed of text", b'{"type": "fixed", "name": "f", "size": "many"}')
    wide = [{"name": f"f{n}", "type": "int"} for n in range(6_000)]
    yield Case("6,000 fields", json.dumps(record | {"fields": wide}).encode())
    deep = {"name": "f", "type": "bytes", "default": "x" * 200_000}
    yield Case("a default of 200 kB", json.dumps(record | {"fields": [deep]}).encode())
    yield Case("arrays in arrays", _nested(5_000, '{"type":"array","items":', '"int"', "}"))
    yield Case("types in types", _nested(5_000, '{"type":', '"int"', "}"))
    yield Case("lists in lists", _nested(60_000, "[", "", "]"))
    yield Case("a number of 10,000 digits", b'{"type":"fixed","name":"f","size":' + b"9" * 10_000 + b"}")
    yield Case("NaN", b"NaN")
    yield Case("a text", b'"string"')
    yield Case("an unknown type", b'{"type": "quaternion"}')
    yield Case("no fields", b'{"type": "record", "name": "r"}')
    yield Case("fields of numbers", b'{"type": "record", "name": "r", "fields": [1, 2]}')
    yield Case("a name of a number", b'{"type": "record", "name": 7, "fields": []}')
    yield Case("a doubled key", b'{"type": "int", "type": "record", "name": "r", "fields": []}')
    yield Case("not JSON", b"{")
    yield Case("not UTF-8", b'"\xff"')
    yield Case("empty", b"")


def containers() -> Iterator[Case]:
    """Container files."""
    for name, data in schemas():
        yield Case(f"schema: {name}", header(data) + block(1, b"\0" * 10))
    ours = json.dumps(BOOK.newest(type(SAMPLES["edge_event"]())).source).encode()
    for codec in (b"snappy", b"zstandard", b"bzip2", b"lzma", b"xz", b"\xff", b"", b"deflate\0"):
        yield Case(f"codec {codec!r}", header(ours, codec) + block(1, b"\0"))
    for what, number in NUMBERS.items():
        yield Case(f"metadata entries: {what}", MAGIC + number)
        yield Case(f"metadata key: {what}", MAGIC + varint(1) + number)
        yield Case(f"a block's records: {what}", header(ours) + number + varint(4) + b"1234" + b"s" * 16)
        yield Case(f"a block's bytes: {what}", header(ours) + varint(1) + number + b"1234" + b"s" * 16)
        yield Case(f"a record's first length: {what}", header(ours) + block(1, number))
        yield Case(f"many records: {what}", header(ours) + block(2**20, number * 8))
    for size in (1 << 20, MAX_BLOCK_BYTES, 4 * MAX_BLOCK_BYTES):
        squeezed = zlib.compress(bytes(size), 9)[2:-4]
        yield Case(f"a bomb of {size}", header(ours, b"deflate") + block(1, squeezed))
        yield Case(f"a bomb of {size} that claims as many records", header(ours, b"deflate") + block(size, squeezed))
    yield Case("a block of nothing, compressed", header(ours, b"deflate") + block(1, zlib.compress(b"")[2:-4]))
    for name, sample in SAMPLES.items():
        for codec in ("null", "deflate"):
            whole = container([sample()] * 5, codec)
            yield Case(f"{name}, {codec}: cut off", whole[:-1])
            yield Case(f"{name}, {codec}: cut in half", whole[: len(whole) // 2])
            yield Case(f"{name}, {codec}: another mark", whole[:-1] + bytes([whole[-1] ^ 1]))
            yield Case(f"{name}, {codec}: more behind it", whole + b"more")
            yield Case(f"{name}, {codec}: twice", whole + whole)
            at = whole.rindex(whole[-16:], 0, -16) + 16
            yield Case(f"{name}, {codec}: one record less than said", whole[:at] + varint(6) + whole[at + 1 :])
            yield Case(f"{name}, {codec}: one record more than said", whole[:at] + varint(4) + whole[at + 1 :])
            yield Case(
                f"{name}, {codec}: a flipped bit", whole[: at + 9] + bytes([whole[at + 9] ^ 4]) + whole[at + 10 :]
            )


def sketch_bins() -> Iterator[Case]:
    """Histograms as EdgeAggregates of two channels carry them."""
    limit = 255 * 1024
    yield Case("empty", b"")
    for fill in (0, 1, 2, 0x7F, 0x80, 0xFF):
        yield Case(f"all {fill:#x}", bytes([fill]) * limit)
    ones = b"\x01\x01" * (limit // 2 - 8)
    yield Case("a true count and ones", struct.pack("BBB", 0xFF, 0xFF, 0x03) + ones)
    for what, number in NUMBERS.items():
        yield Case(f"count {what}", number + b"\x01\x01")
        yield Case(f"gap {what}", b"\x01" + number + b"\x01\x00")
        yield Case(f"bin's count {what}", b"\x01\x01" + number + b"\x00")
