"""What `tidegate tail` shows: whatever the bytes are, it is a line."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaProducer

from deploy import records
from deploy.broker import Broker
from deploy.records import Line
from schemas.codec import encode
from schemas.errors import UnavailableError
from schemas.records import Failure

FAILURE = Failure(
    source="edge.events",
    partition=3,
    offset=4711,
    key=b"pump-7",
    payload=b"\xff\x00",
    stage="decode",
    reason="CORRUPT",
    problem="payload does not fit its schema",
    failed_at=1_790_000_000_123_000,
)


def message(value: bytes | None, key: bytes | None = b"k", stamped_ms: int = 1_790_000_000_500) -> SimpleNamespace:
    return SimpleNamespace(topic="t", partition=0, offset=9, timestamp=stamped_ms, key=key, value=value)


def test_a_record_reads_as_one_line_with_its_times() -> None:
    assert Line.of(message(encode(FAILURE))).as_text() == (
        "14:13:20.500 t/0@9 k Failure source=edge.events partition=3 offset=4711 key=<6 bytes> payload=<2 bytes> "
        "stage=decode reason=CORRUPT problem='payload does not fit its schema' failed_at=2026-09-21T14:13:20.123Z"
    )


def test_as_json_every_field_is_there_under_its_own_name() -> None:
    line = json.loads(json.dumps(Line.of(message(encode(FAILURE))).as_json()))
    assert (line["type"], line["offset"], line["key"]) == ("Failure", 9, "k")
    assert line["record"]["failed_at"] == FAILURE.failed_at
    assert line["record"]["payload"] == "/wA="
    assert "problem" not in line


def test_an_unknown_schema_and_a_tombstone_are_lines_too() -> None:
    unknown = Line.of(message(b"\xc3\x01" + bytes(8) + b"rest"))
    assert "NOT READABLE: unknown schema fingerprint (fingerprint='0000000000000000')" in unknown.as_text()
    assert unknown.as_json()["payload"] == "wwEAAAAAAAAAAHJlc3Q="
    assert Line.of(message(None)).as_text().endswith("t/0@9 k removed (tombstone)")


@given(st.one_of(st.none(), st.binary(max_size=64)), st.one_of(st.none(), st.binary(max_size=16)))
def test_any_bytes_are_a_line_of_text_and_of_json(value: bytes | None, key: bytes | None) -> None:
    line = Line.of(message(value, key))
    assert line.as_text().isprintable()
    json.dumps(line.as_json())


@pytest.mark.kafka
def test_follow_reads_from_the_start_from_a_time_and_to_the_end(broker: Broker, catalogue: str) -> None:
    topic = f"{catalogue}cloud.deadletter"
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    an_hour_ago_ms = (
        int(time.time() * 1000) - 3_600_000
    )  # not older than the topic's retention: the broker would delete it
    for offset in range(5):
        producer.send(topic, encode(FAILURE), key=b"k", timestamp_ms=an_hour_ago_ms + offset)
    producer.flush()

    def offsets(**how: object) -> list[int]:
        return [line.offset for line in records.follow(broker.bootstrap_servers, topic, follow=False, **how)]  # type: ignore[arg-type]

    assert offsets(start="beginning") == [0, 1, 2, 3, 4]
    assert offsets(start="beginning", limit=2) == [0, 1]
    assert offsets(start="end") == []
    assert offsets(start=60 * 10**6) == []
    assert offsets(start=2 * 3600 * 10**6) == [0, 1, 2, 3, 4]
    from_end = records.follow(broker.bootstrap_servers, topic, start="beginning", limit=6)
    assert [next(from_end).offset for _ in range(5)] == [0, 1, 2, 3, 4]
    producer.send(topic, b"junk")
    producer.close()
    assert next(from_end).problem is not None
    assert list(from_end) == []


@pytest.mark.kafka
def test_messages_of_several_topics_between_two_times(broker: Broker, catalogue: str) -> None:
    names = [f"{catalogue}cloud.deadletter", f"{catalogue}cloud.aggregates"]
    start_ms = int(time.time() * 1000) - 3_600_000
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    for at in range(10):
        producer.send(names[at % 2], b"x", key=str(at).encode(), timestamp_ms=start_ms + at * 1000)
    producer.flush()
    producer.close()

    def keys(**how: object) -> list[int]:
        return sorted(int(m.key) for m in records.messages(broker.bootstrap_servers, names, **how))  # type: ignore[arg-type]

    start_us = start_ms * 1000
    assert keys() == list(range(10))
    assert keys(since_us=start_us + 3_000_000) == list(range(3, 10))
    assert keys(until_us=start_us + 3_000_000) == [0, 1, 2]
    assert keys(since_us=start_us + 2_000_001, until_us=start_us + 7_000_000) == [3, 4, 5, 6]
    assert keys(follow=True, until_us=start_us + 4_000_000) == [0, 1, 2, 3]
    assert keys(follow=True, until_us=time.time_ns() // 1000 + 1_500_000) == list(range(10))
    assert keys(since_us=time.time_ns() // 1000) == []
    asked: list[int] = []
    assert keys(follow=True, stop=lambda: len(asked) == 3 or asked.append(0) is not None) == list(range(10))


@pytest.mark.kafka
def test_a_misspelt_topic_gets_a_guess(broker: Broker, catalogue: str) -> None:
    with pytest.raises(UnavailableError, match=rf"no such topic .*; did you mean {catalogue}edge\.events\?"):
        next(records.follow(broker.bootstrap_servers, f"{catalogue}edge.evnts"))
