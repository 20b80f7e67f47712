from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipelines import decide
from pipelines.controller import Evidence
from pipelines.elements import Lanes
from pipelines.heavy import HeavyModel, judge_audits, judge_events, open_shelf
from pipelines.io.chunk import Batch, Receipt
from pipelines.io.models import FolderShelf
from schemas.codec import decode
from schemas.errors import ModelError
from schemas.manifest import load_package
from schemas.records import DecidedBy, Decision, EdgeEvent, Outcome, Verdict
from schemas.scoring import Scorer
from tests.doubles import records as make
from tests.doubles.collect import Collect
from tests.doubles.tiny_model import write_package

RECEIPT = Receipt("flow", "edge.events", 0, 0, 9)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_package(tmp_path / "tiny")


@pytest.fixture
def shelf(tiny: Path) -> FolderShelf:
    return FolderShelf([str(tiny)])


class Counting:
    """A runtime that notes the batches it gets, and answers with the mean of its features."""

    def __init__(self, scorer: Scorer) -> None:
        self.inputs, self.outputs = scorer._runtime.inputs, scorer._runtime.outputs
        self._real = scorer._runtime
        self.batches: list[int] = []

    def run(self, outputs: Any, feeds: Any) -> Any:
        self.batches.append(len(feeds["features"]))
        return self._real.run(outputs, feeds)


def reasons(decisions: list[Decision]) -> list[str]:
    return [d.reason for d in decisions]


def test_windows_of_one_shape_share_one_call_and_the_order_is_kept(shelf: FolderShelf) -> None:
    scorer = shelf.heavy("tiny")
    assert scorer is not None
    scorer._runtime = runtime = Counting(scorer)
    lengths = [8, 4, 8, 4, 8]
    events = [make.event(seq=i, readings=n, values=make.window(i / 2, n), decided_at=5) for i, n in enumerate(lengths)]
    made = judge_events(events, shelf, lambda: 77)
    assert runtime.batches == [16, 16]  # 2 and 3 windows, each filled up to a multiple
    assert [d.seq for d in made] == [0, 1, 2, 3, 4]
    assert [d.heavy_score for d in made] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])
    assert [d.outcome for d in made] == [Outcome.NORMAL] * 4 + [Outcome.ANOMALY]
    assert {d.decided_at for d in made} == {77}
    assert {d.heavy_sha256 for d in made} == {scorer.package.sha256}


def test_a_window_that_the_model_refuses_falls_back_alone(shelf: FolderShelf) -> None:
    wrong = make.event(seq=1, channels=3, values=make.window(9.0, 8, 3))
    made = judge_events([make.event(seq=0), wrong, make.event(seq=2)], shelf)
    assert [d.decided_by for d in made] == [DecidedBy.HEAVY, DecidedBy.EDGE, DecidedBy.HEAVY]
    assert made[1].reason.startswith("windows do not fit the model (shape=(1, 8, 3), channels=['c0', 'c1']")
    assert (made[1].outcome, made[1].verdict) == (Outcome.ANOMALY, Verdict.CONFIRMED)


class Throwing(Counting):
    """A runtime that fails, as no model should, where a window of the batch is 9 throughout."""

    def run(self, outputs: Any, feeds: Any) -> Any:
        if (feeds["features"] == 9.0).any():
            raise MemoryError("a tensor of 2**40 elements")
        return super().run(outputs, feeds)


def test_a_window_on_which_the_runtime_throws_falls_back_alone_and_the_rest_is_answered(shelf: FolderShelf) -> None:
    scorer = shelf.heavy("tiny")
    assert scorer is not None
    scorer._runtime = Throwing(scorer)
    made = judge_events([make.event(seq=seq, value=9.0 if seq == 1 else 3.0) for seq in range(4)], shelf)
    assert [d.decided_by is DecidedBy.EDGE for d in made] == [False, True, False, False]
    assert "a tensor of 2**40 elements" in made[1].reason


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_a_window_whose_score_is_not_finite_does_not_take_its_batch_with_it(shelf: FolderShelf) -> None:
    scorer = shelf.heavy("tiny")
    assert scorer is not None

    class Poisoned(Counting):
        def run(self, outputs: Any, feeds: Any) -> Any:
            (scores,) = super().run(outputs, feeds)
            scores[scores > 50] = np.nan
            return [scores]

    scorer._runtime = Poisoned(scorer)
    made = judge_events([make.event(seq=0), make.event(seq=1, value=99.0), make.event(seq=2)], shelf)
    assert [d.decided_by for d in made] == [DecidedBy.HEAVY, DecidedBy.EDGE, DecidedBy.HEAVY]
    assert made[1].reason.startswith("the model gave a score that is not finite")


def test_each_event_without_an_answer_says_why(shelf: FolderShelf) -> None:
    events = [
        make.event(seq=0, model_name="unheard-of"),
        make.event(seq=1, values=b""),
        make.event(seq=2, values=make.window(float("nan"))),
        make.event(seq=3, values=make.window(float("-inf"))),
    ]
    made = judge_events(events, shelf)
    assert reasons(made) == [decide.NO_MODEL, decide.KEPT_BACK, decide.NOT_FINITE, decide.NOT_FINITE]
    assert all(d.decided_by is DecidedBy.EDGE and d.heavy_sha256 is None for d in made)


def test_each_model_answers_for_its_own_events(tmp_path: Path) -> None:
    shelf = FolderShelf(
        [
            str(write_package(tmp_path / "a", name="a", heavy_threshold=2.0)),
            str(write_package(tmp_path / "b", name="b", version=7, heavy_threshold=5.0, heavy_gain=2.0)),
        ]
    )
    made = judge_events([make.event(seq=i, model_name=name) for i, name in enumerate("abab")], shelf)
    assert [(d.heavy_score, d.heavy_threshold, d.heavy_version) for d in made] == [(3.0, 2.0, 1), (6.0, 5.0, 7)] * 2


def test_without_events_there_are_no_decisions(shelf: FolderShelf) -> None:
    assert judge_events([], shelf) == []
    assert judge_audits([], shelf) == []


def test_audits_are_evidence_and_unusable_ones_tell_nothing(shelf: FolderShelf) -> None:
    blocks = [
        make.audit(seq=0, value=1.0, thresholds_version=4),
        make.audit(seq=1, value=5.0, thresholds_version=None),
        make.audit(seq=2, model_name="unheard-of"),
        make.audit(seq=3, model_name=None),
        make.audit(seq=4, value=float("nan"), score=None),
        make.audit(seq=5, event_times=b"", values=b""),
        make.audit(seq=6, channels=["c0"], event_times=b"\0" * 128),  # another shape than the model's
    ]
    found = judge_audits(blocks, shelf, lambda: 9)
    assert [(e.event_ids, e.thresholds_version, e.audited, e.missed, e.at_us) for e in found] == [
        (("pump-1:1:0",), 4, 1, 0, 9),
        (("pump-1:1:1",), 0, 1, 1, 9),
    ]


def test_in_a_replay_an_audit_is_dated_by_its_newest_reading(shelf: FolderShelf) -> None:
    times = np.array([5, 90, 3, 4, 5, 6, 7, 8], "<i8").tobytes()
    (found,) = judge_audits([make.audit(event_times=times)], shelf)
    assert found.at_us == 90


def run(model: Path, *elements: Lanes, spread: bool = False) -> tuple[list[Batch], list[bytes]]:
    decisions, evidence = Collect(), Collect()
    with beam.Pipeline(runner=FnApiRunner()) as p:
        judged = p | beam.Create(list(elements)) | HeavyModel((str(model),), spread=spread, recorded_clock=True)
        judged.decisions | "Decisions" >> decisions
        judged.evidence | "Evidence" >> evidence
    return decisions.found, evidence.found


def decided(batches: list[Batch]) -> list[Decision]:
    return [decode(o.value or b"", Decision) for b in batches for o in b.records]


@pytest.mark.parametrize("spread", [False, True])
def test_the_transform_answers_for_every_chunk_and_tells_evidence_per_device(tiny: Path, spread: bool) -> None:
    events: list[EdgeEvent] = [make.event("a", 0), make.event("b", 0, value=1.0), make.event("a", 1, value=1.0)]
    other = RECEIPT._replace(begin=9, end=12)
    audits = [make.audit("c", 0, value=5.0), make.audit("c", 1, value=0.0)]
    batches, evidence = run(tiny, Lanes(RECEIPT, events, [], []), Lanes(other, [], audits, []), spread=spread)
    assert sorted(b.receipts for b in batches) == [(RECEIPT,), (other,)]
    by_receipt = {b.receipts[0]: b for b in batches}
    assert [d.identity for d in decided([by_receipt[RECEIPT]])] == [e.identity for e in events]
    assert [o.key for o in by_receipt[RECEIPT].records] == [b"a", b"b", b"a"]
    assert by_receipt[other].records == []  # an audit is never decided
    told = [Evidence.from_bytes(line) for lines in evidence for line in lines.split(b"\n")]
    assert sorted((e.device_id, e.escalated, e.overridden, e.audited, e.missed) for e in told) == [
        ("a", 2, 1, 0, 0),
        ("b", 1, 1, 0, 0),
        ("c", 0, 0, 2, 1),
    ]


def test_a_broken_package_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no manifest.json in the model folder .*a model package is a folder"):
        open_shelf((str(tmp_path / "nothing"),))
    (write_package(tmp_path / "m") / "heavy.onnx").write_bytes(b"other")
    with pytest.raises(ModelError, match="a file of the package is not the one its manifest names"):
        open_shelf((str(tmp_path / "m"),))


def test_two_packages_of_one_name_are_refused(tmp_path: Path) -> None:
    folders = [str(write_package(tmp_path / x, version=i + 1)) for i, x in enumerate("ab")]
    with pytest.raises(ModelError, match="two packages have the same model name"):
        open_shelf(tuple(folders))


def test_the_transform_travels_to_workers_without_its_models(tiny: Path) -> None:
    assert len(pickle.dumps(HeavyModel((str(tiny),)))) < 2_000
    assert load_package(lambda name: (tiny / name).read_bytes(), ("heavy",)).manifest.name == "tiny"
