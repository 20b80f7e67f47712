from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas import sketch


def test_the_tables_agree_with_the_definition_for_every_range_and_around_every_edge() -> None:
    edge, _ = sketch._tables()
    upper = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    around = [np.clip(edge.astype(np.int64) + d, 0, 0xFFFF).astype(np.uint32) for d in (-1, 0, 1)]
    for lower in (*around, np.uint32(0), np.uint32(0x7FFF), np.uint32(0xFFFF)):
        values = (upper | lower).view(np.float32)
        values = values[np.isfinite(values)]
        assert (sketch._bins(values) == sketch.bin_of(values)).all()


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=200))
def test_the_tables_agree_with_the_definition_for_any_float32(bits: list[int]) -> None:
    values = np.array(bits, np.uint32).view(np.float32)
    values = values[np.isfinite(values)]
    assert (sketch._bins(values) == sketch.bin_of(values)).all()
