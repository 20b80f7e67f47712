from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.utils.timestamp import Timestamp

from pipelines.controller import ControllerPolicy, Evidence
from pipelines.feedback import Feedback, _Control, _Gather
from pipelines.io.chunk import Batch
from pipelines.io.models import FolderShelf
from schemas.codec import decode
from schemas.records import TargetKind, ThresholdUpdate
from tests.doubles.collect import Collect
from tests.doubles.tiny_model import write_package

POLICY = ControllerPolicy(min_escalated=10, min_audited=5)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_package(tmp_path / "tiny"))


def seen(device: str = "pump-1", version: int = 0, at_us: int = 1_000, **changes: Any) -> Evidence:
    fields: dict[str, Any] = {"model_name": "tiny", "escalated": 10, "overridden": 10}
    return Evidence(device_id=device, thresholds_version=version, at_us=at_us, **fields | changes)


def updates(batches: list[Batch]) -> list[ThresholdUpdate]:
    return [decode(o.value or b"", ThresholdUpdate) for batch in batches for o in batch.records]


def run(model: str, *evidence: Evidence) -> list[Batch]:
    found = Collect()
    with beam.Pipeline(runner=FnApiRunner()) as p:
        (
            p
            | beam.Create([e.to_bytes() for e in evidence], reshuffle=False).with_output_types(bytes)
            | Feedback((model,), POLICY)
            | found
        )
    return found.found


def test_each_device_has_a_memory_of_its_own(model: str) -> None:
    half = {"escalated": 5, "overridden": 5}
    got = run(model, seen("a", **half), seen("b", **half), seen("a", **half), seen("c"))
    assert sorted(u.target for u in updates(got)) == ["a", "c"]
    assert sorted(o.key or b"" for batch in got for o in batch.records) == [b"a", b"c"]


def test_evidence_of_a_model_that_nobody_published_leads_to_nothing(model: str) -> None:
    assert run(model, seen(model_name="unheard-of")) == []


def test_evidence_is_held_until_it_is_due_and_goes_on_at_a_tick_without_chunks() -> None:
    now_s = 100.0
    gather = _Gather(0.5, lambda: now_s)

    def tick(*chunks: bytes) -> list[Evidence]:
        for lines in chunks:
            assert list(gather.process(lines, Timestamp(7))) == []
        return [Evidence.from_bytes(told.value[1]) for told in gather.finish_bundle()]

    assert tick(seen("a").to_bytes(), seen("b").to_bytes() + b"\n" + seen("a", version=3).to_bytes()) == []
    now_s += 0.4
    assert tick(seen("a", at_us=2_000).to_bytes()) == []
    now_s += 0.1
    assert tick() == [seen("a", at_us=2_000, escalated=20, overridden=20), seen("b"), seen("a", version=3)]
    now_s += 1.0
    assert tick() == []


class Memory:
    """Beam's state of one device."""

    def __init__(self) -> None:
        self.value: bytes | None = None

    def read(self) -> bytes | None:
        return self.value

    def write(self, value: bytes) -> None:
        self.value = value


class Issued(FolderShelf):
    """A shelf on which an update lies."""

    update: ThresholdUpdate | None = None

    def thresholds(self, target: str) -> ThresholdUpdate | None:
        return self.update


@pytest.fixture
def control(model: str) -> tuple[_Control, Issued]:
    step, shelf = _Control((model,), POLICY), Issued([model])
    step._shelf = shelf
    return step, shelf


def issue(version: int, escalate_at: float) -> ThresholdUpdate:
    return ThresholdUpdate(
        target="pump-1",
        target_kind=TargetKind.DEVICE,
        version=version,
        model_name="tiny",
        escalate_at=escalate_at,
        raise_at=8.0,
        clear_at=1.0,
        issued_at=1,
        expires_at=10**9,
        reason="",
        evidence=[],
        evidence_count=0,
    )


def tell(step: _Control, memory: Memory, evidence: Evidence) -> list[ThresholdUpdate]:
    return updates(list(step.process((b"pump-1", evidence.to_bytes()), memory)))


def test_a_new_run_goes_on_from_what_an_earlier_one_issued(control: tuple[_Control, Issued]) -> None:
    step, shelf = control
    shelf.update = issue(500, 5.0)
    memory = Memory()
    assert tell(step, memory, seen(version=0)) == []
    (update,) = tell(step, memory, seen(version=500))
    assert update.escalate_at == pytest.approx(5.1)
    assert update.version > 500


def test_what_an_operator_sends_meanwhile_is_what_the_next_step_starts_from(control: tuple[_Control, Issued]) -> None:
    step, shelf = control
    memory = Memory()
    (first,) = tell(step, memory, seen())
    shelf.update = issue(first.version + 10_000_000, 5.0)
    assert tell(step, memory, seen(version=first.version)) == []
    (second,) = tell(step, memory, seen(version=shelf.update.version))
    assert second.escalate_at == pytest.approx(5.1)
    assert second.version > shelf.update.version


def test_its_own_update_coming_back_from_the_topic_changes_nothing(control: tuple[_Control, Issued]) -> None:
    step, shelf = control
    memory = Memory()
    (shelf.update,) = tell(step, memory, seen())
    before = memory.value
    assert tell(step, memory, seen(version=1)) == []
    assert memory.value == before
