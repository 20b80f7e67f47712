"""Whether two runs decided the same, and where they part."""

from __future__ import annotations

from dataclasses import replace

from deploy.recording.compare import compare
from pipelines.decide import by_edge, by_heavy_model
from schemas.records import Decision, Outcome
from tests.doubles import records as make


def decided(seq: int, score: float = 3.0, sha: bytes = b"h" * 32) -> Decision:
    event = make.event(seq=seq, sensed_to=2_000_000 + seq, sensed_from=1_000_000)
    return by_heavy_model(event, score, 2.0, 1, sha, decided_at=5_000_000)


def test_the_same_decisions_in_any_order_and_twice_are_the_same() -> None:
    recorded = [decided(i) for i in range(5)]
    later = [replace(d, decided_at=9) for d in reversed(recorded)]
    found = compare([*recorded, recorded[0]], [*later, later[2]])
    assert (found.recorded, found.replayed, found.same, found.is_same) == (5, 5, 5, True)
    assert found.text() == "5 of 5 recorded decisions are the same"


def test_the_first_to_differ_is_named_by_event_time_with_both_values() -> None:
    recorded = [decided(i) for i in range(5)]
    changed = [decided(i, 1.0 if i in (1, 3) else 3.0) for i in range(5)]
    found = compare(recorded, changed)
    assert (found.same, found.different, found.is_same) == (3, 2, False)
    assert [d["event_id"] for d in found.differences] == ["pump-1:1:1", "pump-1:1:3"]
    assert found.differences[0]["differs"]["outcome"] == [Outcome.ANOMALY, Outcome.NORMAL]
    assert found.differences[0]["differs"]["heavy_score"] == [3.0, 1.0]
    assert "the first to differ is pump-1:1:1" in found.text()


def test_what_is_missing_and_what_is_new_count() -> None:
    found = compare([decided(0), decided(1)], [decided(1), decided(2)])
    assert (found.same, found.missing, found.added, found.is_same) == (1, 1, 1, False)


def test_of_a_part_nothing_is_missing() -> None:
    found = compare([decided(0), decided(1)], [decided(1)], in_part=True)
    assert (found.recorded, found.same, found.missing, found.is_same) == (1, 1, 0, True)


def test_another_heavy_model_is_not_comparable_and_not_the_same() -> None:
    found = compare([decided(0)], [decided(0, 1.0, b"x" * 32)])
    assert (found.other_model, found.different, found.is_same) == (1, 0, False)
    by_the_edge = by_edge(make.event(seq=0), "no heavy model of that name is published", 0)
    assert compare([by_the_edge], [decided(0)]).other_model == 1


def test_a_last_digit_that_another_batch_size_rounds_differently_is_the_same() -> None:
    found = compare([decided(0, 3.0)], [decided(0, 3.0 + 1e-7)])
    assert (found.same, found.different) == (1, 0)
    assert 0 < found.largest_score_gap < 1e-6
    assert compare([decided(0, 3.0)], [decided(0, 3.1)]).different == 1
