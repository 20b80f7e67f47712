"""Chunks and batches survive their coders, and foreign bytes raise DecodeError and nothing else."""

from __future__ import annotations

import contextlib

import pytest
from apache_beam import coders
from hypothesis import given
from hypothesis import strategies as st

from pipelines.io.chunk import (
    Batch,
    BatchCoder,
    Chunk,
    ChunkCoder,
    Outgoing,
    Receipt,
    Record,
    Resume,
    WindowAck,
    decode_batch,
    decode_chunk,
    encode_batch,
    encode_chunk,
)
from schemas.errors import DecodeError

i64 = st.integers(-(2**62), 2**62)
names = st.text(max_size=10)
payload = st.none() | st.binary(max_size=30)
records = st.lists(st.builds(Record, i64, payload, payload, i64, st.just(False)), max_size=8)
resumes = st.builds(Resume, i64, st.lists(st.tuples(names, i64), max_size=3).map(tuple))
refused = st.lists(st.tuples(i64, names), max_size=3).map(tuple)
chunks = st.builds(Chunk, names, names, i64, i64, i64, i64, records, resumes, i64, refused)
headers = st.lists(st.tuples(names, st.binary(max_size=9)), max_size=3).map(tuple)
batches = st.builds(
    Batch,
    st.lists(st.builds(Outgoing, payload, payload, headers), max_size=5),
    st.lists(st.builds(Receipt, names, names, i64, i64, i64), max_size=3).map(tuple),
    st.lists(st.builds(WindowAck, names, names, i64, st.binary(max_size=9), i64, st.booleans()), max_size=3).map(tuple),
)


@given(chunks)
def test_a_chunk_comes_back_as_it_was(chunk: Chunk) -> None:
    assert decode_chunk(encode_chunk(chunk)) == chunk


@given(batches)
def test_a_batch_comes_back_as_it_was(batch: Batch) -> None:
    assert decode_batch(encode_batch(batch)) == batch


@given(
    st.binary(max_size=200)
    | st.binary(max_size=200).map(lambda b: b"TGC2" + b)
    | st.binary().map(lambda b: b"TGB1" + b)
)
def test_any_bytes_decode_or_raise_decode_error(data: bytes) -> None:
    for decode in (decode_chunk, decode_batch):
        with contextlib.suppress(DecodeError):
            decode(data)


@given(chunks, st.data())
def test_a_cut_or_lengthened_chunk_is_refused(chunk: Chunk, data: st.DataObject) -> None:
    encoded = encode_chunk(chunk)
    with pytest.raises(DecodeError):
        decode_chunk(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
    with pytest.raises(DecodeError):
        decode_chunk(encoded + b"\0")


def test_a_claim_of_many_records_is_refused_before_memory_is_taken() -> None:
    encoded = bytearray(encode_chunk(Chunk("f", "t", 0, 0, 0, 0, [])))
    encoded[36:40] = (999_999).to_bytes(4, "little")
    with pytest.raises(DecodeError, match="claims more items than it holds"):
        decode_chunk(bytes(encoded))


def test_beam_finds_our_coders_and_pickles_neither() -> None:
    assert isinstance(coders.registry.get_coder(Chunk), ChunkCoder)
    assert isinstance(coders.registry.get_coder(Batch), BatchCoder)
    assert b"pickle" not in encode_chunk(Chunk("f", "t", 0, 0, 1, 0, [Record(0, b"k", b"v", 1)]))


def test_fresh_leaves_out_what_an_earlier_run_has_answered() -> None:
    three = [Record(n, None, b"", 0) for n in (5, 6, 7)]
    assert Chunk("f", "t", 0, 5, 8, 0, three, Resume(7)).fresh() == three[2:]
    assert Chunk("f", "t", 0, 5, 8, 0, three, Resume(5)).fresh() == three


def test_sizes_are_estimated_by_the_first_record() -> None:
    chunk = Chunk("f", "t", 0, 0, 100, 0, [Record(n, b"key", bytes(500), 1) for n in range(100)])
    assert ChunkCoder().estimate_size(chunk) == pytest.approx(len(encode_chunk(chunk)), rel=0.1)
    batch = Batch([Outgoing(b"key", bytes(500))] * 100)
    assert BatchCoder().estimate_size(batch) == pytest.approx(len(encode_batch(batch)), rel=0.1)
    assert BatchCoder().estimate_size(Batch([])) > 0
