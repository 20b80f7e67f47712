from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from hypothesis import given
from hypothesis import strategies as st

from pipelines.graph import INPUTS
from pipelines.io.chunk import Batch, Chunk, Outgoing
from pipelines.io.files import (
    MAX_CHUNK,
    SLICE_US,
    ReadRecorded,
    RecordedTopics,
    WriteRecorded,
    chunks,
    damaged_files,
    event_time,
    file_of,
)
from schemas import topics
from schemas.codec import decode, encode
from schemas.container import ContainerWriter, read
from schemas.errors import ConfigError
from schemas.topics import Topic
from tests.doubles import records as make
from tests.doubles.collect import Collect


def record(folder: Path, topic: Topic, records: Iterable[Any]) -> Path:
    path = file_of(str(folder), topic)
    with path.open("wb") as file:
        writer = ContainerWriter(file, topic.record)
        for each in records:
            writer.write(each)
        writer.close()
    return path


def decoded(some: Iterable[tuple[Chunk, int]]) -> dict[str, list[Any]]:
    out: dict[str, list[Any]] = {}
    for chunk, _ in some:
        out.setdefault(chunk.topic, []).extend(
            decode(r.value or b"", topics.by_name(chunk.topic).record) for r in chunk.records
        )
    return out


def test_recorded_topics_come_back_whole_and_in_order(tmp_path: Path) -> None:
    events = [make.event(seq=i) for i in range(5)]
    aggregates = [make.aggregate(seq=i, start_us=i * 1_000_000) for i in range(5)]
    record(tmp_path, topics.EVENTS, events)
    record(tmp_path, topics.AGGREGATES, aggregates)
    got = list(chunks(str(tmp_path), INPUTS))
    assert decoded(got) == {"edge.events": events, "edge.aggregates": aggregates}
    for chunk, _ in got:
        assert (chunk.flow, chunk.partition) == ("", -1)
        assert [r.offset for r in chunk.records] == list(range(chunk.begin, chunk.end))
        assert all(r.key == b"pump-1" for r in chunk.records)


def test_what_happened_together_is_replayed_together(tmp_path: Path) -> None:
    """No topic runs ahead of another by more than a slice of event time."""
    step_us = 500_000
    record(
        tmp_path,
        topics.EVENTS,
        [make.event(seq=i, sensed_from=i * step_us, sensed_to=(i + 1) * step_us) for i in range(400)],
    )
    record(tmp_path, topics.AGGREGATES, [make.aggregate(seq=i, start_us=i * 1_000_000) for i in range(200)])
    reached = {"edge.events": 0, "edge.aggregates": 0}
    for chunk, _ in chunks(str(tmp_path), INPUTS):
        record_type = topics.by_name(chunk.topic).record
        reached[chunk.topic] = max(event_time(decode(r.value or b"", record_type)) for r in chunk.records)
        other = min(reached.values())
        if 0 < other < 190 * 1_000_000:
            assert max(reached.values()) - other <= 2 * SLICE_US


def test_a_chunk_holds_a_bounded_number_of_records(tmp_path: Path) -> None:
    record(tmp_path, topics.EVENTS, (make.event(seq=i) for i in range(2 * MAX_CHUNK + 1)))
    assert [len(c.records) for c, _ in chunks(str(tmp_path), INPUTS)] == [MAX_CHUNK, MAX_CHUNK, 1]


@given(st.lists(st.integers(0, 20_000_000), max_size=30), st.lists(st.integers(0, 20), max_size=30))
def test_no_record_is_lost_or_doubled_however_the_times_jump(
    tmp_path_factory: pytest.TempPathFactory, moments: list[int], starts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("rec")
    events = [make.event(seq=i, sensed_from=at, sensed_to=at) for i, at in enumerate(moments)]
    aggregates = [make.aggregate(seq=i, start_us=at * 1_000_000) for i, at in enumerate(starts)]
    record(folder, topics.EVENTS, events)
    record(folder, topics.AGGREGATES, aggregates)
    got = list(chunks(str(folder), INPUTS))
    found = decoded(got)
    assert found.get("edge.events", []) == events
    assert found.get("edge.aggregates", []) == aggregates
    for chunk, first_us in got:
        kind = topics.by_name(chunk.topic).record
        assert first_us == min(event_time(decode(r.value or b"", kind)) for r in chunk.records)


@pytest.mark.parametrize("at_us", [-(2**63), -1, 0, 2**63 - 1])
def test_impossible_times_do_not_stop_the_reading(tmp_path: Path, at_us: int) -> None:
    times = np.full(8, at_us, "<i8").tobytes()
    record(tmp_path, topics.SAMPLES, [make.audit(event_times=times)])
    record(tmp_path, topics.EVENTS, [make.event(sensed_to=at_us)])
    found = Collect()
    with beam.Pipeline(runner=FnApiRunner()) as p:
        p | ReadRecorded(str(tmp_path), INPUTS) | found
    assert sorted(c.topic for c in found.found) == ["edge.events", "edge.samples"]


def test_a_truncated_file_gives_what_is_before_the_damage_and_says_where(tmp_path: Path) -> None:
    events = [make.event(seq=i, values=make.window(i, 1000), readings=1000) for i in range(100)]
    path = record(tmp_path, topics.EVENTS, events)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    before = decoded(chunks(str(tmp_path), INPUTS))["edge.events"]
    assert 0 < len(before) < 100
    assert before == events[: len(before)]
    (sentence,) = damaged_files(str(tmp_path), INPUTS)
    assert sentence.startswith("edge.events.avro: the file ends inside of a block (offset=")
    assert f"record={len(before)}" in sentence


@pytest.mark.parametrize("data", [b"", b"junk", b"Obj\x01"])
def test_a_file_that_is_no_recording_gives_nothing_and_says_so(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "edge.events.avro").write_bytes(data)
    record(tmp_path, topics.AGGREGATES, [make.aggregate()])
    assert set(decoded(chunks(str(tmp_path), INPUTS))) == {"edge.aggregates"}
    (sentence,) = damaged_files(str(tmp_path), INPUTS)
    assert sentence.startswith("edge.events.avro: ")


def test_a_recording_of_another_topic_is_damage(tmp_path: Path) -> None:
    record(tmp_path, topics.AGGREGATES, [make.aggregate()]).rename(tmp_path / "edge.events.avro")
    (sentence,) = damaged_files(str(tmp_path), INPUTS)
    assert sentence == "edge.events.avro: the file holds other records (expected='EdgeEvent', got='EdgeAggregate')"


def test_what_is_not_recorded_is_empty(tmp_path: Path) -> None:
    assert list(chunks(str(tmp_path), INPUTS)) == []
    assert damaged_files(str(tmp_path), INPUTS) == []


def write(folder: Path, *batches: Batch) -> dict[str, int]:
    with RecordedTopics(folder) as run:
        sink = WriteRecorded(run, topics.EVENTS)
        with beam.Pipeline(runner=FnApiRunner()) as p:
            p | beam.Create(list(batches), reshuffle=False) | sink
    return run.written


def read_back(folder: Path) -> list[Any]:
    with (folder / "edge.events.avro").open("rb") as file:
        return list(read(file, topics.EVENTS.record))


def test_what_is_written_can_be_read_back(tmp_path: Path) -> None:
    events = [make.event(seq=i) for i in range(5)]
    sent = [
        Batch([Outgoing(b"k", encode(e)) for e in events[:3]]),
        Batch([]),
        Batch([Outgoing(b"k", encode(e)) for e in events[3:]]),
    ]
    assert write(tmp_path / "new" / "folder", *sent) == {"edge.events": 5}
    assert read_back(tmp_path / "new" / "folder") == events


def test_a_second_run_replaces_the_file_of_the_first(tmp_path: Path) -> None:
    write(tmp_path, Batch([Outgoing(b"k", encode(make.event(seq=i))) for i in range(9)]))
    write(tmp_path, Batch([Outgoing(b"k", encode(make.event(seq=1)))]))
    assert [e.seq for e in read_back(tmp_path)] == [1]


def test_a_run_that_writes_nothing_leaves_a_valid_empty_file(tmp_path: Path) -> None:
    assert write(tmp_path, Batch([])) == {"edge.events": 0}
    assert read_back(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="the output folder cannot be made"), RecordedTopics(tmp_path / "file" / "x"):
        pass


def test_a_file_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "edge.events.avro").mkdir()
    with RecordedTopics(tmp_path) as run, pytest.raises(ConfigError, match="an output file cannot be written"):
        WriteRecorded(run, topics.EVENTS)
