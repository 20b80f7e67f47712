"""The codec: whatever the bytes are, a valid record or DecodeError; and one spelling per record."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.codec import BOOK, HEADER_BYTES, _encode, _read, decode, decode_any, encode, peek_identity
from schemas.errors import DecodeError
from schemas.ids import Identity
from tests.golden.samples import SAMPLES
from tests.laws.strategies import RECORDS, any_record

HEADERS = st.sampled_from([entry.header for entry in BOOK.all()])
_VALID = [encode(sample()) for sample in SAMPLES.values()]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
@given(data=st.data())
def test_every_valid_record_survives_the_wire(record: type[Any], data: st.DataObject) -> None:
    value = data.draw(RECORDS[record])
    assert decode(encode(value), record) == value
    assert decode_any(encode(value)) == value


def test_every_record_on_the_wire_has_a_law() -> None:
    assert set(RECORDS) == {entry.record for entry in BOOK.all()}


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_raise_decode_error(payload: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode_any(payload)


@given(HEADERS, st.binary(max_size=300))
@example(BOOK.all()[0].header, b"\xff" * 60)
@example(BOOK.all()[0].header, b"\x01")  # a string of length -1
def test_any_bytes_behind_a_true_header_decode_canonically_or_raise_decode_error(header: bytes, body: bytes) -> None:
    try:
        record = decode_any(header + body)
    except DecodeError:
        return
    assert encode(record) == header + body


@given(st.sampled_from(_VALID), st.data())
def test_a_changed_record_is_another_valid_one_or_refused(payload: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(payload) - 1))
    length = data.draw(st.integers(0, min(10, len(payload) - at)))
    changed = payload[:at] + data.draw(st.binary(max_size=10)) + payload[at + length :]
    try:
        record = decode_any(changed)
    except DecodeError:
        return
    assert encode(record) == changed


@given(any_record, st.binary(min_size=1, max_size=20))
def test_bytes_behind_a_record_are_refused(record: Any, more: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_any(encode(record) + more)


@given(any_record, st.data())
def test_a_record_that_ends_early_is_refused(record: Any, data: st.DataObject) -> None:
    payload = encode(record)
    with pytest.raises(DecodeError):
        decode_any(payload[: data.draw(st.integers(0, len(payload) - 1))])


@given(any_record)
def test_the_identity_can_be_told_without_decoding(record: Any) -> None:
    assert peek_identity(encode(record)) == getattr(record, "identity", None)


@given(st.binary(max_size=100) | st.builds(bytes.__add__, HEADERS, st.binary(max_size=100)))
def test_looking_for_an_identity_in_any_bytes_finds_one_or_none(payload: bytes) -> None:
    found = peek_identity(payload)
    assert found is None or Identity.parse(found.event_id) == found or min(found.boot_epoch, found.seq) < 0


@given(any_record)
def test_a_record_reads_as_no_other_type(record: Any) -> None:
    payload = encode(record)
    for entry in BOOK.all():
        if entry.record is not type(record):
            with pytest.raises(DecodeError, match=r"another record than expected|unknown schema fingerprint"):
                decode(payload, entry.record)


def test_headers_are_ten_bytes_and_tell_schemas_apart() -> None:
    headers = [entry.header for entry in BOOK.all()]
    assert len(set(headers)) == len(headers)
    assert {len(header) for header in headers} == {HEADER_BYTES}


FLAT = [entry for entry in BOOK.all() if entry.flat is not None]


@pytest.mark.parametrize("entry", FLAT, ids=lambda entry: entry.record.__name__)
@given(data=st.data())
def test_a_made_reader_and_writer_agree_with_the_schema_driven_ones(entry: Any, data: st.DataObject) -> None:
    record = data.draw(RECORDS[entry.record])
    theirs = _encode(record, entry)
    assert entry.flat.write(entry.header, record) == theirs
    assert entry.flat.read(theirs, HEADER_BYTES) == _read(theirs[HEADER_BYTES:], entry)


@pytest.mark.parametrize("entry", FLAT, ids=lambda entry: entry.record.__name__)
@given(data=st.data())
def test_a_made_reader_takes_changed_bytes_exactly_where_a_second_encoding_gives_them_back(
    entry: Any, data: st.DataObject
) -> None:
    body = _encode(data.draw(RECORDS[entry.record]), entry)[HEADER_BYTES:]
    at = data.draw(st.integers(0, len(body) - 1))
    length = data.draw(st.integers(0, min(10, len(body) - at)))
    changed = body[:at] + data.draw(st.binary(max_size=10)) + body[at + length :]
    assert _outcome(lambda: entry.flat.read(entry.header + changed, HEADER_BYTES)) == _outcome(
        lambda: _read(changed, entry)
    )


def _outcome(read: Callable[[], dict[str, Any]]) -> str | None:
    """What was read, as text, since a NaN is not equal to itself; None where it was refused."""
    try:
        return repr({name: str(value) if isinstance(value, str) else value for name, value in read().items()})
    except Exception:  # every refusal counts the same here
        return None
