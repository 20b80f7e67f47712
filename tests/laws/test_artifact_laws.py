"""Files in chunks: any order, repeats and strangers in between; never a file that is not the one announced."""

from __future__ import annotations

import dataclasses
import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import artifacts
from schemas.artifacts import Assembler, chunk_key, cut
from schemas.records import ArtifactChunk


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "CHUNK_BYTES", 7)


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4, unique=True), st.randoms(use_true_random=False))
def test_files_come_together_from_chunks_in_any_order_and_repeated(files: list[bytes], mix: random.Random) -> None:
    chunks = [chunk for data in files for chunk in cut(data)]
    chunks += mix.sample(chunks, len(chunks) // 2)
    mix.shuffle(chunks)
    assembler = Assembler()
    assert {assembler.add(chunk) for chunk in chunks} == {""}
    for data in files:
        assert assembler.get(hashlib.sha256(data).digest()) == data


@given(st.binary(min_size=8, max_size=60), st.data())
def test_a_chunk_that_was_changed_never_makes_a_file(data: bytes, draw: st.DataObject) -> None:
    chunks = cut(data)
    at = draw.draw(st.integers(0, len(chunks) - 1))
    other = draw.draw(st.binary(min_size=len(chunks[at].data), max_size=len(chunks[at].data)))
    if other == chunks[at].data:
        return
    chunks[at] = dataclasses.replace(chunks[at], data=other)
    assembler = Assembler()
    refusals = [assembler.add(chunk) for chunk in chunks]
    assert refusals[-1] == "the chunks do not add up to the hash they were sent under"
    assert assembler.get(hashlib.sha256(data).digest()) is None


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=12), st.integers(10, 100))
def test_what_is_held_stays_below_the_limit_or_is_one_file(files: list[bytes], limit: int) -> None:
    assembler = Assembler(max_bytes=limit)
    for data in files:
        for chunk in cut(data):
            assembler.add(chunk)
            held = [assembler.get(hashlib.sha256(f).digest()) for f in set(files)]
            assert sum(len(f) for f in held if f is not None) <= limit


def test_a_missing_chunk_means_no_file_yet() -> None:
    first, *rest = cut(b"twelve bytes")
    assembler = Assembler()
    for chunk in rest:
        assembler.add(chunk)
    assert assembler.get(first.sha256) is None
    assembler.add(first)
    assert assembler.get(first.sha256) == b"twelve bytes"
    assembler.drop(first.sha256)
    assert assembler.get(first.sha256) is None


def test_an_empty_file_is_one_empty_chunk() -> None:
    (chunk,) = cut(b"")
    assembler = Assembler()
    assert assembler.add(chunk) == ""
    assert assembler.get(chunk.sha256) == b""


def test_a_file_above_the_limit_is_refused_at_its_first_chunk() -> None:
    assert Assembler(max_bytes=10).add(cut(b"twelve bytes")[0]) == "a file of 12 bytes is more than the 10 allowed"


def test_chunks_that_disagree_about_their_file_are_refused() -> None:
    first, second = cut(b"twelve bytes")
    assembler = Assembler()
    assembler.add(first)
    assert assembler.add(dataclasses.replace(second, total_bytes=13)) == "chunks of one file disagree about its size"


def test_chunks_that_are_more_than_their_file_are_refused() -> None:
    sha = bytes(32)
    pieces = [ArtifactChunk(sha256=sha, index=i, count=3, total_bytes=8, data=b"12345") for i in range(3)]
    assembler = Assembler()
    refusals = [assembler.add(piece) for piece in pieces[:2]]
    assert refusals == ["", "the chunks are more than the file they belong to"]


def test_sending_a_chunk_again_has_the_same_key() -> None:
    first, second = cut(b"twelve bytes")
    assert chunk_key(first) == chunk_key(dataclasses.replace(first))
    assert chunk_key(first) != chunk_key(second)
