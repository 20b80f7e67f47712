"""`python -m pipelines replay` as a user runs it, in a process of its own; and it decides as the live graph does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipelines.graph import GraphConfig, Sinks, build
from pipelines.io.chunk import Batch
from pipelines.split import WindowRule
from schemas import topics
from schemas.codec import decode
from schemas.container import ContainerWriter, read
from schemas.records import DecidedBy, Decision, Failure, FleetWindow, Outcome, ThresholdUpdate, Verdict
from schemas.topics import Topic
from tests.doubles import records as make
from tests.doubles.chunks import chunk
from tests.doubles.collect import Collect
from tests.doubles.tiny_model import write_package

S = 1_000_000
OUTPUTS = (topics.DECISIONS, topics.FLEET, topics.THRESHOLDS, topics.DEAD_LETTERS)


def record(folder: Path, topic: Topic, records: Iterable[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{topic.name}.avro"
    with path.open("wb") as file:
        writer = ContainerWriter(file, topic.record)
        for each in records:
            writer.write(each)
        writer.close()
    return path


def outputs(folder: Path) -> dict[str, list[Any]]:
    out = {}
    for topic in OUTPUTS:
        with (folder / f"{topic.name}.avro").open("rb") as file:
            out[topic.name] = list(read(file, topic.record))
    return out


@dataclass
class Recording:
    """A minute of two devices: what the heavy model calls normal, and what it calls anomalous."""

    events: list[Any] = field(default_factory=list)
    audits: list[Any] = field(default_factory=list)
    aggregates: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        for second in range(60):
            times = {"sensed_from": second * S, "sensed_to": (second + 1) * S, "decided_at": (second + 1) * S + 5}
            self.events.append(make.event("pump-1", second, value=1.5, **times))
            self.events.append(make.event("pump-2", second, value=5.0 + second, outcome=Outcome.SUSPECT, **times))
            at = np.arange(second * S, second * S + 8, dtype="<i8").tobytes()
            self.audits.append(make.audit("pump-2", second, value=0.1, event_times=at))
            for device in ("pump-1", "pump-2"):
                rows = np.full((4, 2), second, np.float32)
                self.aggregates.append(make.aggregate(device, second, second * S, rows=rows))

    def write(self, folder: Path) -> Path:
        record(folder, topics.EVENTS, self.events)
        record(folder, topics.SAMPLES, self.audits)
        record(folder, topics.AGGREGATES, self.aggregates)
        return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_package(tmp_path / "tiny")


def replay(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", "replay", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_recording_is_decided_merged_and_fed_back(tmp_path: Path, model: Path) -> None:
    folder = Recording().write(tmp_path / "in")
    done = replay(folder, "--models", model, "-o", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    got = outputs(tmp_path / "out")
    said = json.loads(done.stdout)
    assert said["damaged"] == []
    assert said["written"] == {name: len(records) for name, records in got.items()}

    decisions: list[Decision] = got["cloud.decisions"]
    assert len({d.identity for d in decisions}) == len(decisions) == 120
    for d in decisions:
        verdict = Verdict.OVERRIDDEN if d.device_id == "pump-1" else Verdict.RESOLVED
        outcome = Outcome.NORMAL if d.device_id == "pump-1" else Outcome.ANOMALY
        assert (d.verdict, d.outcome, d.decided_by) == (verdict, outcome, DecidedBy.HEAVY)
        assert d.decided_at == d.edge_decided_at == d.sensed_to + 5

    fleet: list[FleetWindow] = got["cloud.aggregates"]
    assert [w.window_start for w in sorted(fleet, key=lambda w: w.window_start)] == [i * 5 * S for i in range(12)]
    for w in fleet:
        first = w.window_start / S
        assert (w.revision, w.readings, w.devices) == (10, 40, ["pump-1", "pump-2"])
        assert (w.min, w.max, w.mean) == ([first] * 2, [first + 4] * 2, [first + 2] * 2)

    updates: list[ThresholdUpdate] = got["feedback.thresholds"]
    assert {u.target for u in updates} == {"pump-1"}
    assert updates[0].escalate_at == pytest.approx(1.1)
    assert set(updates[0].evidence) <= {e.identity.event_id for e in Recording().events}
    assert got["cloud.deadletter"] == []


def test_the_same_recording_gives_the_same_records_byte_for_byte(tmp_path: Path, model: Path) -> None:
    folder = Recording().write(tmp_path / "in")
    for out in ("one", "two"):
        assert replay(folder, "--models", model, "-o", tmp_path / out).returncode == 0
    assert outputs(tmp_path / "one") == outputs(tmp_path / "two")


def test_of_a_truncated_recording_the_good_part_is_decided_and_the_damage_named(tmp_path: Path, model: Path) -> None:
    events = [make.event(seq=i, readings=1_000, values=make.window(i, 1_000)) for i in range(60)]  # several blocks
    path = record(tmp_path / "in", topics.EVENTS, events)
    record(tmp_path / "in", topics.AGGREGATES, [make.aggregate()])
    path.write_bytes(path.read_bytes()[:-20])
    done = replay(tmp_path / "in", "--models", model, "-o", tmp_path / "out")
    assert done.returncode == 65
    (sentence,) = json.loads(done.stdout)["damaged"]
    assert done.stderr == f"pipelines: {sentence}\n"
    got = outputs(tmp_path / "out")
    decided = [d.identity for d in got["cloud.decisions"]]
    assert sentence.startswith("edge.events.avro: the file ends inside of a block (offset=")
    assert f"record={len(decided)}, missing=" in sentence
    assert 0 < len(decided) < 60
    assert decided == [e.identity for e in events[: len(decided)]]
    assert len(got["cloud.aggregates"]) == 1


def test_an_empty_folder_is_a_sentence_and_78(tmp_path: Path, model: Path) -> None:
    done = replay(tmp_path, "--models", model, "-o", tmp_path / "out")
    assert done.returncode == 78
    assert done.stderr == (
        f"pipelines: nothing is recorded here (folder='{tmp_path}'); it must hold at least one of "
        "edge.events.avro, edge.aggregates.avro, edge.samples.avro\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--models", "nowhere"], 65, "no manifest.json in the model folder"),
        (["--models", "MODEL", "MODEL"], 65, "two packages have the same model name"),
        (["--models", "MODEL", "--fleet_window", "5"], 78, "missing unit in duration '5'; write it like 250ms"),
        (["--models", "MODEL", "--fleet_window", "0s"], 78, "fleet windows need a positive size"),
        (["--models", "MODEL", "-o", "FILE"], 78, "the output folder cannot be made"),
    ],
)
def test_what_is_wrong_with_the_command_is_one_line_and_no_traceback(
    tmp_path: Path, model: Path, arguments: list[str], code: int, sentence: str
) -> None:
    record(tmp_path / "in", topics.EVENTS, [make.event()])
    (tmp_path / "file").write_text("")
    named = {"MODEL": str(model), "FILE": str(tmp_path / "file" / "out")}
    done = replay(tmp_path / "in", "-o", tmp_path / "out", *[named.get(a, a) for a in arguments])
    assert done.returncode == code
    assert done.stderr.startswith(f"pipelines: {sentence}")
    assert done.stderr.count("\n") == 1


def test_events_alone_are_enough(tmp_path: Path, model: Path) -> None:
    record(tmp_path / "in", topics.EVENTS, [make.event(model_name="unheard-of")])
    assert replay(tmp_path / "in", "--models", model, "-o", tmp_path / "out").returncode == 0
    (decision,) = outputs(tmp_path / "out")["cloud.decisions"]
    assert (decision.decided_by, decision.reason) == (DecidedBy.EDGE, "no heavy model of that name is published")


def through_the_graph(model: Path, recording: Recording, size: int) -> dict[str, list[Any]]:
    """The live graph over poll chunks of a size, as the source hands them out."""
    made = []
    for records in (recording.events, recording.audits, recording.aggregates):
        made += [chunk(records[i : i + size], begin=i) for i in range(0, len(records), size)]
    found = {topic.name: Collect() for topic in OUTPUTS}
    sinks = Sinks(**dict(zip(("decisions", "fleet", "thresholds", "failed"), found.values(), strict=True)))
    config = GraphConfig(
        models=(str(model),), window=WindowRule(size_us=5 * S, lateness_us=60 * S), recorded_clock=True
    )
    with beam.Pipeline(runner=FnApiRunner()) as p:
        build(p, beam.Create(made, reshuffle=False), sinks, config)
    return {topic.name: _records(topic, found[topic.name].found) for topic in OUTPUTS}


def _records(topic: Topic, batches: Sequence[Batch]) -> list[Any]:
    return [decode(o.value or b"", topic.record) for batch in batches for o in batch.records]


def by_identity(decisions: list[Decision]) -> dict[Any, Decision]:
    assert len({d.identity for d in decisions}) == len(decisions)
    return {d.identity: d for d in decisions}


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_live_chunks_of_any_size_decide_what_the_replay_decides(tmp_path: Path, model: Path, size: int) -> None:
    recording = Recording()
    folder = recording.write(tmp_path / "in")
    assert replay(folder, "--models", model, "-o", tmp_path / "out").returncode == 0
    replayed, live = outputs(tmp_path / "out"), through_the_graph(model, recording, size)
    assert by_identity(live["cloud.decisions"]) == by_identity(replayed["cloud.decisions"])
    by_start = {w.window_start: w for w in replayed["cloud.aggregates"]}
    assert len(live["cloud.aggregates"]) == len(by_start)
    for window in live["cloud.aggregates"]:
        twin = by_start[window.window_start]
        assert window.mean == pytest.approx(twin.mean, rel=1e-12)  # merged in another order: float64 rounding
        assert window.stddev == pytest.approx(twin.stddev, rel=1e-12)
        assert replace(window, mean=twin.mean, stddev=twin.stddev) == twin
    assert live["cloud.deadletter"] == []


def test_records_that_are_wrong_in_a_recording_are_dead_letters(tmp_path: Path, model: Path) -> None:
    record(tmp_path / "in", topics.AGGREGATES, [make.aggregate(seq=0, start_us=4_500_000), make.aggregate(seq=1)])
    assert replay(tmp_path / "in", "--models", model, "-o", tmp_path / "out").returncode == 0
    got = outputs(tmp_path / "out")
    (failure,) = got["cloud.deadletter"]
    assert isinstance(failure, Failure)
    assert (failure.source, failure.partition, failure.offset) == ("edge.aggregates", -1, 0)
    assert failure.problem.startswith("an aggregate spans two fleet windows")
    assert [w.revision for w in got["cloud.aggregates"]] == [1]
