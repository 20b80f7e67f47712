"""Recorded topics of strangers on their way through the graph: what is wrong with them costs that much and no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.graph import INPUTS
from pipelines.io.files import chunks, damaged_files, file_of
from pipelines.replay import replay
from schemas import topics
from schemas.clocks import FIRST_US, LAST_US
from schemas.container import read
from schemas.records import Decision, Failure, FleetWindow
from tests.doubles import records as make
from tests.doubles.tiny_model import write_package
from tests.hostile import avro

T0 = 1_700_000_000_000_000
S = 1_000_000


def test_a_file_of_the_corpus_in_place_of_a_topic_is_a_sentence_and_the_other_topics_are_read(tmp_path: Path) -> None:
    file_of(str(tmp_path), topics.AGGREGATES).write_bytes(avro.container([make.aggregate(start_us=T0)] * 3))
    place = file_of(str(tmp_path), topics.EVENTS)
    told = 0
    for case in avro.containers():
        place.write_bytes(case.data)
        damaged = damaged_files(str(tmp_path), INPUTS)
        assert all(line.startswith("edge.events.avro: ") for line in damaged), case.name
        told += len(damaged)
        found = [len(chunk.records) for chunk, _ in chunks(str(tmp_path), INPUTS) if chunk.topic == "edge.aggregates"]
        assert sum(found) == 3, case.name
    assert told > 200


@pytest.mark.parametrize("at_us", [-(2**63), FIRST_US - 1, LAST_US + 1, 2**62, 2**63 - 1])
def test_times_that_no_runner_can_count_with_become_dead_letters_and_the_others_are_whole(
    tmp_path: Path, at_us: int
) -> None:
    start_us = max(min(at_us, 2**63 - 1 - 5 * S), 5 * S - 2**63)
    start_us -= start_us % S
    wrong = [
        make.event("bad", 0, sensed_to=at_us),
        make.event("bad", 1, decided_at=at_us),
        make.event("bad", 2, sensed_from=at_us),
    ]
    fine = [make.event("pump-1", n, sensed_from=T0, sensed_to=T0 + n * S, decided_at=T0 + n * S) for n in range(10)]
    audits = [make.audit("bad", event_times=np.full(8, at_us, "<i8").tobytes())]
    sums = [make.aggregate("pump-1", n, T0 + n * S) for n in range(10)]
    sums.insert(5, make.aggregate("bad", 0, start_us))
    for topic, records in (
        (topics.EVENTS, [*wrong, *fine]),
        (topics.SAMPLES, audits),
        (topics.AGGREGATES, sums),
    ):
        file_of(str(tmp_path), topic).write_bytes(avro.container(records))
    model = write_package(tmp_path / "tiny")
    report = replay(str(tmp_path), [str(model)], str(tmp_path / "out"), 5 * S)
    assert report["damaged"] == []

    def out(topic: topics.Topic) -> list[object]:
        with file_of(str(tmp_path / "out"), topic).open("rb") as file:
            return list(read(file, topic.record))

    decided = [d.device_id for d in out(topics.DECISIONS) if isinstance(d, Decision)]
    assert decided == ["pump-1"] * 10
    windows = [w for w in out(topics.FLEET) if isinstance(w, FleetWindow)]
    assert {tuple(w.devices) for w in windows} == {("pump-1",)}
    newest = {w.window_start: w.readings for w in windows}
    assert sum(newest.values()) == sum(s.readings for s in sums if s.device_id == "pump-1")
    letters = [f for f in out(topics.DEAD_LETTERS) if isinstance(f, Failure)]
    assert len(letters) == 5
    assert {f.problem.split(" (")[0] for f in letters} == {"its time is of no year between 1 and 9999"}
