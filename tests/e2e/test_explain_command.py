"""`tidegate explain` and `report` as a user runs them: over the topics of a real broker, and over a recorded folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from deploy.broker import Broker
from schemas import topics
from schemas.codec import encode
from tests.command import tidegate
from tests.doubles import one_event as one
from tests.doubles import records as make


def send(broker: Broker, prefix: str, records: list[Any]) -> None:
    """Each to its topic; of what is no record, to the events."""
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, acks="all")
    for record in records:
        topic = next((t for t in topics.CATALOGUE if t.record is type(record)), topics.EVENTS)
        value = record if isinstance(record, bytes) else encode(record)
        producer.send(topic.named(prefix), key=getattr(record, "device_id", "x").encode(), value=value)
    producer.flush()
    producer.close()


@pytest.mark.kafka
def test_an_event_is_explained_from_the_topics_with_the_broker_s_times(
    broker: Broker, catalogue: str, tmp_path: Path
) -> None:
    before_us = time.time_ns() // 1000
    events = [one.event(seq) for seq in range(20)]
    decisions = [one.decision(event) for event in events]
    caused = one.thresholds(5, evidence=["pump-1:1:5"])
    send(broker, catalogue, [b"junk", *events, *decisions, make.aggregate(), one.thresholds(), caused, one.status()])
    where = ("-b", broker.bootstrap_servers, "--prefix", catalogue)
    done = tidegate("explain", "pump-1:1:5", *where, "-o", "json", "--html", tmp_path / "event.html")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    hops = {hop["name"]: hop for hop in said["hops"]}
    assert list(hops) == [
        "sensed_from",
        "sensed_to",
        "edge_decided",
        "sent",
        "decided",
        "published",
        "feedback",
        "applied",
    ]
    assert before_us - 1_000 <= hops["sent"]["at_us"] <= time.time_ns() // 1000
    assert (said["event"]["seq"], said["decision"]["seq"], said["decision"]["verdict"]) == (5, 5, "OVERRIDDEN")
    assert said["signal"]["channels"] == ["c0", "c1"]
    assert said["searched"]["edge.events"] == 21
    assert "<svg" in (tmp_path / "event.html").read_text()

    unknown = tidegate("explain", "pump-1:1:99", *where)
    assert unknown.returncode == 1
    assert "searched='edge.events: 21, " in unknown.stderr
    assert "of that device there are pump-1:1:0 to pump-1:1:19" in unknown.stderr
    assert tidegate("explain", "pump-1:1:5", *where, "--from", "-1min").returncode == 0
    later = tidegate("explain", "pump-1:1:5", *where, "--from", "2100-01-01")
    assert later.returncode == 1


def test_a_recorded_folder_is_explained_and_reported(tmp_path: Path) -> None:
    folder = one.write_folder(tmp_path / "run")
    told = tidegate("explain", "pump-1:1:5", "--in", folder, "--quiet")
    assert (told.returncode, told.stderr) == (0, "")
    assert "final: NORMAL (overridden by HEAVY; the edge said ANOMALY)" in told.stdout
    done = tidegate("report", folder, "-o", tmp_path / "r.html", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["decisions"] == 3
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["explain", "nonsense", "--in", "RUN"], 65, "not an event id"),
        (["explain", "pump-1:1:77", "--in", "RUN"], 1, "no record of that event"),
        (["explain", "pump-1:1:5", "--in", "nowhere"], 78, "there is no such recording"),
        (["explain", "pump-1:1:5", "--in", "RUN", "--html", "no/such/page.html"], 78, "the page cannot be written"),
        (["explain", "pump-1:1:5", "-b", "127.0.0.1:1"], 69, "127.0.0.1:1"),
        (["report", "nowhere", "-o", "r.html"], 78, "there is no such recording"),
    ],
)
def test_what_cannot_be_told_is_one_line_and_its_exit_code(
    tmp_path: Path, words: list[str], code: int, sentence: str
) -> None:
    folder = one.write_folder(tmp_path / "run")
    done = tidegate(
        *[str(folder) if word == "RUN" else word for word in words], *(() if words[0] == "report" else ("--quiet",))
    )
    assert done.returncode == code
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
