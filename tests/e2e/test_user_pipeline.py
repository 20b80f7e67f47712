"""What a user builds from our parts: a Beam pipeline of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipelines.aggregate import FleetWindows
from pipelines.heavy import HeavyModel
from pipelines.io.chunk import Batch
from pipelines.io.files import ReadRecorded
from pipelines.split import Split, WindowRule
from schemas import topics
from schemas.codec import decode
from schemas.container import ContainerWriter
from schemas.records import Decision, FleetWindow, Outcome
from tests.doubles import records as make
from tests.doubles.collect import Collect
from tests.doubles.tiny_model import write_package


def decisions(batch: Batch) -> Iterator[Decision]:
    """A user's own step."""
    for record in batch.records:
        yield decode(record.value or b"", Decision)


def test_a_pipeline_of_ones_own_gets_the_decisions_and_the_fleet(tmp_path: Path) -> None:
    for topic, records in (
        (topics.EVENTS, [make.event("a", i, value=float(i)) for i in range(5)]),
        (topics.AGGREGATES, [make.aggregate("a", i, i * 1_000_000) for i in range(5)]),
    ):
        with (tmp_path / f"{topic.name}.avro").open("wb") as file:
            writer = ContainerWriter(file, topic.record)
            for record in records:
                writer.write(record)
            writer.close()
    model = write_package(tmp_path / "tiny")
    rule = WindowRule(size_us=5_000_000, lateness_us=0)

    counted, fleet = Collect(), Collect()
    with beam.Pipeline(runner=FnApiRunner()) as p:
        routed = p | ReadRecorded(str(tmp_path), [topics.EVENTS, topics.AGGREGATES]) | Split("", rule)
        judged = routed.lanes | HeavyModel((str(model),))
        (
            judged.decisions
            | beam.FlatMap(decisions)
            | beam.Map(lambda d: (d.device_id, d.outcome.value))
            | beam.combiners.Count.PerElement()
            | "Counted" >> counted
        )
        routed.lanes | FleetWindows(rule) | "Fleet" >> fleet

    assert sorted(counted.found) == [(("a", Outcome.ANOMALY), 3), (("a", Outcome.NORMAL), 2)]
    (window,) = [decode(r.value or b"", FleetWindow) for batch in fleet.found for r in batch.records]
    assert (window.revision, window.devices) == (5, ["a"])
