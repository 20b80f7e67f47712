"""Files in chunks: put together in any order, refused where they do not belong together, bounded in memory."""

from __future__ import annotations

import hashlib

import pytest

from schemas.artifacts import CHUNK_BYTES, Assembler, chunk_key, cut
from schemas.records import ArtifactChunk


def piece(data: bytes, index: int = 0, count: int = 1, total: int | None = None, of: bytes = b"f") -> ArtifactChunk:
    total = len(data) if total is None else total
    return ArtifactChunk(sha256=hashlib.sha256(of).digest(), index=index, count=count, total_bytes=total, data=data)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_a_file_is_put_together_from_its_chunks(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    chunks = cut(data)
    assert len({chunk_key(c) for c in chunks}) == len(chunks)
    files = Assembler()
    for chunk in reversed(chunks):
        assert files.get(chunk.sha256) is None
        assert files.add(chunk) == ""
    assert files.get(hashlib.sha256(data).digest()) == data
    assert files.add(chunks[0]) == ""
    files.drop(chunks[0].sha256)
    assert files.get(chunks[0].sha256) is None


def test_a_chunk_that_is_sent_again_takes_the_place_of_the_one_before() -> None:
    files = Assembler()
    of = b"goodfile"
    assert files.add(piece(b"BAD!", 0, 2, 8, of)) == ""
    assert files.add(piece(b"good", 0, 2, 8, of)) == ""
    assert files.add(piece(b"file", 1, 2, 8, of)) == ""
    assert files.get(hashlib.sha256(of).digest()) == of


def test_chunks_that_cannot_belong_together_are_refused_and_a_clean_start_is_possible() -> None:
    files = Assembler(max_bytes=100)
    of = b"goodfile"
    assert "is more than the 100 allowed" in files.add(piece(b"x", 0, 2, 101))
    assert files.add(piece(b"", 0, 2, 8, of)) == "an empty piece of a file"
    assert files.add(piece(b"good", 0, 3, 9, of)) == ""
    assert files.add(piece(b"good", 0, 2, 8, of)) == "chunks of one file disagree about its size"
    assert files.add(piece(b"goodf", 0, 2, 8, of)) == ""
    assert files.add(piece(b"file", 1, 2, 8, of)) == "the chunks are more than the file they belong to"
    for at, data in enumerate([b"good", b"file"]):
        assert files.add(piece(data, at, 2, 8, of)) == ""
    assert files.get(hashlib.sha256(of).digest()) == of


def test_memory_is_bounded_by_forgetting_what_was_touched_longest_ago() -> None:
    files = Assembler(max_bytes=100)
    for number in range(10_000):
        files.add(piece(b"x" * 40, 0, 2, 80, str(number).encode()))
    assert files._held_bytes <= 100
    assert len(files._partial) <= 2
    one_byte_each = Assembler()
    for number in range(10_000):
        one_byte_each.add(piece(b"x", 0, 2, 80, str(number).encode()))
    assert len(one_byte_each._partial) <= 1024
