"""The graph as a runner gets it: every collection has a coder of ours or of Beam's standard, and none is pickled."""

from __future__ import annotations

import apache_beam as beam

from pipelines.graph import GraphConfig, Sinks, build
from pipelines.io.models import WatchSettings
from pipelines.io.sink import WriteToKafka
from pipelines.io.source import ReadFromKafka
from pipelines.split import WindowRule


def test_nothing_between_two_steps_is_pickled() -> None:
    nowhere = "127.0.0.1:9"
    sink = WriteToKafka("out", nowhere)
    pipeline = beam.Pipeline()
    config = GraphConfig(models=WatchSettings(nowhere, "", 1.0), window=WindowRule(size_us=1, lateness_us=1))
    build(
        pipeline,
        ReadFromKafka(["in"], nowhere),
        Sinks(decisions=sink, fleet=sink, thresholds=sink, failed=sink),
        config,
    )
    components = pipeline.to_runner_api().components
    coders = {
        collection.unique_name: components.coders[collection.coder_id]
        .spec.payload.partition(b"$")[0]
        .decode(errors="replace")
        for collection in components.pcollections.values()
    }
    assert len(coders) > 10
    pickled = [name for name, coder in coders.items() if "FastPrimitives" in coder or "PickleCoder" in coder]
    assert not pickled
