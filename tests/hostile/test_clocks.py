"""Clocks that say anything: nothing is lost, nothing fails, and a device pays for its own clock only."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_filters.blocks import Block
from edge_filters.device import Rules
from edge_filters.outgoing import FromDevice
from pipelines.io.watermark import WatermarkRule
from schemas.clocks import AHEAD, AHEAD_US, UNSET, Clocks
from schemas.codec import encode
from schemas.records import EdgeAggregate
from tests.doubles.edge_parts import T0, ManualClock, engine

HOUR = 3_600_000_000
RULES = Rules(max_gap_us=5_000_000, max_wait_us=2_000_000, aggregate_us=1_000_000, audit_rate=0.5)
#: A time in which a device may believe: near the truth, off by hours and days, never set, or no time at all.
wild = (
    st.integers(T0 - 5_000_000, T0 + 5_000_000)
    | st.sampled_from([T0 - HOUR, T0 + HOUR, T0 + 24 * HOUR, 0, 30_000_000, -1, 2**62, -(2**62), 2**63 - 1, -(2**63)])
    | st.integers(-(2**63), 2**63 - 1)
)
blocks = st.lists(st.lists(wild, min_size=1, max_size=6), max_size=8)


def run(spec: dict[str, list[list[int]]], turns: list[int]) -> dict[str, list[FromDevice]]:
    """All records of an engine, by device, when each block of each device comes in turn and the wall clock jumps."""
    made, clock = engine(*spec, rules=RULES), ManualClock()
    out: dict[str, list[FromDevice]] = {name: [] for name in spec}
    for turn in range(max(map(len, spec.values()), default=0)):
        clock.now_us = T0 + (turns[turn % len(turns)] if turns else 0)
        for name, times in spec.items():
            if turn < len(times):
                at = np.array(times[turn], np.int64)
                sensed = Block(name, at, np.full((len(at), 2), turn % 7, np.float32))
                for record in made.step([sensed], clock).records:
                    out[record.device_id].append(record)
        for record in made.tick(clock).records:
            out[record.device_id].append(record)
    for record in made.flush(clock).records:
        out[record.device_id].append(record)
    return out


@given(blocks, st.lists(st.sampled_from([0, 10, HOUR, -HOUR, -24 * HOUR, 24 * HOUR]), max_size=4))
def test_whatever_the_times_every_reading_is_in_one_aggregate_and_every_record_can_be_sent(
    times: list[list[int]], turns: list[int]
) -> None:
    records = run({"a": times}, turns)["a"]
    readings = sum(r.readings for r in records if isinstance(r, EdgeAggregate))
    assert readings == sum(map(len, times))
    for record in records:
        encode(record)


@given(blocks, blocks)
def test_the_clock_of_one_device_changes_no_record_of_another(wrong: list[list[int]], right: list[list[int]]) -> None:
    alone = run({"right": right}, [])["right"]
    beside = run({"wrong": wrong, "right": right}, [])["right"]
    assert beside == alone


RULE = WatermarkRule(disorder_us=500_000, idle_us=1_000_000, future_us=60_000_000)


@given(st.lists(wild, max_size=20), st.integers(0, 2**31))
def test_no_event_time_moves_the_watermark_further_than_the_broker_s_clock_allows(
    times: list[int], append_ms: int
) -> None:
    now_us, watermark_us = append_ms * 1000, 0
    for at_us in times:
        if RULE.plausible(at_us, append_ms, now_us):
            watermark_us = RULE.after_records(watermark_us, [at_us])
    assert 0 <= watermark_us <= max(0, now_us + RULE.future_us - RULE.disorder_us)


@given(st.lists(st.tuples(wild, st.integers(T0, T0 + HOUR)), max_size=30))
def test_whatever_comes_a_verdict_is_about_this_record_and_certain(seen: list[tuple[int, int]]) -> None:
    clocks = Clocks()
    for decided_at, append_us in seen:
        verdict = clocks.judge("pump-1", decided_at, append_us)
        assert (verdict.suspect == AHEAD) == (decided_at - append_us > AHEAD_US)
        assert (verdict.suspect == UNSET) == (decided_at < 1_577_836_800_000_000)
        assert verdict.ahead_us is None or verdict.ahead_us >= 0
