"""Record batches built here are those of kafka-python's own builder, byte for byte, and go to the same partitions."""

from __future__ import annotations

import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import MessageSizeTooLargeError
from kafka.partitioner import DefaultPartitioner
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from pipelines.io.bulk import Lot, _builder
from pipelines.io.chunk import Outgoing

NOW_MS = 1_700_000_000_000
CONFIG = {"message_version": 2, "compression_attrs": 0}

values = st.one_of(st.none(), st.binary(max_size=200), st.integers(4000, 5000).map(bytes))
headers = st.lists(st.tuples(st.text(max_size=9), st.binary(max_size=9)), max_size=3).map(tuple)
records = st.lists(st.builds(Outgoing, st.one_of(st.none(), st.binary(max_size=20)), values, headers), max_size=200)


def theirs(made: list[Outgoing]) -> bytes:
    builder = MemoryRecordsBuilder(2, 0, 1 << 30)
    for key, value, head in made:
        builder.append(NOW_MS, key, value, list(head))
    builder.close()
    return bytes(builder.buffer())


def ours(count: int, parts: list[bytes]) -> bytes:
    builder = _builder(CONFIG, count, parts, NOW_MS)
    builder.close()
    return bytes(builder.buffer())


@given(records)
def test_a_batch_has_the_bytes_of_the_clients_own_builder(made: list[Outgoing]) -> None:
    batches = Lot("t", 1, 1 << 30, 1 << 20).add(made).batches()
    assert [ours(count, parts) for _, count, parts in batches] == ([theirs(made)] if made else [])


@given(records, st.integers(100, 6000))
def test_small_batches_hold_every_record_once_and_in_order(made: list[Outgoing], limit: int) -> None:
    read = []
    for _, count, parts in Lot("t", 1, limit, 1 << 20).add(made).batches():
        (batch,) = MemoryRecords(ours(count, parts))
        found = list(batch)
        assert len(found) == count
        assert [record.offset for record in found] == list(range(count))
        assert sum(map(len, parts)) <= limit or count == 1
        read += [Outgoing(r.key, r.value, tuple(r.headers)) for r in found]
    assert read == made


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1), st.integers(1, 70))
def test_a_key_goes_where_the_client_would_send_it(keys: list[bytes], partitions: int) -> None:
    cluster: Any = types.SimpleNamespace(
        topics=lambda: {"t"},
        partitions_for_topic=lambda _: set(range(partitions)),
        available_partitions_for_topic=lambda _: set(range(partitions)),
    )
    for key in keys:
        ((number, _, _),) = Lot("t", partitions, 1 << 20, 1 << 20).add([Outgoing(key, b"v")]).batches()
        assert number == DefaultPartitioner().partition("t", key, key, b"v", b"v", cluster)


def test_records_without_a_key_take_turns_over_the_partitions_lot_by_lot() -> None:
    lots = [Lot("t", 3, 1 << 20, 1 << 20, keyless=n).add([Outgoing(None, b"v")] * 2).batches() for n in range(4)]
    assert [[(number, count) for number, count, _ in lot] for lot in lots] == [[(0, 2)], [(1, 2)], [(2, 2)], [(0, 2)]]


def test_a_record_larger_than_a_request_may_be_is_refused() -> None:
    with pytest.raises(MessageSizeTooLargeError, match="max_request_size"):
        Lot("t", 1, 1000, 1 << 20).add([Outgoing(b"k", bytes(1 << 20))])
