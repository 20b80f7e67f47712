"""Whatever valid records hold, explaining and reporting them gives text and a page, and nothing but text in it."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.explain import page, report, text
from deploy.explain.survey import Survey
from deploy.explain.trace import Trace
from deploy.recording.files import Found, Stamp
from schemas import topics
from schemas.ids import Identity
from schemas.records import GapMarker
from tests.laws.strategies import any_record

ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "b", "span", "table", "tr"),
    *("th", "td", "small", "section", "svg", "path", "rect", "line", "circle", "text", "i"),
}
stamps = st.none() | st.builds(Stamp, st.integers(0, 9), st.integers(0, 2**62), st.integers(-1, 2**53))


@st.composite
def found(draw: st.DrawFn) -> Found:
    """A record, often of one device and one event."""
    record: Any = draw(any_record)
    if hasattr(record, "seq") and draw(st.booleans()):
        runs: Any = {"firsts": [1], "lasts": [1], "count": 1} if isinstance(record, GapMarker) else {}
        record = replace(record, device_id="d", boot_epoch=1, seq=1, **runs)
    topic = next(topic.name for topic in topics.CATALOGUE if topic.record is type(record))
    return Found(topic, record, draw(stamps))


class Tags(HTMLParser):
    """Names of all tags and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def check(html: str) -> None:
    seen = Tags(html)
    assert seen.tags <= ALLOWED
    assert not {name for name in seen.attributes if name.startswith("on") or name in ("src", "href", "xlink:href")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numbers at the end of what float64 holds
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(records=st.lists(found(), max_size=6))
def test_any_records_are_text_json_and_a_page(folder: Path, records: list[Found]) -> None:
    trace = Trace(Identity("d", 1, 1))
    for each in records:
        trace.take(each)
    if trace.is_found:
        assert all(line.isprintable() for line in text.text(trace))
        json.dumps(text.as_json(trace), allow_nan=False)
        page.write(trace, folder / "event.html")
        check((folder / "event.html").read_text())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(records=st.lists(found(), max_size=6))
def test_any_records_make_a_report(folder: Path, records: list[Found]) -> None:
    seen = Survey()
    for each in records:
        seen.take(each)
    figures = report.figures(seen, [])
    json.dumps(figures, allow_nan=False)
    report.write(seen, figures, [Path("run")], folder / "report.html")
    check((folder / "report.html").read_text())
    lines: list[str] = []
    report.text(figures, lines.append)
    assert all(line.isprintable() for line in lines)
