"""Whatever a sensor of somebody else does, every reading that it gives is accounted for, and its stream goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_filters.blocks import Block
from edge_filters.plugins import PluginSensor
from schemas.records import EdgeAggregate
from tests.doubles.edge_parts import T0, ManualClock, engine

sizes = st.integers(0, 9)
#: What one call of read() does: the readings it gives, and what it gives or raises.
deeds = st.one_of(
    st.tuples(st.just("good"), sizes),
    st.tuples(st.just("pair"), sizes),
    st.tuples(st.just("holes"), sizes),
    st.tuples(st.just("wide"), sizes),
    st.tuples(st.just("flat"), sizes),
    st.tuples(st.sampled_from(["nothing", "raises", "exits", "text", "lengths", "floats"]), st.just(0)),
)


class Scripted:
    channels = ("a", "b")
    can_wait = False

    def __init__(self, script: list[tuple[str, int]]) -> None:
        self.script = list(script)
        self.at_us = T0

    def start(self, monotonic_s: float, wall_us: int) -> None: ...

    def due_s(self) -> float | None:
        return 0.0 if self.script else None

    def close(self) -> None: ...

    def read(self) -> Any:
        deed, n = self.script.pop(0)
        times = np.arange(n, dtype=np.int64) * 1000 + self.at_us
        self.at_us += n * 1000
        match deed:
            case "good":
                return Block("whoever", times, np.ones((n, 2), np.float32))
            case "pair":
                return times.tolist(), [[1, 2]] * n if n else np.zeros((0, 2))
            case "holes":
                values = np.ones((n, 2), np.float64)
                values[::2, 1] = np.nan
                return Block("whoever", times, values)  # type: ignore[arg-type]
            case "wide":
                return Block("whoever", times, np.ones((n, 3), np.float32))
            case "flat":
                return Block("whoever", times, np.ones(n, np.float32))
            case "raises":
                raise OSError("line down")
            case "exits":
                raise SystemExit(1)
            case "text":
                return times, [["x", "y"]] * 3
            case "lengths":
                return Block("whoever", times, np.ones((n + 1, 2), np.float32))
            case "floats":
                return np.array([1.5]), np.ones((1, 2))
        return None


@given(st.lists(deeds, max_size=20))
def test_readings_sensed_are_those_aggregated_and_those_invalid(script: list[tuple[str, int]]) -> None:
    sensor, told = PluginSensor("own:it", Scripted(script)), []
    sensor.tell = told.append
    sensor.start(0.0, T0)
    filter_, clock = engine("pump-7"), ManualClock()
    records = []
    for _ in script:  # a failed call is due later; here it is not waited for
        assert sensor.due_s() is not None
        block = sensor.read()
        if block is not None:
            block = Block("pump-7", block.times, block.values)
            records += filter_.step([block], clock).records
    assert sensor.due_s() is None or script[-1][0] in ("raises", "exits", "text", "lengths", "floats")
    records += filter_.flush(clock).records
    given_out = sum(n for deed, n in script)
    counters = filter_.devices["pump-7"].counters
    aggregated = sum(r.readings for r in records if isinstance(r, EdgeAggregate))
    assert counters["readings_sensed"] == given_out == aggregated + counters["readings_invalid"]
    invalid = sum(
        n if deed in ("wide", "flat") else (n + 1) // 2 for deed, n in script if deed in ("holes", "wide", "flat")
    )
    assert counters["readings_invalid"] == invalid
    assert all("own:it" in sentence for sentence in told if sentence)
