"""A replay of recorded decisions: each event to the version that decided it then."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.heavy import _judge_by, judge_events
from pipelines.io.models import FolderShelf
from pipelines.io.recorded_models import RecordedModels, RecordedShelf
from schemas.container import ContainerWriter
from schemas.errors import ModelError
from schemas.records import DecidedBy, Decision
from tests.doubles import records as make
from tests.doubles.tiny_model import write_package


def write_decisions(path: Path, decisions: list[Decision]) -> str:
    with path.open("wb") as file:
        writer = ContainerWriter(file, Decision)
        for decision in decisions:
            writer.write(decision)
        writer.close()
    return str(path)


@pytest.fixture
def versions(tmp_path: Path) -> list[str]:
    return [str(write_package(tmp_path / f"v{v}", version=v, heavy_gain=float(v))) for v in (1, 2, 3)]


def test_events_go_to_the_version_that_decided_them_and_new_ones_to_the_newest(
    tmp_path: Path, versions: list[str]
) -> None:
    events = [make.event(seq=seq, value=1.5) for seq in range(40)]
    recorded = []
    for seq, event in enumerate(events[:30]):
        recorded += judge_events([event], FolderShelf([versions[seq % 2]]), lambda: 7)
    recorded += judge_events(events[30:35], FolderShelf([]), lambda: 7)  # before any model was published
    source = RecordedModels(tuple(versions), write_decisions(tmp_path / "d.avro", recorded))
    again = _judge_by(RecordedShelf(source), events, lambda: 7)
    assert again[:35] == recorded
    assert {d.decided_by for d in again[30:35]} == {DecidedBy.EDGE}
    assert {d.heavy_version for d in again[35:]} == {3}


def test_a_version_that_is_not_given_is_decided_by_the_newest_and_shows_it(tmp_path: Path, versions: list[str]) -> None:
    event = make.event(value=1.5)
    recorded = judge_events([event], FolderShelf(versions[:1]))
    source = RecordedModels(tuple(versions[1:]), write_decisions(tmp_path / "d.avro", recorded))
    (again,) = _judge_by(RecordedShelf(source), [event], None)
    assert again.heavy_version == 3
    assert again.heavy_sha256 != recorded[0].heavy_sha256


def test_of_damaged_decisions_those_before_the_damage_count(tmp_path: Path, versions: list[str]) -> None:
    events = [make.event(seq=seq, value=1.5) for seq in range(3000)]
    path = Path(write_decisions(tmp_path / "d.avro", judge_events(events, FolderShelf(versions[:1]))))
    path.write_bytes(path.read_bytes()[:-10])
    again = _judge_by(RecordedShelf(RecordedModels(tuple(versions), str(path))), events, None)
    assert (again[0].heavy_version, again[-1].heavy_version) == (1, 3)


def test_two_packages_of_one_name_and_version_are_refused(tmp_path: Path, versions: list[str]) -> None:
    other = str(write_package(tmp_path / "other", version=1, heavy_gain=9.0))
    path = write_decisions(tmp_path / "d.avro", [])
    with pytest.raises(ModelError, match="the same model name and version"):
        RecordedShelf(RecordedModels((*versions, other), path))
    RecordedShelf(RecordedModels((*versions, versions[0]), path))  # the same one twice is one
