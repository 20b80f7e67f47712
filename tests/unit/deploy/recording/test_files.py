"""Recorded topics as files: whole or not there, with their stamps, whatever lies beside them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.recording.files import Stamp, TopicFile, everything, found_in, recorded_files, stamps_of, topic_of
from deploy.recording.recorder import Recorder, places
from schemas import topics
from schemas.codec import encode
from schemas.errors import ConfigError, DecodeError
from schemas.records import EdgeEvent, SensorBlock
from tests.doubles import records as make


def recorded(folder: Path, count: int = 3) -> Path:
    path = folder / "edge.events.avro"
    file = TopicFile(path, EdgeEvent)
    for seq in range(count):
        file.write(make.event(seq=seq), Stamp(seq % 4, seq * 10, 1_000 + seq))
    file.finish()
    return path


def test_until_it_is_finished_there_is_no_file_of_that_name(tmp_path: Path) -> None:
    file = TopicFile(tmp_path / "edge.events.avro", EdgeEvent)
    file.write(make.event(), Stamp(0, 0, 0))
    assert {p.name for p in tmp_path.iterdir()} == {"edge.events.avro.part", "edge.events.stamps.csv.part"}
    file.finish()
    assert {p.name for p in tmp_path.iterdir()} == {"edge.events.avro", "edge.events.stamps.csv"}


def test_dropped_leaves_nothing(tmp_path: Path) -> None:
    file = TopicFile(tmp_path / "edge.events.avro", EdgeEvent)
    file.write(make.event(), Stamp(0, 0, 0))
    file.drop()
    assert list(tmp_path.iterdir()) == []


def test_what_was_flushed_is_readable_although_nothing_finished(tmp_path: Path) -> None:
    file = TopicFile(tmp_path / "edge.events.avro", EdgeEvent)
    for seq in range(5):
        file.write(make.event(seq=seq), Stamp(0, seq, 0))
        file.flush()
    part = tmp_path / "edge.events.avro.part"
    assert [f.record.seq for f in found_in(part) if isinstance(f.record, EdgeEvent)] == list(range(5))
    file.write(make.event(seq=5), Stamp(0, 5, 0))
    file.finish()
    assert len(list(found_in(tmp_path / "edge.events.avro"))) == 6


def test_records_come_back_with_their_stamps(tmp_path: Path) -> None:
    found = list(found_in(recorded(tmp_path)))
    assert [f.record.seq for f in found if isinstance(f.record, EdgeEvent)] == [0, 1, 2]
    assert [f.stamp for f in found] == [Stamp(s % 4, s * 10, 1_000 + s) for s in range(3)]
    assert {f.topic for f in found} == {"edge.events"}


@pytest.mark.parametrize(
    "stamps", ["", "nonsense\n", "partition,offset,stamped_ms\n0,0,1000\nnot,a,stamp\n", "\xff" * 500, None]
)
def test_stamps_that_are_not_stamps_never_cost_a_record(tmp_path: Path, stamps: str | None) -> None:
    path = recorded(tmp_path)
    if stamps is None:
        stamps_of(path).unlink()
    else:
        stamps_of(path).write_text(stamps, encoding="utf-8")
    found = list(found_in(path))
    assert len(found) == 3
    assert found[2].stamp is None


def test_a_folder_is_its_topics_in_the_order_of_the_catalogue(tmp_path: Path) -> None:
    for name in ("zoo.avro", "cloud.decisions.avro", "edge.events.avro", "edge.events.avro.part"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in recorded_files(tmp_path)] == ["edge.events.avro", "cloud.decisions.avro", "zoo.avro"]
    with pytest.raises(ConfigError, match="there is no such recording"):
        recorded_files(tmp_path / "nowhere")


def test_of_a_damaged_file_the_good_part_is_read_and_the_damage_told(tmp_path: Path) -> None:
    path = recorded(tmp_path, 2000)
    path.write_bytes(path.read_bytes()[:-30])
    damaged: list[str] = []
    assert 0 < len(list(everything([tmp_path], damaged))) < 2000
    assert "edge.events.avro" in damaged[0]
    with pytest.raises(DecodeError):
        list(everything([tmp_path]))


def test_a_file_of_another_name_is_known_by_what_it_holds(tmp_path: Path) -> None:
    events = recorded(tmp_path).rename(tmp_path / "mine.avro")
    assert topic_of(events) == "edge.events"
    file = TopicFile(tmp_path / "pump-7.avro", SensorBlock, stamps=False)
    file.finish()
    assert topic_of(tmp_path / "pump-7.avro") == "pump-7"


def test_one_topic_goes_into_a_file_and_several_into_a_folder(tmp_path: Path) -> None:
    assert places(["edge.events"], "p.", tmp_path / "e.avro") == {"p.edge.events": tmp_path / "e.avro"}
    assert places(["edge.events", "edge.events"], "", tmp_path) == {"edge.events": tmp_path / "edge.events.avro"}
    assert len(places(["all"], "", tmp_path)) == len(topics.CATALOGUE)
    with pytest.raises(ConfigError, match="a file holds records of one topic"):
        places(["edge.events", "edge.samples"], "", tmp_path / "e.avro")
    with pytest.raises(ConfigError, match="not a topic name"):
        places(["../../etc/passwd"], "", tmp_path)


def message(value: bytes | None, offset: int = 0, topic: str = "mine") -> Any:
    return SimpleNamespace(topic=topic, partition=0, offset=offset, timestamp=5, value=value)


def test_a_topic_that_is_not_of_the_catalogue_holds_what_its_first_record_is(tmp_path: Path) -> None:
    recorder = Recorder({"mine": tmp_path / "mine.avro"})
    recorder.begin()
    assert list(tmp_path.iterdir()) == []
    recorder.take(message(encode(make.event())))
    recorder.take(message(encode(make.aggregate()), 1))
    recorder.take(message(None, 2))
    recorder.finish()
    result = recorder.results["mine"]
    assert (result.written, result.left_out) == (1, 2)
    assert result.problem == "partition 0, offset 1: EdgeAggregate among EdgeEvent records"
    assert [type(f.record) for f in found_in(tmp_path / "mine.avro")] == [EdgeEvent]
