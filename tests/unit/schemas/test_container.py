from __future__ import annotations

import contextlib
import io
import json
import zlib

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import container
from schemas.codec import HEADER_BYTES, encode
from schemas.container import ContainerWriter, read, read_header
from schemas.errors import DecodeError
from schemas.records import Applied, DeviceStatus, EdgeEvent, FeedbackKind, Health, SensorBlock, ThresholdsSource
from tests.doubles.records import event

SYNC = b"s" * 16


def sensor_block(seq: int, readings: int = 50) -> SensorBlock:
    values = np.random.default_rng(seq).normal(0, 1, (readings, 2)).astype("<f4")
    return SensorBlock(
        device_id="pump-7",
        boot_epoch=1,
        seq=seq,
        cohort="pumps",
        channels=["a", "b"],
        event_times=np.arange(readings, dtype="<i8").tobytes(),
        values=values.tobytes(),
    )


def written(count: int = 200, codec: container.Codec = "deflate", **metadata: str) -> tuple[bytes, list[SensorBlock]]:
    """A file of several Avro blocks."""
    blocks = [sensor_block(seq) for seq in range(count)]
    file = io.BytesIO()
    writer = ContainerWriter(file, SensorBlock, codec=codec, metadata=metadata)
    for block in blocks:
        writer.write(block)
    writer.close()
    return file.getvalue(), blocks


def failing(data: bytes) -> tuple[int, str]:
    """How many records came before the error, and what it said."""
    count = 0
    with pytest.raises(DecodeError) as wrong:  # noqa: PT012  # records before the damage are part of the contract
        for _ in read(io.BytesIO(data)):
            count += 1
    return count, str(wrong.value)


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_what_was_written_is_read_back(codec: container.Codec) -> None:
    data, blocks = written(codec=codec)
    assert list(read(io.BytesIO(data), SensorBlock)) == blocks


def test_records_with_records_inside_are_read_back() -> None:
    applied = Applied(
        kind=FeedbackKind.MODEL, version=2, accepted=True, reason="", issued_at=1_000_000, applied_at=2_000_000
    )
    status = DeviceStatus(
        device_id="pump-7",
        boot_epoch=1,
        seq=0,
        cohort="pumps",
        at=5,
        health=Health.OK,
        problem=None,
        model_name="tiny",
        model_version=1,
        model_sha256=b"m" * 32,
        thresholds_version=0,
        thresholds_source=ThresholdsSource.DEFAULT,
        escalate_at=1.0,
        raise_at=2.0,
        clear_at=0.5,
        counters={"readings_sensed": 4},
        spool_records=0,
        spool_bytes=0,
        applied=[applied],
    )
    file = io.BytesIO()
    writer = ContainerWriter(file, DeviceStatus)
    writer.write(status)
    writer.close()
    assert list(read(io.BytesIO(file.getvalue()))) == [status]


def test_any_avro_tool_can_read_the_file() -> None:
    data, blocks = written(3)
    rows = list(fastavro.reader(io.BytesIO(data)))
    assert [row["seq"] for row in rows] == [block.seq for block in blocks]  # type: ignore[index,call-overload]


def test_metadata_travels_under_our_prefix() -> None:
    data, _ = written(1, source="pump hall")
    header = read_header(io.BytesIO(data))
    assert header.metadata == {"source": "pump hall"}
    assert b"tidegate.source" in data


def test_the_same_records_give_the_same_bytes() -> None:
    assert written()[0] == written()[0]


def test_a_file_holds_one_type_of_record() -> None:
    with pytest.raises(DecodeError, match="another record than the file's"):
        ContainerWriter(io.BytesIO(), SensorBlock).write(event())


def test_an_empty_file_of_ours_holds_nothing() -> None:
    file = io.BytesIO()
    ContainerWriter(file, SensorBlock).close()
    assert list(read(io.BytesIO(file.getvalue()))) == []


def test_a_foreign_file_is_told_as_such() -> None:
    assert failing(b"time,value\n1,2\n") == (
        0,
        "not an Avro container file (offset=0, starts_with='74696d65'); "
        "a recording starts with 'Obj\\x01'; `tidegate import` makes one from CSV",
    )


def test_another_type_of_record_is_told_as_such() -> None:
    data, _ = written(1)
    with pytest.raises(DecodeError, match="the file holds other records") as wrong:
        list(read(io.BytesIO(data), EdgeEvent))
    assert wrong.value.where == {"expected": "EdgeEvent", "got": "SensorBlock"}


def test_a_schema_that_is_not_ours_is_refused_by_its_fingerprint() -> None:
    file = io.BytesIO()
    schema = {"type": "record", "name": "Other", "fields": [{"name": "x", "type": "long"}]}
    fastavro.writer(file, schema, [{"x": 1}])
    assert failing(file.getvalue())[1].startswith("unknown schema fingerprint (fingerprint='")


def test_a_recursive_schema_is_refused_before_anything_is_decoded_with_it() -> None:
    schema = '{"type":"record","name":"R","fields":[{"name":"next","type":["null","R"]}]}'
    assert failing(header(schema))[1] == "recursive schemas are refused (type='R')"


def test_a_schema_that_is_nested_without_end_is_refused() -> None:
    assert failing(header('{"type":' * 20_000))[1] == "the file's schema cannot be read (offset=0)"


def number(value: int) -> bytes:
    """Zig-zag varint."""
    value = value << 1 if value >= 0 else (-value << 1) - 1
    out = b""
    while value > 0x7F:
        out += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return out + bytes((value,))


def sized(data: bytes) -> bytes:
    return number(len(data)) + data


def header(schema: str | None = None, codec: str = "null") -> bytes:
    """Header of a file, by hand."""
    text = schema if schema is not None else json.dumps(container.BOOK.newest(SensorBlock).source)
    pairs = sized(b"avro.schema") + sized(text.encode()) + sized(b"avro.codec") + sized(codec.encode())
    return container.MAGIC + number(2) + pairs + number(0) + SYNC


def test_a_file_cut_off_in_the_middle_gives_what_is_before_and_then_says_where() -> None:
    data, blocks = written()
    count, sentence = failing(data[:-100])
    assert 0 < count < len(blocks)
    assert f"record={count}" in sentence
    assert sentence.startswith("the file ends inside of a block (offset=")


def test_a_lost_mark_between_blocks_is_seen() -> None:
    data, _ = written()
    sync = read_header(io.BytesIO(data)).sync
    at = data.rindex(sync)
    _, sentence = failing(data[:at] + b"x" * 16)
    assert sentence.startswith("the mark behind a block is missing (offset=")


def test_a_bomb_is_not_inflated() -> None:
    packed = zlib.compress(bytes(100 * 1024 * 1024), 9)[2:-4]
    bomb = header(codec="deflate") + number(1) + sized(packed) + SYNC
    count, sentence = failing(bomb)
    assert count == 0
    assert "a block is cut off or too large once decompressed" in sentence


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        (number(0) + number(5) + b"12345", "a block of impossible size"),
        (number(-1) + number(5) + b"12345", "a block of impossible size"),
        (number(1) + number(-5), "a block of impossible size"),
        (number(1) + number(2**40), "a block of impossible size"),
        (number(2**40) + sized(b"12345") + SYNC, "a block of impossible size"),
        (b"\xff" * 11, "a block is no number"),
        (number(1) + sized(b"\x02a") + SYNC, "a record does not fit its schema"),
    ],
)
def test_blocks_that_cannot_be_are_refused(block: bytes, problem: str) -> None:
    assert failing(header() + block)[1].startswith(problem)


def test_bytes_left_over_in_a_block_are_refused() -> None:
    body = encode(sensor_block(0))[HEADER_BYTES:] + b"\x00"
    count, sentence = failing(header() + number(1) + sized(body) + SYNC)
    assert count == 1
    assert sentence.startswith("bytes left over in a block (offset=")


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        (number(2), "the file ends inside of the file's metadata"),
        (number(1) + number(2**40), "the file's metadata is too large"),
        (number(1) + number(-3), "the file's metadata is too large"),
        (number(2**40), "the file's metadata is too large"),
        ((number(1) + sized(b"k") + sized(b"v")) * 100 + number(0), "the file's metadata is too large"),
    ],
)
def test_metadata_without_end_is_refused(metadata: bytes, problem: str) -> None:
    assert failing(container.MAGIC + metadata)[1].startswith(problem)


def test_an_unknown_compression_is_refused() -> None:
    assert failing(header(codec="snappy"))[1] == (
        "unknown compression (codec='snappy'); only 'null' and 'deflate' are read"
    )


@given(st.data())
def test_any_damage_gives_valid_records_or_decode_error(data: st.DataObject) -> None:
    raw = bytearray(_SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError):
        for record in read(io.BytesIO(bytes(raw)), SensorBlock):
            assert isinstance(record, SensorBlock)


@given(st.binary(max_size=300))
def test_any_bytes_behind_a_header_give_valid_records_or_decode_error(tail: bytes) -> None:
    with contextlib.suppress(DecodeError):
        list(read(io.BytesIO(header() + tail)))


_SMALL = written(4)[0]
