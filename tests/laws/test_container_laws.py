"""Container files: what is written is read back; any bytes give valid records and then an end or DecodeError."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.container import ContainerWriter, read
from schemas.errors import DecodeError
from schemas.records import SensorBlock
from tests.golden.samples import SAMPLES
from tests.laws.strategies import RECORDS


def written(records: list[Any], codec: Any = "deflate") -> bytes:
    file = io.BytesIO()
    writer = ContainerWriter(file, type(records[0]), codec=codec, metadata={"origin": "a test"})
    for record in records:
        writer.write(record)
    writer.close()
    return file.getvalue()


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
@given(data=st.data())
def test_what_is_written_is_read_back(record: type[Any], data: st.DataObject) -> None:
    records = data.draw(st.lists(RECORDS[record], min_size=1, max_size=4))
    file = written(records, data.draw(st.sampled_from(["null", "deflate"])))
    assert list(read(io.BytesIO(file), record)) == records


@given(st.binary(max_size=200) | st.builds(b"Obj\x01".__add__, st.binary(max_size=200)))
def test_any_bytes_are_read_or_raise_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        list(read(io.BytesIO(data)))


_FILES = [written([sample()] * 3, codec) for sample in SAMPLES.values() for codec in ("null", "deflate")]


@given(st.sampled_from(_FILES), st.data())
def test_a_damaged_file_gives_valid_records_and_then_ends_or_raises_decode_error(
    file: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(file) - 1))
    changed = file[:at] + data.draw(st.binary(max_size=6)) + file[at + data.draw(st.integers(0, 6)) :]
    try:
        for record in read(io.BytesIO(changed)):
            assert type(record) in RECORDS
    except DecodeError:
        pass


@given(st.data())
def test_a_truncated_file_is_an_error_unless_it_ends_between_two_blocks(data: st.DataObject) -> None:
    file = written(data.draw(st.lists(RECORDS[SensorBlock], min_size=1, max_size=3)))
    with pytest.raises(DecodeError):
        list(read(io.BytesIO(file[: data.draw(st.integers(0, len(file) - 1))])) or [_end_of_header(file)])


def _end_of_header(file: bytes) -> None:
    raise DecodeError("only the header is left", bytes=len(file))
