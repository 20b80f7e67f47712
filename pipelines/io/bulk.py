"""Many records at once to kafka-python's producer: the record batches are built here, and there is one future for each.

`KafkaProducer.send` costs 20 us for a record, of which most goes into checks, locks and a future of its own. A sink
knows all records of its chunk and asks only whether all of them are safe. So it writes the records of each partition
as they lie in a record batch of Kafka's format 2, and hands the finished batches to the producer's own queue; header,
checksum, compression, sequence numbers, order and retries stay the producer's.

kafka-python has no public way in for a finished batch. What is used of its inside is in `_queue` and `_builder`;
kafka-python is pinned to one minor version, and tests compare the bytes with those of its own builder.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError
from kafka.partitioner import murmur2
from kafka.producer.producer_batch import ProducerBatch
from kafka.record.memory_records import MemoryRecordsBuilder

from pipelines.io.chunk import Outgoing

#: Upper bound of what a record adds to its key, value and headers, bytes.
RECORD_OVERHEAD = 64

_hash = functools.lru_cache(maxsize=100_000)(murmur2)


def _zigzag(value: int) -> bytes:
    """A varint as Kafka writes it."""
    rest = (value << 1) ^ (value >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(0x80 | rest & 0x7F)
        rest >>= 7
    out.append(rest)
    return bytes(out)


#: Varints of lengths and offsets, which are mostly small.
_SMALL = [_zigzag(number) for number in range(4096)]


def varint(value: int) -> bytes:
    """A varint as Kafka writes it; a look-up for what is small.

    >>> varint(-1).hex(), varint(300).hex()
    ('01', 'd804')
    """
    return _SMALL[value] if 0 <= value < 4096 else _zigzag(value)


def _field(data: bytes | None) -> bytes:
    return b"\1" if data is None else varint(len(data)) + data


class Lot:
    """Records of one topic, sorted into record batches by partition. Not thread-safe.

    partitions:  how many the topic has. Records without a key are spread over them lot by lot.
    batch_bytes: how large a batch may become; a single larger record has one for itself.
    max_bytes:   of one record, as the producer's `max_request_size` has it.
    """

    def __init__(self, topic: str, partitions: int, batch_bytes: int, max_bytes: int, keyless: int = 0) -> None:
        self._topic, self._partitions = topic, partitions
        self._batch_bytes, self._max_bytes = batch_bytes, max_bytes
        self._keyless = keyless % partitions
        self._open: dict[int, _Open] = {}
        self._keys: dict[bytes, tuple[_Open, bytes]] = {}
        self.full: list[tuple[int, int, list[bytes]]] = []  # partition, records, their bytes

    def add(self, records: Iterable[Outgoing]) -> Lot:
        """Sort records in, in order. Raises MessageSizeTooLargeError: one is larger than a request may be."""
        limit, most, keys = self._batch_bytes, self._max_bytes - RECORD_OVERHEAD, self._keys
        for key, value, headers in records:
            into, written = keys.get(key) or self._new_key(key)  # type: ignore[arg-type]  # None is a key here
            tail = b"\0" if not headers else _headers(headers)
            number = varint(into.count)
            if value is None:
                size, length = 0, b"\1"
                value = b""
            else:
                size = len(value)
                length = varint(size)
            body = 2 + len(number) + len(written) + len(length) + size + len(tail)
            if body > most:
                raise MessageSizeTooLargeError(f"a record of {body} bytes is larger than max_request_size allows")
            if into.size + body > limit and into.count:
                self._close(into)
                body -= len(number) - 1
                number = b"\0"
            into.count += 1
            into.size += body + 5
            # attributes and the distance from the batch's time are 0, one byte each
            into.parts += (varint(body), b"\0\0", number, written, length, value, tail)
        return self

    def batches(self) -> list[tuple[int, int, list[bytes]]]:
        """Everything, as (partition, records, their bytes in parts); the lot is empty afterwards."""
        for into in self._open.values():
            if into.count:
                self._close(into)
        full, self.full = self.full, []
        return full

    def _new_key(self, key: bytes | None) -> tuple[_Open, bytes]:
        number = self._keyless if key is None else (_hash(key) & 0x7FFFFFFF) % self._partitions
        into = self._open.setdefault(number, _Open(number))
        self._keys[key] = into, _field(key)  # type: ignore[index]  # as above
        return self._keys[key]  # type: ignore[index]  # as above

    def _close(self, into: _Open) -> None:
        self.full.append((into.partition, into.count, into.parts))
        into.count, into.size, into.parts = 0, 0, []


class _Open:
    """The batch of one partition that still takes records."""

    __slots__ = ("count", "partition", "parts", "size")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.count = self.size = 0
        self.parts: list[bytes] = []


def _headers(headers: Sequence[tuple[str, bytes]]) -> bytes:
    return varint(len(headers)) + b"".join(_field(name.encode()) + _field(content) for name, content in headers)


class Sent(NamedTuple):
    """Batches that were handed over."""

    batches: list[Any]

    def wait(self, deadline_s: float) -> None:
        """Until the broker has every batch; `deadline_s` by the monotonic clock.

        Raises KafkaError: it does not take one, or not in time.
        """
        for batch in self.batches:
            future = batch.produce_future
            if not future.wait(max(0.0, deadline_s - time.monotonic())):
                raise KafkaTimeoutError(f"no acknowledgement of {batch.record_count} records in time")
            if not future.is_done:
                raise KafkaTimeoutError("a batch was cut in two, and nothing is known of its parts")
            if future.failed():
                raise future.exception
            _, _, problem_of = future.value
            if problem_of is not None:
                problem = problem_of(0)
                raise problem if isinstance(problem, KafkaError) else KafkaError(str(problem))


def send(producer: KafkaProducer, topic: str, records: Iterable[Outgoing], *, keyless: int = 0) -> Sent:
    """Queue records in order; does not wait for the broker. `keyless`: the partition of those without a key, modulo.

    Raises KafkaError: the topic is not known in time, the producer is closed, or a record is too large.
    """
    partitions = len(producer.partitions_for(topic))
    config = producer.config
    lot = Lot(topic, partitions, config["batch_size"], config["max_request_size"], keyless).add(records)
    batches = lot.batches()
    if (transactions := producer._transaction_manager) is not None and transactions.is_transactional():
        for number, _, _ in batches:
            transactions.maybe_add_partition_to_transaction(TopicPartition(topic, number))
    return Sent([_queue(producer, TopicPartition(topic, number), count, parts) for number, count, parts in batches])


def _queue(producer: KafkaProducer, tp: TopicPartition, count: int, parts: list[bytes]) -> ProducerBatch:
    queue = producer._accumulator
    queue._appends_in_progress.increment()  # a forced close waits for it, and then finds the batch
    try:
        batch = ProducerBatch(tp, _builder(queue.config, count, parts, time.time_ns() // 1_000_000))
        with queue._tp_lock(tp):
            if queue._closed:
                raise KafkaError("the producer is closed")
            queue._batches[tp].append(batch)
            queue._incomplete.add(batch)
    finally:
        queue._appends_in_progress.decrement()
    producer._sender.wakeup()
    return batch


def _builder(config: Mapping[str, Any], count: int, parts: list[bytes], now_ms: int) -> MemoryRecordsBuilder:
    """kafka-python's builder of a batch, as if `count` records had been appended one by one; full, so sent at once."""
    records = MemoryRecordsBuilder(config["message_version"], config["compression_attrs"], batch_size=0)
    inside = records._builder
    inside._buffer += b"".join(parts)
    inside._first_timestamp = inside._max_timestamp = now_ms
    inside._num_records, inside._last_offset = count, count - 1
    records._next_offset = count
    return records
