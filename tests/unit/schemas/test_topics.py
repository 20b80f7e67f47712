from __future__ import annotations

import re
from pathlib import Path

import pytest

from schemas.codec import BOOK
from schemas.topics import CATALOGUE, by_name

ROOT = Path(__file__).resolve().parents[3]


def test_every_topic_has_a_name_of_its_own_and_can_be_found_by_it() -> None:
    assert len({topic.name for topic in CATALOGUE}) == len(CATALOGUE)
    assert all(by_name(topic.name) is topic for topic in CATALOGUE)


def test_a_topic_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        by_name("edge.nothing")


def test_every_record_on_the_wire_has_exactly_one_topic() -> None:
    assert sorted(t.record.__name__ for t in CATALOGUE) == sorted(e.record.__name__ for e in BOOK.all())


def test_what_devices_send_is_stamped_by_the_broker() -> None:
    for topic in CATALOGUE:
        if topic.name.startswith("edge."):
            assert topic.config["message.timestamp.type"] == "LogAppendTime"


def test_desired_and_reported_state_is_compacted_and_nothing_else() -> None:
    compacted = {topic.name for topic in CATALOGUE if topic.compacted}
    assert compacted == {
        "edge.status",
        "edge.claims",
        "cloud.seen",
        "feedback.thresholds",
        "feedback.models",
        "feedback.artifacts",
    }


def test_topics_are_documented_and_partitioned() -> None:
    assert all(topic.doc and topic.key and topic.partitions >= 1 for topic in CATALOGUE)


def test_a_prefix_comes_before_the_name() -> None:
    assert by_name("edge.events").named("plant1.") == "plant1.edge.events"


def test_no_topic_name_is_written_anywhere_else_in_the_code() -> None:
    names = "|".join(re.escape(topic.name) for topic in CATALOGUE)
    quoted = re.compile(rf"""["']({names})["']""")
    sources = [path for folder in ("schemas", "edge_filters", "pipelines") for path in (ROOT / folder).rglob("*.py")]
    assert sources
    found = [str(path) for path in sources if path.name != "topics.py" and quoted.search(path.read_text())]
    assert found == []
