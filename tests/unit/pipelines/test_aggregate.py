from __future__ import annotations

from collections.abc import Sequence

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing import test_stream
from apache_beam.transforms.window import TimestampedValue

from pipelines.aggregate import FleetWindows
from pipelines.elements import Lanes, LanesCoder, Sighting
from pipelines.io.chunk import Batch, Receipt, WindowAck
from pipelines.split import WindowRule
from schemas.codec import decode
from schemas.records import EdgeAggregate, FleetWindow
from schemas.sketch import Sketch
from tests.doubles import records as make
from tests.doubles.collect import Collect

S = 1_000_000
RULE = WindowRule(size_us=5 * S, lateness_us=10 * S)


def lanes(*aggregates: EdgeAggregate) -> Lanes:
    sightings = [Sighting(0, a, Sketch.from_aggregate(a)) for a in aggregates]
    return Lanes(Receipt("no-such-flow", "edge.aggregates", 0, 0, 1), [], [], sightings)


def at(second: float, *aggregates: EdgeAggregate) -> list[TimestampedValue]:
    return [TimestampedValue(lanes(*aggregates), second)]


def stream() -> test_stream.TestStream:
    return test_stream.TestStream(coder=LanesCoder()).advance_watermark_to(0)


def run(events: test_stream.TestStream, flow: str = "") -> list[Batch]:
    """Batches written, in order. Streaming, because otherwise the runner takes nothing for late."""
    sink = Collect()
    options = PipelineOptions([], streaming=True)
    with beam.Pipeline(runner=BundleBasedDirectRunner(), options=options) as p:
        p | events | FleetWindows(RULE, flow) | sink
    return sink.found


def windows(batches: Sequence[Batch]) -> list[FleetWindow]:
    return [decode(o.value or b"", FleetWindow) for b in batches for o in b.records]


def brief(batches: Sequence[Batch]) -> list[tuple[int, int, int, list[str]]]:
    return [(w.window_start // S, w.revision, w.readings, w.devices) for w in windows(batches)]


def test_a_window_is_written_once_when_the_watermark_passes_its_end() -> None:
    got = run(
        stream()
        .add_elements(at(1, make.aggregate("a", 0, 1 * S)))
        .add_elements(at(2, make.aggregate("b", 0, 2 * S), make.aggregate("b", 1, 4 * S)))
        .advance_watermark_to(5)
        .advance_watermark_to_infinity()
    )
    assert brief(got) == [(0, 3, 12, ["a", "b"])]
    (window,) = windows(got)
    assert (window.window_start, window.window_end) == (0, 5 * S)
    assert got[0].records[0].key == b"pumps"


def test_nothing_is_written_before_the_watermark_passes_the_end() -> None:
    """The aggregate that comes at watermark 4.9 s is part of the first and only writing."""
    got = run(
        stream()
        .add_elements(at(1, make.aggregate("a", 0, 1 * S)))
        .advance_watermark_to(4.9)
        .add_elements(at(3, make.aggregate("b", 0, 3 * S)))
        .advance_watermark_to(5)
        .advance_watermark_to_infinity()
    )
    assert brief(got) == [(0, 2, 8, ["a", "b"])]


def test_late_data_writes_the_whole_window_again_larger_each_time() -> None:
    got = run(
        stream()
        .add_elements(at(1, make.aggregate("a", 0, 0, rows=np.full((4, 2), 1.0, np.float32))))
        .advance_watermark_to(6)
        .add_elements(at(1, make.aggregate("b", 0, 0, rows=np.full((4, 2), 3.0, np.float32))))
        .advance_watermark_to(9)
        .add_elements(at(1, make.aggregate("c", 0, 0), make.aggregate("c", 1, 1 * S)))
        .advance_watermark_to_infinity()
    )
    assert brief(got) == [(0, 1, 4, ["a"]), (0, 2, 8, ["a", "b"]), (0, 4, 16, ["a", "b", "c"])]
    first, second, _ = windows(got)
    assert first.mean == [1.0, 1.0]
    assert second.mean == [2.0, 2.0]
    assert second.max == [3.0, 3.0]


def test_after_the_allowed_lateness_nothing_is_written_and_nothing_begins_anew() -> None:
    got = run(
        stream()
        .add_elements(at(1, make.aggregate("a", 0, 0)))
        .advance_watermark_to(15)
        .add_elements(at(1, make.aggregate("b", 0, 0)))
        .advance_watermark_to(40)
        .add_elements(at(1, make.aggregate("c", 0, 0)))
        .advance_watermark_to_infinity(),
        "flow-1",
    )
    assert brief(got) == [(0, 1, 4, ["a"])]
    # What came too late is still answered for: otherwise its offset would never be committed.
    acks = [(ack.contributions, ack.cumulative) for batch in got for ack in batch.windows]
    assert acks == [(1, True), (1, False), (1, False)]


def test_a_window_that_only_late_data_fills_is_written_too() -> None:
    got = run(
        stream()
        .advance_watermark_to(7)
        .add_elements(at(7, make.aggregate("a", 0, 1 * S)))
        .advance_watermark_to(8)
        .add_elements(at(8, make.aggregate("b", 0, 2 * S)))
        .advance_watermark_to_infinity()
    )
    assert brief(got)[-1] == (0, 2, 8, ["a", "b"])
    assert [w.revision for w in windows(got)] == sorted({w.revision for w in windows(got)})


def test_cohorts_channels_and_windows_never_mix() -> None:
    got = run(
        stream()
        .add_elements(
            at(
                1,
                make.aggregate("a", 0, 0),
                make.aggregate("b", 0, 0, cohort="fans"),
                make.aggregate("c", 0, 0, channels=["c0", "x"]),
                make.aggregate("d", 0, 5 * S),
            )
        )
        .advance_watermark_to_infinity()
    )
    found = {(w.cohort, tuple(w.channels), w.window_start): w.devices for w in windows(got)}
    assert found == {
        ("pumps", ("c0", "c1"), 0): ["a"],
        ("fans", ("c0", "c1"), 0): ["b"],
        ("pumps", ("c0", "x"), 0): ["c"],
        ("pumps", ("c0", "c1"), 5 * S): ["d"],
    }


def test_a_window_in_which_no_reading_was_finite_is_written_with_blank_statistics() -> None:
    nothing = make.aggregate("a", 0, 0, rows=np.full((4, 2), np.nan, np.float32))
    (window,) = windows(run(stream().add_elements(at(1, nothing)).advance_watermark_to_infinity()))
    assert (window.readings, window.invalid, window.mean, window.max, window.p99) == (0, 4, [0, 0], [0, 0], [0, 0])


@pytest.mark.parametrize("flow", ["", "flow-1"])
def test_what_is_written_answers_for_as_many_chunk_sums_as_are_in_it(flow: str) -> None:
    got = run(
        stream()
        .add_elements(at(1, make.aggregate("a", 0, 0), make.aggregate("a", 1, 1 * S)))
        .add_elements(at(1, make.aggregate("b", 0, 0)))
        .advance_watermark_to(6)
        .add_elements(at(1, make.aggregate("c", 0, 0)))
        .advance_watermark_to_infinity(),
        flow,
    )
    acks = [ack for batch in got for ack in batch.windows]
    key = b'["pumps","c0","c1"]'
    assert acks == ([WindowAck(flow, "fleet", 5 * S, key, n, cumulative=True) for n in (2, 3)] if flow else [])


def test_elements_without_aggregates_write_nothing() -> None:
    assert run(stream().add_elements(at(1)).advance_watermark_to_infinity()) == []
