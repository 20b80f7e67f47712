"""Record <-> bytes: Avro single-object encoding (`C3 01`, CRC-64-AVRO of the schema, datum). The only wire codec.

Avro itself bounds nothing and fastavro trusts its input: it takes a negative union or enum index for the last branch,
ignores what is left over behind a record, and follows a recursive schema until the stack is gone. So here
- only our own schemas are ever used, picked by fingerprint and checked once when they are loaded;
- the size is checked before anything is parsed;
- only the one canonical spelling of a record is taken. Flat records have a reader of their own that proves it on the
  way (flat.py); what others decode to is encoded again and must give the very same bytes. Either refuses negative
  indexes, trailing bytes, overlong integers and every other second spelling.
Whatever the bytes are, `decode` returns a valid record or raises DecodeError.
"""

from __future__ import annotations

import copy
import io
import json
from dataclasses import dataclass, fields
from importlib import resources
from typing import Any, TypeVar

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

from schemas import records as r
from schemas.errors import DecodeError
from schemas.flat import Compiled, NotCanonical, compiled
from schemas.ids import DEVICE_ID, Identity

MARKER = b"\xc3\x01"
HEADER_BYTES = 10
KIB = 1024

#: Largest encoded record of each type. Below Kafka's own limit of 1 MiB for a batch, and small where lists of
#: objects could blow up in memory.
MAX_BYTES: dict[type[Any], int] = {
    r.SensorBlock: 1000 * KIB,
    r.EdgeEvent: 1000 * KIB,
    r.EdgeAggregate: 256 * KIB,
    r.DeviceStatus: 64 * KIB,
    r.DeviceClaim: 4 * KIB,
    r.GapMarker: 256 * KIB,
    r.Decision: 8 * KIB,
    r.FleetWindow: 512 * KIB,
    r.SeenPage: 1000 * KIB,
    r.Failure: 1010 * KIB,
    r.ThresholdUpdate: 32 * KIB,
    r.ModelUpdate: 256 * KIB,
    r.ArtifactChunk: 1000 * KIB,
}

_FILES: dict[type[Any], str] = {
    r.SensorBlock: "sensor_block",
    r.EdgeEvent: "edge_event",
    r.EdgeAggregate: "edge_aggregate",
    r.DeviceStatus: "device_status",
    r.DeviceClaim: "device_claim",
    r.GapMarker: "gap_marker",
    r.Decision: "decision",
    r.FleetWindow: "fleet_window",
    r.SeenPage: "seen_page",
    r.Failure: "failure",
    r.ThresholdUpdate: "threshold_update",
    r.ModelUpdate: "model_update",
    r.ArtifactChunk: "artifact_chunk",
}

_ENUMS: dict[type[Any], dict[str, type[Any]]] = {
    r.EdgeEvent: {"outcome": r.Outcome, "transition": r.Transition},
    r.DeviceStatus: {"health": r.Health, "thresholds_source": r.ThresholdsSource},
    r.DeviceClaim: {"kind": r.ClaimKind},
    r.GapMarker: {"reason": r.GapReason},
    r.Applied: {"kind": r.FeedbackKind},
    r.Decision: {
        "provisional": r.Outcome,
        "outcome": r.Outcome,
        "verdict": r.Verdict,
        "decided_by": r.DecidedBy,
    },
    r.ThresholdUpdate: {"target_kind": r.TargetKind},
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WriterSchema:
    """One version of one record's schema, ready for use."""

    record: type[Any]
    version: int
    source: dict[str, Any]  # the .avsc file as written, with logical types and docs
    parsed: Any  # without logical types: times stay integers, and the fingerprint is the same
    header: bytes
    flat: Compiled | None  # reader and writer made for this schema, where it is flat


def check_schema(schema: Any, names: frozenset[str] = frozenset()) -> None:
    """Refuse what makes a decoder unsafe: recursion, and arrays or maps of items that take no bytes.

    Raises DecodeError: with the name of the type at fault.
    """
    if isinstance(schema, list):
        for branch in schema:
            check_schema(branch, names)
        return
    if isinstance(schema, str):
        if schema in names:
            raise DecodeError("recursive schemas are refused", type=schema)
        return
    kind = schema["type"]
    if kind in ("record", "error"):
        own = names | {schema["name"], f"{schema.get('namespace', '')}.{schema['name']}"}
        for field in schema["fields"]:
            check_schema(field["type"], own)
    elif kind in ("array", "map"):
        items = schema["items" if kind == "array" else "values"]
        if kind == "array" and _takes_no_bytes(items):
            raise DecodeError("an array of items that take no bytes is refused", items=str(items)[:100])
        check_schema(items, names)
    elif isinstance(kind, (dict, list)):
        check_schema(kind, names)


def _takes_no_bytes(schema: Any) -> bool:
    if isinstance(schema, dict):
        if schema["type"] == "fixed":
            return int(schema["size"]) == 0
        if schema["type"] == "record":
            return all(_takes_no_bytes(field["type"]) for field in schema["fields"])
        return _takes_no_bytes(schema["type"])
    return bool(schema == "null")


def _without_logical_types(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_logical_types(branch) for branch in schema]
    if isinstance(schema, dict):
        return {k: _without_logical_types(v) for k, v in schema.items() if k != "logicalType"}
    return schema


class SchemaBook:
    """Every released version of every record's schema, by fingerprint. The highest version is the one written."""

    def __init__(self, sources: list[tuple[type[Any], int, dict[str, Any]]]) -> None:
        self._by_header: dict[bytes, WriterSchema] = {}
        self._newest: dict[type[Any], WriterSchema] = {}
        for record, version, source in sorted(sources, key=lambda item: item[1]):
            check_schema(source)
            parsed: Any = fastavro.parse_schema(_without_logical_types(copy.deepcopy(source)), {})
            crc = fingerprint(to_parsing_canonical_form(parsed), "CRC-64-AVRO")
            flat = compiled(parsed, _ENUMS.get(record, {}))
            entry = WriterSchema(record, version, source, parsed, MARKER + bytes.fromhex(crc)[::-1], flat)
            self._by_header[entry.header] = entry
            self._newest[record] = entry

    @classmethod
    def released(cls) -> SchemaBook:
        """The book of the schemas in schemas/avro, named `<record>.v<version>.avsc`."""
        by_file = {name: record for record, name in _FILES.items()}
        sources = []
        for path in resources.files("schemas").joinpath("avro").iterdir():
            name, _, rest = path.name.partition(".v")
            if name in by_file and rest.endswith(".avsc"):
                sources.append((by_file[name], int(rest.removesuffix(".avsc")), json.loads(path.read_text())))
        return cls(sources)

    def writer(self, header: bytes) -> WriterSchema:
        """Schema that a payload's first ten bytes name. Raises DecodeError: not framed, or not one of ours."""
        try:
            return self._by_header[header]
        except KeyError:
            pass
        if header[:2] != MARKER or len(header) < HEADER_BYTES:
            raise DecodeError("not a record: the single-object header is missing", starts_with=header.hex())
        raise DecodeError(
            "unknown schema fingerprint",
            fingerprint=header[2:][::-1].hex(),
            fix="the writer is newer than this program, or it is not one of ours; add its .avsc to schemas/avro",
        )

    def newest(self, record: type[Any]) -> WriterSchema:
        """Schema that records of this type are written with."""
        return self._newest[record]

    def all(self) -> list[WriterSchema]:
        """Every version of every record, oldest first."""
        return list(self._by_header.values())


BOOK = SchemaBook.released()
_NAMES = {record: tuple(f.name for f in fields(record)) for record in _FILES}
_APPLIED = tuple(f.name for f in fields(r.Applied))


def encode(record: r.Record) -> bytes:
    """One record to bytes. Raises DecodeError: larger than its type may be."""
    cls = type(record)
    entry = BOOK.newest(cls)
    payload = entry.flat.write(entry.header, record) if entry.flat is not None else _encode(record, entry)
    if len(payload) > MAX_BYTES[cls]:
        raise DecodeError("record is too large", record=cls.__name__, bytes=len(payload), max_bytes=MAX_BYTES[cls])
    return payload


def _encode(record: r.Record, entry: WriterSchema) -> bytes:
    cls = type(record)
    raw: dict[str, Any] = {name: getattr(record, name) for name in _NAMES[cls]}
    if cls is r.DeviceStatus:
        raw["applied"] = [{name: getattr(item, name) for name in _APPLIED} for item in raw["applied"]]
    out = io.BytesIO()
    out.write(entry.header)
    fastavro.schemaless_writer(out, entry.parsed, raw)
    return out.getvalue()


def decode(payload: bytes, expected: type[T], book: SchemaBook = BOOK) -> T:
    """Bytes to one record of the expected type, of any released version. Raises only DecodeError."""
    entry = book.writer(payload[:HEADER_BYTES])
    if entry.record is not expected:
        raise DecodeError("another record than expected", expected=expected.__name__, got=entry.record.__name__)
    if len(payload) > MAX_BYTES[expected]:
        raise DecodeError(
            "record is too large", record=expected.__name__, bytes=len(payload), max_bytes=MAX_BYTES[expected]
        )
    newest = book.newest(expected)
    try:
        if entry.flat is not None:
            raw: Any = entry.flat.read(payload, HEADER_BYTES)
        else:
            raw = _read(payload[HEADER_BYTES:], entry)
        if entry is not newest:
            raw = fastavro.schemaless_reader(io.BytesIO(payload[HEADER_BYTES:]), entry.parsed, newest.parsed)
    except NotCanonical as cause:
        raise DecodeError("payload is not the canonical encoding of its record", record=expected.__name__) from cause
    except Exception as cause:  # IndexError, UnicodeDecodeError; fastavro raises EOFError, ValueError and more
        raise DecodeError("payload does not fit its schema", record=expected.__name__) from cause
    try:
        return _build(expected, raw) if entry.flat is None or entry is not newest else expected(**raw)
    except (ValueError, TypeError) as cause:
        raise DecodeError(f"record is not valid: {cause}", record=expected.__name__) from cause


def _read(body: bytes, entry: WriterSchema) -> dict[str, Any]:
    """A record that is not flat. Raises NotCanonical, and what fastavro raises."""
    raw: Any = fastavro.schemaless_reader(io.BytesIO(body), entry.parsed, None)
    again = io.BytesIO()
    fastavro.schemaless_writer(again, entry.parsed, raw)
    if again.getvalue() != body:
        raise NotCanonical(entry.record.__name__)
    return dict(raw)


def decode_any(payload: bytes, book: SchemaBook = BOOK) -> r.Record:
    """Bytes to whichever record they are. Raises only DecodeError."""
    record: r.Record = decode(payload, book.writer(payload[:HEADER_BYTES]).record, book)
    return record


def _build(cls: type[T], raw: dict[str, Any]) -> T:
    for name, enum in _ENUMS.get(cls, {}).items():
        raw[name] = enum(raw[name])
    if cls is r.DeviceStatus:
        raw["applied"] = [_build(r.Applied, item) for item in raw["applied"]]
    return cls(**raw)


def is_a(payload: bytes, record: type[Any]) -> bool:
    """Whether a payload says of itself that it is such a record; its body is not looked at."""
    entry = BOOK._by_header.get(payload[:HEADER_BYTES])
    return entry is not None and entry.record is record


def peek_identity(payload: bytes) -> Identity | None:
    """Identity of a record of a device without decoding the rest; None where it has none or cannot be read.

    Device, boot_epoch and seq are the first three fields of every record that a device writes, in every version.
    """
    entry = BOOK._by_header.get(payload[:HEADER_BYTES])
    if entry is None or "boot_epoch" not in _NAMES[entry.record]:
        return None
    try:
        length, at = _varint(payload, HEADER_BYTES)
        device_id = payload[at : at + length].decode() if 0 <= length <= 128 else ""
        boot_epoch, at = _varint(payload, at + length)
        seq, at = _varint(payload, at)
    except (IndexError, UnicodeDecodeError):
        return None
    return Identity(device_id, boot_epoch, seq) if DEVICE_ID.fullmatch(device_id) else None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    shift = value = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
        if shift > 63:
            raise IndexError
