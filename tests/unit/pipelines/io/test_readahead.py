"""The buffer between the consumer and the ticks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.io.chunk import Record
from pipelines.io.readahead import PER_RECORD, ReadAhead, Taken, size_of

ALL = 10**9


def records(begin: int, end: int, size: int = 10) -> list[Record]:
    return [Record(n, b"k", b"v" * size, 0) for n in range(begin, end)]


def filled(begin: int, end: int) -> ReadAhead:
    buffer = ReadAhead(begin)
    buffer.receive(records(begin, end), size_of(records(begin, end)), 1.0)
    return buffer


@given(
    st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=6), max_size=5), st.integers(1, 5), st.integers(1, 900)
)
def test_everything_comes_out_once_in_order_within_both_limits(
    polls: list[list[int]], max_records: int, max_bytes: int
) -> None:
    buffer, sent = ReadAhead(0), []
    for poll in polls:
        batch = [Record(len(sent) + n, None, b"v" * size, 0) for n, size in enumerate(poll)]
        sent += batch
        buffer.receive(batch, size_of(batch), 0.0)
    out, at = [], 0
    while True:
        taken = buffer.take(at, max_records, max_bytes)
        if not taken.records:
            break
        assert len(taken.records) <= max_records
        assert len(taken.records) == 1 or size_of(taken.records) <= max_bytes
        assert taken.more == (taken.end < len(sent))
        out += taken.records
        at = taken.end
    assert out == sent
    assert buffer.held_bytes == 0


def test_another_offset_is_left_for_the_consumer_to_go_to() -> None:
    buffer = filled(10, 20)
    assert buffer.take(5, ALL, ALL) == Taken([], 5)
    assert buffer.seek == 5
    buffer.moved_to(5)
    assert (buffer.seek, buffer.waiting, buffer.held_bytes) == (None, False, 0)
    buffer.receive(records(5, 7), 2 * (PER_RECORD + 11), 2.0)
    assert buffer.take(5, ALL, ALL).end == 7


def test_silence_is_told_only_when_nothing_waits_and_nothing_came_since() -> None:
    buffer = filled(0, 3)
    buffer.nothing_unread(3, 111)
    assert buffer.take(0, 2, ALL).nothing_unread_at_us is None
    assert buffer.take(2, ALL, ALL).nothing_unread_at_us is None
    assert buffer.take(3, ALL, ALL).nothing_unread_at_us is None
    buffer.nothing_unread(3, 222)
    assert buffer.take(3, ALL, ALL).nothing_unread_at_us == 222
    buffer.receive(records(3, 4), 75, 3.0)
    assert buffer.take(3, ALL, ALL).nothing_unread_at_us is None
    assert buffer.take(4, ALL, ALL).nothing_unread_at_us is None


def test_deleted_records_are_named_after_those_that_were_read_before() -> None:
    buffer = filled(0, 3)
    buffer.jump(3, 50)
    buffer.receive(records(50, 52), 150, 2.0)
    assert [r.offset for r in buffer.take(0, 3, ALL).records] == [0, 1, 2]
    assert buffer.take(3, ALL, ALL) == Taken([], 50, 3, None, True)
    assert [r.offset for r in buffer.take(50, ALL, ALL).records] == [50, 51]


def test_a_log_that_was_created_anew_is_read_from_its_beginning() -> None:
    buffer = filled(100, 103)
    buffer.jump(103, 0)
    assert buffer.take(100, ALL, ALL) == Taken([], 0, -1, None, False)
    buffer.receive(records(0, 2), 150, 2.0)
    assert [r.offset for r in buffer.take(0, ALL, ALL).records] == [0, 1]
