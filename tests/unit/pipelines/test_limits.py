from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.limits import FailureLimit, FailureMeter
from schemas.errors import ConfigError, TooManyFailed, exit_code

chunks = st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1)).map(lambda c: (c[0], round(c[0] * c[1]))), max_size=60)


@given(chunks, st.floats(0.01, 0.99), st.integers(1, 200))
def test_it_stops_at_the_first_chunk_with_which_a_window_has_too_many(
    spec: list[tuple[int, int]], ratio: float, window: int
) -> None:
    meter = FailureMeter(FailureLimit(ratio, window))
    kept: list[tuple[int, int]] = []
    for records, failed in spec:
        while kept and sum(n for n, _ in kept) + records > window:
            kept.pop(0)
        if failed and sum(bad for _, bad in kept) + failed > ratio * window:
            for _ in range(2):  # the same chunk, tried again, is refused again
                with pytest.raises(TooManyFailed):
                    meter.count(records, failed, "why")
            return
        meter.count(records, failed, "why")
        kept.append((records, failed))


def test_a_ratio_of_one_is_no_limit() -> None:
    meter = FailureMeter(FailureLimit(1.0, 10))
    for _ in range(100):
        meter.count(10, 10, "")


def test_it_says_how_many_what_to_do_and_the_newest_reason() -> None:
    meter = FailureMeter(FailureLimit(0.5, 100))
    meter.count(60, 50, "an old one")
    said = r"51 of the last 70 records .*0\.5 of 100.*'not a record'.*mend"
    with pytest.raises(TooManyFailed, match=said) as stopped:
        meter.count(10, 1, "not a record")
    assert exit_code(stopped.value) == 76


@pytest.mark.parametrize("limit", [(0.0, 10), (1.1, 10), (0.5, 0)])
def test_limits_that_mean_nothing_are_refused(limit: tuple[float, int]) -> None:
    with pytest.raises(ConfigError, match="ratio in"):
        FailureLimit(*limit)
