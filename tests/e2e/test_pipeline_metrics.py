"""What a real pipeline and its supervisor say of themselves, and one trace from a sensor to the feedback it led to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition

from deploy.broker import Broker
from pipelines.publish import publish, read_package
from schemas import topics
from schemas.codec import decode, encode
from schemas.metrics import PIPELINE, SUPERVISOR, series_names
from schemas.records import Decision, EdgeEvent, ThresholdUpdate
from schemas.topics import Topic
from schemas.tracing import HEADER, Hop, TraceParent, parse, trace_of
from tests.doubles import recording, scrape
from tests.doubles import records as make
from tests.doubles.tiny_model import write_package
from tests.e2e.test_edge_process import Rig
from tests.e2e.test_pipeline_prism import Live
from tests.wait import until

pytestmark = [pytest.mark.kafka, pytest.mark.prism]

Start = Callable[..., Live]


@pytest.fixture
def start(broker: Broker, catalogue: str, prism: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a pipeline that listens on free ports."""
    running: list[Live] = []

    def begin(*options: str) -> Live:
        ports = "--metrics_port=0", "--supervisor_metrics_port=0"
        running.append(Live(broker, catalogue, prism, tmp_path / "pipeline.log", *ports, *options))
        return running[-1]

    yield begin
    for live in running:
        live.producer.close()
        if live.process.poll() is None:
            live.process.kill()
            live.process.wait()


def series(metrics: tuple[Any, ...]) -> set[str]:
    return {name for metric in metrics for name in series_names(metric)}


def ours(found: dict[str, scrape.Series]) -> set[str]:
    return {name for name in found if name.startswith("tidegate_")}


def test_the_metrics_are_those_of_the_catalogue_and_count_what_happened(
    start: Start, broker: Broker, catalogue: str, tmp_path: Path
) -> None:
    log = tmp_path / "pipeline.log"
    live = start("--log-format=json")
    base = scrape.address(log)
    assert scrape.get(f"{base}/livez")[0] == 200
    until(lambda: "models" in scrape.ready(base)[1]["missing"], "the sentence that no model is published")
    publish(read_package(str(write_package(tmp_path / "tiny"))), broker.bootstrap_servers, catalogue)
    until(lambda: scrape.get(f"{base}/readyz")[0] == 200, "readiness", within_s=60)
    now_us = time.time_ns() // 1000
    times = {"sensed_from": now_us - 1_000_000, "sensed_to": now_us - 200_000, "decided_at": now_us - 100_000}
    for seq in range(19):
        live.send(topics.EVENTS, make.event("pump-1", seq, value=1.5, **times))  # overridden
    for _ in range(2):  # once, and once more: a clock that was never set
        live.send(topics.EVENTS, make.event("pump-1", 19, value=1.5))
    live.send(topics.EVENTS, b"\xc3\x01 not a record")
    live.send(topics.AGGREGATES, make.aggregate("pump-1", 0, now_us - now_us % 1_000_000))
    live.read(topics.DECISIONS, 20)
    live.read(topics.FLEET, 1)
    until(lambda: scrape.metrics(base)["tidegate_pipeline_decided_total"][()] == 20, "all decisions to be counted")
    until(lambda: scrape.metrics(base)["tidegate_pipeline_fleet_windows_total"][()] == 1, "the window to be counted")
    found = scrape.metrics(base)
    assert ours(found) == series(PIPELINE)
    assert found["tidegate_pipeline_records_read_total"][()] == 22
    assert found["tidegate_pipeline_duplicates_total"][()] == 1
    assert found["tidegate_pipeline_overridden_total"][()] == 20
    assert {dict(labels)["reason"]: n for labels, n in found["tidegate_pipeline_dead_letters_total"].items()} == {
        "DecodeError": 1,
        "LateData": 0,
        "LostRecords": 0,
        "Diverged": 0,
        "IdentityTaken": 0,
    }
    assert found["tidegate_pipeline_decision_latency_seconds_count"][()] == 19
    assert found["tidegate_pipeline_decision_latency_unknown_total"][()] == 1
    assert found["tidegate_pipeline_heavy_seconds_count"][()] >= 1
    written = found["tidegate_pipeline_records_written_total"]
    assert written[("topic", topics.DECISIONS.named(catalogue)),] == 20
    until(lambda: not any(scrape.metrics(base)["tidegate_pipeline_consumer_lag_records"].values()), "no lag")
    assert found["tidegate_pipeline_broker_up"][()] == found["tidegate_pipeline_models"][()] == 1

    above = scrape.address(log, "metrics and probes of the supervisor are on ")
    assert ours(scrape.metrics(above)) == series(SUPERVISOR)
    assert scrape.metrics(above)["tidegate_supervisor_restarts_total"][()] == 0
    next(p for p in live.family()[1:] if "prism" not in p.name()).kill()
    until(lambda: scrape.metrics(above)["tidegate_supervisor_restarts_total"][()] == 1, "the restart to be counted")
    until(lambda: scrape.address(log) != base, "the new worker's own address", within_s=60)
    anew = scrape.address(log)
    until(lambda: scrape.get(f"{anew}/readyz")[0] == 200, "readiness of the new worker", within_s=90)
    assert scrape.get(f"{above}/readyz")[0] == 200
    assert live.stop() == 0
    other = [line for line in log.read_text().splitlines() if not line.startswith("{")]
    assert not other
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["process"] for line in lines} == {"pipeline", "supervisor"}
    assert all({"timestamp", "severity", "logger", "body"} <= set(line) for line in lines)


def read_with_trace(
    broker: Broker, prefix: str, topic: Topic, wanted: Callable[[list[Any]], bool]
) -> list[tuple[Any, TraceParent | None]]:
    """Records of a topic with what their traceparent says, once they are those that are wanted."""
    name = topic.named(prefix)
    consumer = KafkaConsumer(
        bootstrap_servers=broker.bootstrap_servers, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    found: list[tuple[Any, TraceParent | None]] = []
    consumer.assign([TopicPartition(name, p) for p in range(topic.partitions)])

    def enough() -> bool:
        for messages in consumer.poll(timeout_ms=200).values():
            for message in messages:
                (header,) = [value for key, value in message.headers if key == HEADER] or [b""]
                found.append((decode(message.value, topic.record), parse(header)))
        return wanted([record for record, _ in found])

    try:
        until(enough, f"records in {name}", within_s=60)
    finally:
        consumer.close()
    return found


def test_one_trace_leads_from_the_sensor_to_the_decision_and_to_the_feedback_that_the_edge_obeys(
    start: Start, broker: Broker, catalogue: str, tmp_path: Path
) -> None:
    rig = Rig(tmp_path / "edge", broker, catalogue)
    publish(read_package(str(tmp_path / "edge" / "model")), broker.bootstrap_servers, catalogue)
    recording.write(
        rig.folder / "r.avro", [2.5] * 12_000, step_us=10_000, per_block=50
    )  # suspect, and normal after all
    rig.configure('id = "p"\nsensor = { kind = "recorded", path = "r.avro", speed = "1x" }')
    start("--feedback_min_escalated=10")
    rig.start("--log-format", "json")
    try:
        updates = read_with_trace(broker, catalogue, topics.THRESHOLDS, bool)
        update, feedback = updates[0]
        assert isinstance(update, ThresholdUpdate)
        newest = update.evidence[-1]

        events = read_with_trace(
            broker, catalogue, topics.EVENTS, lambda rs: newest in [r.identity.event_id for r in rs]
        )
        decisions = read_with_trace(
            broker, catalogue, topics.DECISIONS, lambda rs: newest in [r.identity.event_id for r in rs]
        )
        (sensed,) = [trace for record, trace in events if record.identity.event_id == newest]
        (decided,) = [trace for record, trace in decisions if record.identity.event_id == newest]
        assert isinstance(events[0][0], EdgeEvent)
        assert isinstance(decisions[0][0], Decision)
        assert sensed is not None
        assert decided is not None
        assert feedback is not None
        assert sensed.trace_id == decided.trace_id == feedback.trace_id
        assert len({sensed.span_id, decided.span_id, feedback.span_id}) == 3
        assert sensed == trace_of(newest, Hop.EDGE)
        traces = {record.identity.event_id: trace for record, trace in events}
        for linked in update.evidence:  # from the ids alone to the traces of everything the update stands on
            if linked in traces:
                assert traces[linked] == trace_of(linked, Hop.EDGE)

        def obeyed() -> list[dict[str, Any]]:
            lines = map(json.loads, rig.said().splitlines())
            return [line for line in lines if "are in force" in line["body"]]

        (line, *_) = until(obeyed, "the edge to obey")
        assert line["trace_id"] == sensed.trace_id
    finally:
        assert rig.end() == 0, rig.said()


def test_a_malformed_traceparent_from_elsewhere_changes_nothing(
    start: Start, broker: Broker, catalogue: str, tmp_path: Path
) -> None:
    publish(read_package(str(write_package(tmp_path / "tiny"))), broker.bootstrap_servers, catalogue)
    live = start()
    event = make.event("pump-9", 7)
    for seq, header in enumerate([b"00-zz", b"", b"\xff" * 5000, b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01"]):
        sent = make.event("pump-9", seq)
        live.producer.send(
            topics.EVENTS.named(catalogue), key=b"pump-9", value=encode(sent), headers=[(HEADER, header)]
        ).get(30)
    live.send(topics.EVENTS, event)
    found = read_with_trace(broker, catalogue, topics.DECISIONS, lambda rs: len(rs) == 5)
    for decision, trace in found:
        assert trace == trace_of(decision.identity.event_id, Hop.DECISION)
    assert live.stop() == 0


def test_a_broker_that_is_away_is_named_while_the_process_stays_alive(
    start: Start, broker: Broker, catalogue: str, tmp_path: Path
) -> None:
    publish(read_package(str(write_package(tmp_path / "tiny"))), broker.bootstrap_servers, catalogue)
    live = start()
    base = scrape.address(tmp_path / "pipeline.log")
    until(lambda: scrape.get(f"{base}/readyz")[0] == 200, "readiness", within_s=60)
    broker.stop()
    until(lambda: "broker" in scrape.ready(base)[1]["missing"], "the broker to be missed", within_s=30)
    assert scrape.get(f"{base}/livez")[0] == 200
    assert scrape.metrics(base)["tidegate_pipeline_broker_up"][()] == 0
    broker.start()
    until(lambda: scrape.get(f"{base}/readyz")[0] == 200, "readiness", within_s=60)
    assert live.stop() == 0
