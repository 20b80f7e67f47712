"""Laws of the whole filter: the ledger balances after any stream, and no event leaves twice."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_filters.blocks import Block
from edge_filters.device import Rules
from edge_filters.outgoing import FromDevice
from schemas.records import EdgeAggregate, EdgeEvent, SensorBlock
from schemas.sketch import Sketch
from tests.doubles.edge_parts import T0, ManualClock, engine

value = st.one_of(st.floats(-6, 6, width=32), st.sampled_from([np.nan, np.inf, 3e38]))
rows = st.lists(st.tuples(st.integers(-2000, 4000), value), max_size=14)
turns = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.lists(st.tuples(st.sampled_from(["a", "b"]), rows), max_size=4)),
        st.tuples(st.just("tick"), st.integers(0, 3_000_000)),
    ),
    max_size=12,
)


def run(spec: list[tuple[str, object]], made=None) -> tuple[list[FromDevice], object]:  # type: ignore[no-untyped-def]
    made = made or engine(
        "a", "b", rules=Rules(max_gap_us=3000, max_wait_us=500_000, aggregate_us=5000, audit_rate=0.3)
    )
    clock = ManualClock()
    at = {"a": T0, "b": T0}
    records: list[FromDevice] = []
    for kind, detail in spec:
        if kind == "tick":
            clock.now_us += detail  # type: ignore[operator]
            records += made.tick(clock).records
            continue
        blocks = []
        for name, moves in detail:  # type: ignore[attr-defined]
            times = at[name] + np.cumsum(np.array([step for step, _ in moves], np.int64))
            at[name] = int(times[-1]) if len(times) else at[name]
            values = np.repeat(np.array([v for _, v in moves], np.float32)[:, None], 2, axis=1).reshape(-1, 2)
            blocks.append(Block(name, times.astype(np.int64), values))
        records += made.step(blocks, clock).records
    return records, made


@given(turns)
def test_the_ledger_balances_at_every_moment_and_nothing_is_open_after_the_flush(
    spec: list[tuple[str, object]],
) -> None:
    records, made = run(spec)
    for device in made.devices.values():
        c = device.counters
        assert (
            c["readings_sensed"] == c["readings_invalid"] + c["readings_aggregated"] + device.aggregator.open_readings
        )
        assert c["windows_scored"] == c["windows_answered"] + c["windows_escalated"]
        assert c["windows_sampled"] <= c["windows_answered"]
        assert c["windows_scored"] + c["windows_unscored"] == device.seq
    records += made.flush(ManualClock()).records
    for name, device in made.devices.items():
        c = device.counters
        mine = [record for record in records if record.device_id == name]
        sketches = [Sketch.from_aggregate(r) for r in mine if isinstance(r, EdgeAggregate)]
        assert c["readings_sensed"] == c["readings_invalid"] + c["readings_aggregated"]
        assert sum(sketch.readings for sketch in sketches) == c["readings_aggregated"]
        assert sum(sketch.invalid for sketch in sketches) == c["readings_invalid"]
        assert sum(isinstance(r, EdgeEvent) for r in mine) == c["windows_escalated"]
        assert sum(isinstance(r, SensorBlock) for r in mine) == c["windows_sampled"]
        assert sum(r.windows_scored for r in mine if isinstance(r, EdgeAggregate)) == c["windows_scored"]


@given(turns)
def test_no_identity_leaves_twice_and_each_lane_is_in_order(spec: list[tuple[str, object]]) -> None:
    records, made = run(spec)
    records += made.flush(ManualClock()).records
    for cls in (EdgeEvent, SensorBlock, EdgeAggregate):
        for name in ("a", "b"):
            seqs = [r.seq for r in records if isinstance(r, cls) and r.device_id == name]
            assert all(one < other for one, other in pairwise(seqs))
    windows = [r.identity for r in records if isinstance(r, (EdgeEvent, SensorBlock))]
    assert len(windows) == len(set(windows))


@given(turns)
def test_the_same_stream_gives_the_same_records(spec: list[tuple[str, object]]) -> None:
    assert run(spec)[0] == run(spec)[0]
