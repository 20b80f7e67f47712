from __future__ import annotations

import copy
import io
from typing import Any

import fastavro
import pytest

from schemas.codec import BOOK, MAX_BYTES, SchemaBook, check_schema, decode, decode_any, encode, is_a
from schemas.errors import DecodeError
from schemas.records import ArtifactChunk, Decision, DeviceStatus, EdgeEvent, Failure, FleetWindow, SensorBlock
from tests.doubles import records as make
from tests.golden.samples import SAMPLES


def raw(name: str, **changes: Any) -> dict[str, Any]:
    """The fields of a sample as fastavro writes them."""
    record = SAMPLES[name]()
    fields = {field: getattr(record, field) for field in type(record).__slots__}
    if "applied" in fields:
        fields["applied"] = [{f: getattr(a, f) for f in type(a).__slots__} for a in fields["applied"]]
    return fields | changes


def framed(record: type[Any], fields: dict[str, Any]) -> bytes:
    """A payload that no dataclass has checked."""
    entry = BOOK.newest(record)
    out = io.BytesIO()
    out.write(entry.header)
    fastavro.schemaless_writer(out, entry.parsed, fields)
    return out.getvalue()


def varint(value: int) -> bytes:
    zigzag, out = (value << 1) ^ (value >> 63), bytearray()
    while zigzag >= 0x80:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes([*out, zigzag])


def with_index(name: str, record: type[Any], field: str, index: int) -> bytes:
    """A sample with the enum or union index of one field replaced; its value must begin at a known place."""
    kept = raw(name)
    entry = BOOK.newest(record)
    names = [f["name"] for f in entry.source["fields"]]
    out = io.BytesIO()
    out.write(entry.header)
    for at, schema in enumerate(entry.parsed["fields"]):
        if names[at] == field:
            out.write(varint(index))
            break
        part = {"type": "record", "name": "part", "fields": [schema]}
        parsed = fastavro.parse_schema(_with_named_types(part, entry.parsed))
        fastavro.schemaless_writer(out, parsed, {names[at]: kept[names[at]]})
    whole = framed(record, kept)
    return out.getvalue() + whole[len(out.getvalue()) :]


def _with_named_types(part: dict[str, Any], parent: dict[str, Any]) -> dict[str, Any]:
    """The part with definitions in place of the names of types that an earlier field defined."""
    named: dict[str, Any] = {}

    def walk(schema: Any) -> None:
        if isinstance(schema, list):
            for branch in schema:
                walk(branch)
        elif isinstance(schema, dict):
            if schema.get("type") in ("fixed", "enum", "record") and schema is not parent:
                named.setdefault(schema["name"], schema)
            for key in ("type", "items", "values"):
                walk(schema.get(key))
            for field in schema.get("fields", []):
                walk(field["type"])

    def put(schema: Any) -> Any:
        if isinstance(schema, list):
            return [put(branch) for branch in schema]
        if isinstance(schema, str):
            return copy.deepcopy(named.get(schema, schema))
        return schema | {"type": put(schema["type"])} if isinstance(schema.get("type"), (str, list)) else schema

    walk(parent)
    field = part["fields"][0]
    return part | {"fields": [field | {"type": put(field["type"])}]}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_of_every_record_survives_the_wire(name: str) -> None:
    record = SAMPLES[name]()
    assert decode(encode(record), type(record)) == record


@pytest.mark.parametrize("index", [-1, 99, -(2**62)])
@pytest.mark.parametrize(
    ("name", "record", "field"),
    [
        ("edge_event", EdgeEvent, "outcome"),
        ("edge_event", EdgeEvent, "transition"),
        ("decision", Decision, "verdict"),
        ("device_status", DeviceStatus, "health"),
        ("sensor_block", SensorBlock, "labels"),
        ("decision", Decision, "heavy_score"),
        ("failure", Failure, "key"),
    ],
)
def test_an_enum_or_union_index_that_is_not_one_is_refused(
    name: str, record: type[Any], field: str, index: int
) -> None:
    with pytest.raises(DecodeError):
        decode(with_index(name, record, field, index), record)


def test_the_same_spelling_by_hand_with_the_true_index_is_accepted() -> None:
    """Guards the test above: it must be refused for its index alone."""
    assert decode(with_index("edge_event", EdgeEvent, "outcome", 2), EdgeEvent) == SAMPLES["edge_event"]()
    assert decode(with_index("failure", Failure, "key", 1), Failure) == SAMPLES["failure"]()


def test_a_number_spelled_longer_than_needed_is_refused() -> None:
    payload = encode(SAMPLES["artifact_chunk"]())
    at = 10 + 32  # the index, 1, behind the header and the hash: 0x02
    assert payload[at] == 0x02
    with pytest.raises(DecodeError, match="not the canonical encoding"):
        decode(payload[:at] + b"\x82\x00" + payload[at + 1 :], ArtifactChunk)


def test_a_string_of_negative_length_is_refused() -> None:
    payload = encode(SAMPLES["failure"]())
    with pytest.raises(DecodeError):
        decode(payload[:10] + varint(-5) + payload[11:], Failure)


@pytest.mark.parametrize("count", [2**20, 2**40, 2**62, -(2**62)])
def test_an_array_that_claims_more_items_than_there_are_bytes_is_refused(count: int) -> None:
    payload = encode(SAMPLES["fleet_window"]())
    header, devices = payload[:10], payload.index(b"\x04\x0cpump-7")
    with pytest.raises(DecodeError):
        decode(header + payload[10:devices] + varint(count) + payload[devices + 1 :], FleetWindow)


def test_an_unknown_fingerprint_is_named_as_it_is_written_in_schema_registries() -> None:
    with pytest.raises(
        DecodeError, match=r"unknown schema fingerprint \(fingerprint='0807060504030201'\); the writer is"
    ):
        decode_any(b"\xc3\x01" + bytes(range(1, 9)) + b"body")


@pytest.mark.parametrize("payload", [b"", b"\xc3", b"\xc3\x01\x00", b'{"json": 1}', b"Obj\x01" + bytes(20)])
def test_what_has_no_header_is_not_a_record(payload: bytes) -> None:
    with pytest.raises(DecodeError, match="not a record: the single-object header is missing"):
        decode_any(payload)


def test_another_record_than_expected_names_both() -> None:
    with pytest.raises(DecodeError, match=r"another record than expected \(expected='EdgeEvent', got='Decision'\)"):
        decode(encode(SAMPLES["decision"]()), EdgeEvent)


def test_a_record_above_its_limit_is_refused_on_both_sides() -> None:
    chunk = SAMPLES["artifact_chunk"]()
    limit = MAX_BYTES[ArtifactChunk]
    changes = {"data": b"x" * limit, "total_bytes": limit}
    big = ArtifactChunk(**raw("artifact_chunk", **changes))
    with pytest.raises(DecodeError, match=f"record is too large .*max_bytes={limit}"):
        encode(big)
    with pytest.raises(DecodeError, match="record is too large"):
        decode(framed(ArtifactChunk, raw("artifact_chunk", **changes)), ArtifactChunk)
    assert isinstance(chunk, ArtifactChunk)


@pytest.mark.parametrize(
    ("name", "record", "changes", "sentence"),
    [
        ("edge_event", EdgeEvent, {"device_id": "pump:7"}, "device_id must be a path"),
        ("edge_event", EdgeEvent, {"score": float("nan")}, "score must be finite"),
        ("edge_event", EdgeEvent, {"readings": 3}, "no window of 3 x 2"),
        ("edge_event", EdgeEvent, {"channels": 0}, "a window of 2 readings x 0 channels"),
        ("sensor_block", SensorBlock, {"channels": []}, "needs at least one channel"),
        ("sensor_block", SensorBlock, {"event_times": b"1234567"}, "do not fit 2 channels"),
        ("sensor_block", SensorBlock, {"labels": b"\x00"}, "1 labels for 3 readings"),
        ("sensor_block", SensorBlock, {"sampled_at_rate": 0.0}, "sampled_at_rate must be in"),
        ("artifact_chunk", ArtifactChunk, {"index": 3}, "chunk 3 of 3"),
        ("artifact_chunk", ArtifactChunk, {"total_bytes": 1}, "a chunk of 4 bytes in a file of 1"),
    ],
)
def test_a_record_that_cannot_be_is_refused_with_what_is_wrong(
    name: str, record: type[Any], changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DecodeError, match=f"record is not valid: .*{sentence}"):
        decode(framed(record, raw(name, **changes)), record)


def test_a_recursive_schema_is_refused() -> None:
    tree = {"type": "record", "name": "Tree", "fields": [{"name": "child", "type": ["null", "Tree"]}]}
    with pytest.raises(DecodeError, match=r"recursive schemas are refused \(type='Tree'\)"):
        check_schema(tree)


@pytest.mark.parametrize("way", ["array", "map", "record", "namespace"])
def test_a_schema_that_is_recursive_in_a_roundabout_way_is_refused(way: str) -> None:
    inner: Any = {
        "array": {"type": "array", "items": "t.Tree"},
        "map": {"type": "map", "values": "Tree"},
        "record": {"type": "record", "name": "Branch", "fields": [{"name": "tree", "type": "Tree"}]},
        "namespace": ["null", "t.Tree"],
    }[way]
    tree = {"type": "record", "name": "Tree", "namespace": "t", "fields": [{"name": "child", "type": inner}]}
    with pytest.raises(DecodeError, match="recursive schemas are refused"):
        check_schema(tree)


@pytest.mark.parametrize(
    "items",
    [
        "null",
        {"type": "null"},
        {"type": "fixed", "name": "None", "size": 0},
        {"type": "record", "name": "Nothing", "fields": []},
        {"type": "record", "name": "Nulls", "fields": [{"name": "a", "type": "null"}]},
    ],
)
def test_an_array_of_items_that_take_no_bytes_is_refused(items: Any) -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": {"type": "array", "items": items}}]}
    with pytest.raises(DecodeError, match="an array of items that take no bytes is refused"):
        check_schema(schema)
    with pytest.raises(DecodeError):
        SchemaBook([(SensorBlock, 1, schema)])


def test_our_own_schemas_are_safe() -> None:
    for entry in BOOK.all():
        check_schema(entry.source)


def test_a_payload_is_told_by_its_header_alone() -> None:
    payload = encode(make.event())
    assert is_a(payload, EdgeEvent)
    assert not is_a(payload, SensorBlock)
    assert not is_a(payload[:9], EdgeEvent)
    assert not is_a(b"", EdgeEvent)
