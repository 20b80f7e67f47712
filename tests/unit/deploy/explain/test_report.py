"""The report of a recording: its figures are those of the records, and nothing in a record can be more than words."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from deploy.explain import find, report, text
from deploy.explain.survey import BUCKETS, Band
from deploy.recording.files import TopicFile
from schemas.errors import ConfigError
from schemas.records import SensorBlock
from tests.doubles import one_event as one
from tests.doubles import records as make
from tests.doubles.one_event import HOSTILE, T

S = 1_000_000


class Tags(HTMLParser):
    """Every tag with its attributes, and whether what was opened was closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(paths: list[Path], out: Path) -> tuple[dict[str, object], str]:
    seen, damaged = report.survey(paths)
    found = report.figures(seen, damaged)
    report.write(seen, found, paths, out)
    return found, out.read_text()


def raw(path: Path, times: np.ndarray, *, values: np.ndarray | None = None, labels: np.ndarray | None = None) -> Path:
    file = TopicFile(path, SensorBlock, stamps=False)
    rows = np.zeros((len(times), 2), "<f4") if values is None else values
    for seq, at in enumerate(range(0, len(times), 50)):
        part = slice(at, at + 50)
        file.write(
            SensorBlock(
                device_id="pump-1",
                boot_epoch=1,
                seq=seq,
                cohort="pumps",
                channels=["c0", "c1"],
                event_times=times[part].astype("<i8").tobytes(),
                values=rows[part].astype("<f4").tobytes(),
                labels=None if labels is None else labels[part].astype(np.uint8).tobytes(),
            )
        )
    file.finish()
    return path


def test_figures_of_recorded_topics(tmp_path: Path) -> None:
    folder = one.write_folder(tmp_path / "run")
    found, page = page_of([folder], tmp_path / "r.html")
    assert (found["events"], found["decisions"], found["audits"], found["undecided"]) == (3, 3, 2, 0)
    assert found["agreement"] == 0.0
    assert found["verdicts"] == {"OVERRIDDEN": 3}
    latency = found["latency_ms"]
    assert isinstance(latency, dict)
    assert latency["edge"] == {"p50": 2.0, "p99": 2.0, "count": 3}
    assert latency["uplink"] == {"p50": 8.0, "p99": 8.0, "count": 3}
    assert latency["final"] == {"p50": 120.0, "p99": 120.0, "count": 3}
    assert latency["feedback"] == {"p50": 50.0, "p99": 50.0, "count": 1}
    assert page.count('class="overridden"') == 3
    assert not Tags(page).open


def test_rates_gaps_jumps_and_labels_of_a_recording(tmp_path: Path) -> None:
    times = T + np.arange(200) * S
    times[120:] += 60 * S
    times[150] = times[149] - S
    labels = np.zeros(200)
    labels[40:60] = 1
    values = np.zeros((200, 2))
    values[7, 1] = np.nan
    found, _ = page_of([raw(tmp_path / "pump-1.avro", times, values=values, labels=labels)], tmp_path / "r.html")
    (device,) = found["devices"]  # type: ignore[misc]
    assert device["rate_hz"] == 1.0
    assert (device["gaps"], device["longest_gap_ms"], device["jumps_back"]) == (1, 61_000.0, 1)
    assert (device["readings"], device["labelled"], device["not_finite"]) == (200, 20, 1)
    seen, _ = report.survey([tmp_path / "pump-1.avro"])
    assert seen.devices["pump-1"].shaded == [(T + 40 * S, T + 59 * S)]


def test_the_signal_itself_stands_in_for_aggregates_of_the_same_device(tmp_path: Path) -> None:
    folder = one.write_folder(tmp_path / "run")
    recording = raw(tmp_path / "pump-1.avro", T + np.arange(100) * S)
    for order in ([folder, recording], [recording, folder]):
        found, _ = page_of(order, tmp_path / "r.html")
        assert [d["readings"] for d in found["devices"]] == [100, 0]  # type: ignore[attr-defined]


def test_what_came_twice_and_what_was_not_decided_is_counted(tmp_path: Path) -> None:
    events = [one.event(seq) for seq in range(4)]
    folder = one.write_folder(
        tmp_path / "run",
        [
            *events,
            events[0],
            *(one.decision(e) for e in (*events[:3], events[1])),
            one.dead_letter(events[3]),
        ],
    )
    found, page = page_of([folder], tmp_path / "r.html")
    assert found["doubled"] == {"events": 1, "decisions": 1}
    assert (found["undecided"], found["dead_letters"]) == (1, {"LATE": 1})
    assert "1 events have no final decision" in page
    assert page.count('class="undecided"') == 1


def test_hostile_names_are_words_and_nothing_is_loaded(tmp_path: Path) -> None:
    event = one.event(cohort=HOSTILE, model_name=HOSTILE)
    hostile_file = tmp_path / "<img src=x onerror=alert(1)>"
    folder = one.write_folder(
        hostile_file,
        [
            event,
            make.aggregate(channels=[HOSTILE, "</svg><img src=x>"], cohort=HOSTILE, start_us=T),
            one.decision(event),
            one.dead_letter(event),
            one.thresholds(reason=HOSTILE),
            one.status(problem=HOSTILE, cohort=HOSTILE),
        ],
    )
    _, page = page_of([folder], tmp_path / "r.html")
    tags = Tags(page)
    assert not {tag for tag, _ in tags.tags} & {"script", "img", "link", "iframe", "object", "image", "use"}
    attributes = {name for _, given in tags.tags for name in given}
    assert not [name for name in attributes if name.startswith("on") or name in ("src", "href")]
    assert not re.search(r"url\(|@import", page)
    assert "{{7*7}}" in page


def test_thresholds_that_are_no_numbers_are_told_and_not_drawn(tmp_path: Path) -> None:
    update = one.thresholds(escalate_at=float("nan"), raise_at=float("inf"))
    folder = one.write_folder(tmp_path / "run", [one.event(), one.decision(one.event()), update])
    _, page = page_of([folder], tmp_path / "r.html")
    assert 'class="escalate"' not in page
    assert "<td>nan</td><td>inf</td>" in page
    trace = find.in_recordings("pump-1:1:5", [folder])
    said = json.loads(json.dumps(text.as_json(trace), allow_nan=False))
    assert (said["levels"]["escalate_at"], said["thresholds"]["raise_at"]) == (None, None)


def test_a_damaged_file_is_told_in_the_page(tmp_path: Path) -> None:
    folder = one.write_folder(tmp_path / "run")
    path = folder / "edge.status.avro"
    path.write_bytes(path.read_bytes()[:-3])
    found, page = page_of([folder], tmp_path / "r.html")
    assert "edge.status.avro" in str(found["damaged"])
    assert "Damaged: " in page


def test_nothing_recorded_and_nowhere_to_write_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing is recorded here"):
        report.survey([tmp_path])
    folder = one.write_folder(tmp_path / "run")
    with pytest.raises(ConfigError, match="the page cannot be written"):
        page_of([folder], folder / "edge.events.avro" / "r.html")


def test_a_band_keeps_every_extreme_in_bounded_memory() -> None:
    band = Band(1)
    rng = np.random.default_rng(0)
    for start in range(0, 1_000_000, 500):
        rows = rng.normal(0, 1, (500, 1)).astype(np.float32)
        if start == 777_000:
            rows[123] = 99.0
        if start == 500:
            rows[7] = -99.0
        band.add(np.arange(start, start + 500), rows, rows)
    times, low, high = band.arrays()
    assert len(times) <= 2 * BUCKETS + 500
    assert (np.diff(times) > 0).all()
    assert (high.max(), low.min()) == (99.0, -99.0)
    assert abs(int(times[high[:, 0].argmax()]) - 777_123) < 2000
