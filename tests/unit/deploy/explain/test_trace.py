"""The path of one event: every hop, by whom, by what, and what is said where something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deploy.explain import find, text
from deploy.explain.page import write
from deploy.explain.trace import sparkline
from pipelines.decide import by_heavy_model
from schemas.errors import CheckFailed, DecodeError
from tests.doubles import one_event as one
from tests.doubles import records as make
from tests.doubles.one_event import HOSTILE, MS, T


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return one.write_folder(tmp_path / "run")


def test_the_whole_path_with_who_decided_by_what_and_when(folder: Path) -> None:
    trace = find.in_recordings("pump-1:1:5", [folder])
    assert [(h.name, h.at_us, h.clock) for h in trace.hops()] == [
        ("sensed_from", T, "device"),
        ("sensed_to", T + 700 * MS, "device"),
        ("edge_decided", T + 702 * MS, "device"),
        ("sent", T + 710 * MS, "broker"),
        ("decided", T + 800 * MS, "cloud"),
        ("published", T + 820 * MS, "cloud"),
        ("feedback", T + 900 * MS, "cloud"),
        ("applied", T + 950 * MS, "device"),
    ]
    assert trace.latencies_ms() == {
        "window": 700.0, "edge": 2.0, "uplink": 8.0, "cloud": 90.0, "publishing": 20.0, "in_all": 120.0,
    }  # fmt: skip
    page = "\n".join(text.text(trace))
    for words in (
        "final: NORMAL (overridden by HEAVY; the edge said ANOMALY)",
        "edge model tiny 1, package 6d6d6d6d6d6d6d6d",
        "thresholds 4 (escalate_at 1.25, raise_at 2.5, clear_at 0.75): the heavy model calls 18 of 32",
        "heavy model tiny 2, package 6868686868686868, published 2026-09-21T14:12:20.000Z",
        "the heavy model's score 1.5 is below its threshold 2, so ANOMALY became NORMAL",
        "in edge.events, partition 2, offset 1",
        "evidence for thresholds 5 of pump-1",
        "thresholds 5 applied on the device",
        "c1  ▄▄▄▄▄▄▄▄",
    ):
        assert words in page


def test_as_json_every_record_is_there_and_the_hashes_are_hex(folder: Path) -> None:
    said = json.loads(json.dumps(text.as_json(find.in_recordings("pump-1:1:5", [folder]))))
    assert said["event"]["model_sha256"] == (b"m" * 32).hex()
    assert said["decision"]["heavy_sha256"] == one.HEAVY.hex()
    assert said["thresholds"]["version"] == 4
    assert said["levels"] == {"escalate_at": 1.25, "raise_at": 2.5, "clear_at": 0.75}
    assert said["signal"] == {"channels": ["c0", "c1"], "values": [[3.0, 3.0]] * 8}
    assert said["feedback_caused"][0]["version"] == 5


def test_a_window_answered_at_the_edge_is_told_from_its_sample(folder: Path) -> None:
    trace = find.in_recordings("pump-1:1:4", [folder])
    assert text.headline(trace) == "answered at the edge, and sent as part of the random audit sample"
    assert "score 0; drawn for the audit at a rate of 0.1" in "\n".join(text.text(trace))


def test_a_decision_alone_says_that_its_event_is_gone(tmp_path: Path) -> None:
    folder = one.write_folder(tmp_path / "run", [one.decision(one.event())] * 2)
    page = "\n".join(text.text(find.in_recordings("pump-1:1:5", [folder])))
    assert "its event was not found" in page
    assert "decision found 2 times under this identity" in page
    assert "thresholds 4; where they came from was not found" in page


def test_an_offline_replay_is_called_one_and_tells_no_latency(tmp_path: Path) -> None:
    event = one.event(decided_at=T + 36_000_000 * MS)
    decided = by_heavy_model(event, 1.5, 2.0, 2, one.HEAVY, decided_at=event.decided_at)
    trace = find.in_recordings("pump-1:1:5", [one.write_folder(tmp_path / "run", [event, decided])])
    assert trace.latencies_ms() == {"window": 700.0}
    assert [line for line in text.remarks(trace) if "offline replay" in line]


@pytest.mark.parametrize(
    ("event_id", "sentence"),
    [
        ("pump-1:1:6", "its window was answered at the edge and not drawn for the audit sample"),
        ("pump-1:1:77", "of that device there are pump-1:1:3 to pump-1:1:9"),
        ("pump-1:8:5", "of that device there are pump-1:1:3 to pump-1:1:9"),
        ("pump-9:1:5", "there is nothing of that device"),
    ],
)
def test_an_unknown_event_says_what_was_searched_and_what_there_is(folder: Path, event_id: str, sentence: str) -> None:
    with pytest.raises(CheckFailed) as failed:
        find.in_recordings(event_id, [folder])
    assert sentence in str(failed.value)
    assert "searched='edge.events: 3, edge.aggregates: 1, edge.samples: 2, edge.status: 1, cloud.decisions: 3" in str(
        failed.value
    )


@pytest.mark.parametrize("event_id", ["", "pump-1", "pump-1:1", "pump-1:x:5", HOSTILE])
def test_what_is_no_event_id_is_refused(folder: Path, event_id: str) -> None:
    with pytest.raises(DecodeError, match="not an event id"):
        find.in_recordings(event_id, [folder])


def test_damage_elsewhere_does_not_hide_the_event(folder: Path) -> None:
    path = folder / "feedback.thresholds.avro"
    path.write_bytes(path.read_bytes()[:-5])
    assert find.in_recordings("pump-1:1:5", [folder]).decision is not None


def test_hostile_words_reach_neither_terminal_nor_page(tmp_path: Path) -> None:
    event = one.event(cohort=HOSTILE, reason=HOSTILE, model_name=HOSTILE)
    folder = one.write_folder(
        tmp_path / "run",
        [
            event,
            make.aggregate(channels=[HOSTILE, "</text><svg onload=x>"]),
            one.dead_letter(event),
            one.thresholds(reason=HOSTILE),
            one.thresholds(5, evidence=["pump-1:1:5"], reason=HOSTILE),
        ],
    )
    trace = find.in_recordings("pump-1:1:5", [folder])
    assert all(line.isprintable() for line in text.text(trace))
    write(trace, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "<svg onload" not in page
    assert "{{7*7}}" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "://" not in page.replace("http-equiv", "")


@given(hnp.arrays(np.float32, st.integers(0, 200), elements=st.floats(width=32)), st.integers(1, 80))
def test_any_signal_is_a_line_no_wider_than_asked(values: np.ndarray, width: int) -> None:
    with np.errstate(all="ignore"):
        line = sparkline(values, width)
    assert len(line) == min(len(values), width)
    assert set(line) <= set("▁▂▃▄▅▆▇█·")


def test_a_spike_among_many_readings_is_seen() -> None:
    values = np.zeros(6000, np.float32)
    values[3333] = 1.0
    assert "█" in sparkline(values)
