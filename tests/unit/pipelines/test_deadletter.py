from __future__ import annotations

import pytest

from pipelines.deadletter import MAX_KEY_BYTES, MAX_PAYLOAD_BYTES, failure, outgoing
from pipelines.io.chunk import Chunk, Record
from schemas.codec import decode
from schemas.errors import DecodeError
from schemas.records import Failure


def letter(record: Record, problem: str = "bad") -> Failure:
    chunk = Chunk("f", "edge.events", 2, 0, 10, 0, [record])
    sent = outgoing(failure(chunk, record, "split", DecodeError(problem, at=1), 99))
    assert sent.key == b"edge.events"
    assert sent.value is not None
    return decode(sent.value, Failure)


def test_a_failure_carries_the_record_as_it_came_and_says_where_and_why() -> None:
    found = letter(Record(7, b"pump-1", b"\x00\x01", 5))
    assert (found.source, found.partition, found.offset, found.key) == ("edge.events", 2, 7, b"pump-1")
    assert (found.payload, found.stage, found.reason) == (b"\x00\x01", "split", "DecodeError")
    assert (found.problem, found.failed_at) == ("bad (at=1)", 99)


@pytest.mark.parametrize("record", [Record(7, None, None, 5), Record(7, b"", b"", 5)])
def test_without_key_or_payload_it_still_is_one(record: Record) -> None:
    found = letter(record)
    assert (found.key, found.payload) == (record.key, b"")


def test_what_would_not_fit_is_cut_and_says_so() -> None:
    found = letter(Record(7, b"k" * 5_000, b"v" * 5_000_000, 5))
    assert found.payload == b"v" * MAX_PAYLOAD_BYTES
    assert found.key == b"k" * MAX_KEY_BYTES
    assert found.problem == "bad (at=1) (payload cut from 5000000 bytes)"


@pytest.mark.parametrize("character", ["x", "é", "漢", "🙂", "\ud800"])
def test_the_longest_sentence_of_any_script_fits_beside_the_largest_payload(character: str) -> None:
    found = letter(Record(7, b"k" * 5_000, b"v" * 5_000_000, 5), problem=character * 10_000)
    assert found.problem.endswith("(payload cut from 5000000 bytes)")
