"""Law of the heavy step: how events are cut into chunks changes nothing about what is decided."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.controller import Evidence, merged
from pipelines.heavy import judge_audits, judge_events
from pipelines.io.models import FolderShelf
from schemas.records import EdgeEvent, Outcome, SensorBlock
from tests.doubles import records as make
from tests.doubles.tiny_model import write_package


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> FolderShelf:
    return FolderShelf([str(write_package(tmp_path_factory.mktemp("m") / "tiny"))])


@st.composite
def events(draw: st.DrawFn) -> list[EdgeEvent]:
    out = []
    for seq in range(draw(st.integers(0, 20))):
        readings = draw(st.sampled_from([4, 8]))
        channels = draw(st.sampled_from([2, 2, 2, 3]))  # 3 do not fit the model
        value = draw(st.sampled_from([0.5, 1.5, 2.0, 3.0, float("nan"), float("inf")]))
        kept_back = draw(st.booleans()) and draw(st.booleans())
        out.append(
            make.event(
                draw(st.sampled_from(["a", "b"])),
                seq,
                score=1.0,
                outcome=draw(st.sampled_from(list(Outcome))),
                model_name=draw(st.sampled_from(["tiny", "tiny", "unheard-of"])),
                decided_at=1_000 + seq,
                readings=readings,
                channels=channels,
                values=b"" if kept_back else make.window(value, readings, channels),
            )
        )
    return out


def cut(items: list, size: int) -> list[list]:  # type: ignore[type-arg]
    return [items[i : i + size] for i in range(0, len(items), size)]


@given(events(), st.integers(1, 7))
def test_events_are_decided_the_same_in_chunks_of_any_size(
    shelf: FolderShelf, given_events: list[EdgeEvent], size: int
) -> None:
    at_once = judge_events(given_events, shelf)
    in_pieces = [d for piece in cut(given_events, size) for d in judge_events(piece, shelf)]
    assert at_once == in_pieces
    assert [d.identity for d in at_once] == [e.identity for e in given_events]
    assert [d.decided_at for d in at_once] == [e.decided_at for e in given_events]


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([0.5, 3.0, float("nan")]), st.integers(0, 2)),
        max_size=15,
    ),
    st.integers(1, 5),
)
def test_audits_tell_the_same_in_chunks_of_any_size(
    shelf: FolderShelf, drawn: list[tuple[str, float, int]], size: int
) -> None:
    blocks: list[SensorBlock] = [
        make.audit(device, seq, value, score=0.1, thresholds_version=version)
        for seq, (device, value, version) in enumerate(drawn)
    ]

    def counts(evidence: list[Evidence]) -> dict[tuple[str, int], tuple[int, int]]:
        return {(e.device_id, e.thresholds_version): (e.audited, e.missed) for e in merged(evidence)}

    at_once = judge_audits(blocks, shelf)
    in_pieces = [e for piece in cut(blocks, size) for e in judge_audits(piece, shelf)]
    assert counts(at_once) == counts(in_pieces)
    assert sum(e.audited for e in at_once) == sum(value == value for _, value, _ in drawn)
