"""Whatever the bytes are: a right value or the project's own error, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.codec import BOOK, MAX_BYTES
from schemas.flat import MAX_STRINGS
from schemas.records import SensorBlock
from tests.hostile import avro
from tests.hostile.mutations import mutated
from tests.hostile.targets import MIB, TARGETS, Target, outcome

#: How many examples a target gets in CI; those that go through files get fewer. `make fuzz` is the long run.
EXAMPLES = {"csv": 25, "npy": 25, "npz": 25, "parquet": 25}


def refused(target: Target, cases: Iterator[avro.Case]) -> Counter[str]:
    """How the cases of a corpus end; the name of the one at fault where one ends otherwise."""
    out: Counter[str] = Counter()
    for case in cases:
        try:
            out[outcome(target, case.data)] += 1
        except Exception as wrong:
            raise AssertionError(f"{case.name}: {type(wrong).__name__}: {wrong}") from wrong
    return out


def test_the_corpus_of_records_is_refused_but_for_what_happens_to_be_valid() -> None:
    seen = refused(TARGETS["record"], avro.records())
    assert seen.total() >= 1_000
    assert seen["DecodeError"] >= 0.9 * seen.total()


def test_the_corpus_of_container_files_is_refused_or_read_to_its_end() -> None:
    seen = refused(TARGETS["container"], avro.containers())
    assert seen.total() >= 300
    assert seen["DecodeError"] >= 250


@pytest.mark.parametrize("name", [case.name for case in avro.schemas()])
def test_a_file_with_a_schema_that_is_not_ours_is_refused_before_a_record_is_looked_at(name: str) -> None:
    schema = next(case.data for case in avro.schemas() if case.name == name)
    assert outcome(TARGETS["container"], avro.header(schema) + avro.block(1, bytes(10))) == "DecodeError"


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_known_to_be_hard_is_taken_or_refused(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    assert outcome(target, seeds[0]) == "taken"  # so that fuzzers start within the parser and not before its door
    for seed in seeds:
        outcome(target, seed)


@pytest.mark.parametrize("name", TARGETS)
def test_changed_bytes_are_taken_or_refused(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=EXAMPLES.get(name, 150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(mutated(target.seeds()) | st.binary(max_size=60))
    def law(data: bytes) -> None:
        outcome(target, data)

    law()


# --- memory ----------------------------------------------------------------------------------------------------------


def peak(call: Callable[[], object]) -> int:
    """Bytes that a call holds at most beyond what was there before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_record_takes_more_than_ten_times_the_largest_one() -> None:
    limit = 10 * max(MAX_BYTES.values())
    for case in avro.records():
        if len(case.data) > 4096:
            assert peak(lambda data=case.data: outcome(TARGETS["record"], data)) <= limit, case.name  # type: ignore[misc]


@pytest.mark.parametrize("form", [b"\x02a", b"\x04ab", b"\x00"])
@pytest.mark.parametrize("count", [30_000, 32_768, 32_769, 300_000])
def test_a_record_of_many_short_names_takes_no_more_either(form: bytes, count: int) -> None:
    names = avro.varint(count) + form * count + b"\0"
    body = avro.text(b"pump") + b"\2\2" + avro.text(b"pumps") + names + b"\0\0\0" + bytes(6) + b"\xf0\x3f" + bytes(5)
    payload = BOOK.newest(SensorBlock).header + body
    assert outcome(TARGETS["record"], payload) == ("taken" if count <= MAX_STRINGS else "DecodeError")
    assert peak(lambda: outcome(TARGETS["record"], payload)) <= 10 * MAX_BYTES[SensorBlock]


def test_no_histogram_takes_more_than_ten_times_the_largest_record() -> None:
    for case in avro.sketch_bins():
        assert peak(lambda data=case.data: outcome(TARGETS["sketch"], data)) <= 10 * MIB, case.name  # type: ignore[misc]


@pytest.mark.parametrize("name", ["fleet", "evidence", "device_state", "manifest", "offer", "chunk", "batch", "lanes"])
def test_what_is_known_to_be_hard_takes_little_memory(name: str) -> None:
    target = TARGETS[name]
    for seed in target.seeds():
        assert peak(lambda data=seed: outcome(target, data)) <= 10 * target.limit_bytes  # type: ignore[misc]
