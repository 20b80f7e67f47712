from __future__ import annotations

import pickle
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipelines import limits, refusal
from pipelines.elements import Lanes
from pipelines.io.chunk import Batch, Chunk, Receipt, Resume
from pipelines.limits import FailureLimit
from pipelines.split import FLEET_LANE, MAX_AHEAD_US, LateData, Split, WindowRule
from schemas import topics
from schemas.clocks import FIRST_US, LAST_US
from schemas.codec import decode, encode
from schemas.errors import ConfigError
from schemas.records import Failure
from schemas.sketch import Sketch
from tests.doubles import records as make
from tests.doubles.chunks import RECEIVED_MS, chunk
from tests.doubles.collect import Collect

RULE = WindowRule(size_us=5_000_000, lateness_us=10_000_000)


def run(*chunks: Chunk, rule: WindowRule = RULE, prefix: str = "", recorded_clock: bool = True) -> tuple[Any, Any]:
    """Lanes and failed batches of some chunks, through the transform on the in-process runner."""
    lanes, failed = Collect(), Collect()
    with beam.Pipeline(runner=FnApiRunner()) as p:
        routed = p | beam.Create(list(chunks)) | Split(prefix, rule, recorded_clock=recorded_clock)
        routed.lanes | "Lanes" >> lanes
        routed.failed | "Failed" >> failed
    return lanes.found, failed.found


def split(one: Chunk, **options: Any) -> tuple[Lanes, list[Failure]]:
    """The one Lanes and the failures of a chunk."""
    lanes, failed = run(one, **options)
    assert [type(x) for x in lanes] == [Lanes]
    assert [type(x) for x in failed] == [Batch]
    assert lanes[0].receipt == one.receipt
    assert failed[0].receipts == (one.receipt,)
    letters = failed[0].records
    assert all(o.key == one.topic.encode() for o in letters)
    return lanes[0], [decode(o.value, Failure) for o in letters]


def test_each_topic_goes_to_its_lane_in_order() -> None:
    events = [make.event(seq=i) for i in range(3)]
    audits = [make.audit(seq=i) for i in range(3)]
    aggregates = [make.aggregate(seq=i) for i in range(3)]
    assert split(chunk(events))[0].events == events
    assert split(chunk(audits))[0].audits == audits
    sightings = split(chunk(aggregates, begin=40))[0].aggregates
    assert sightings == [(40 + at, each, Sketch.from_aggregate(each)) for at, each in enumerate(aggregates)]


def test_every_chunk_gives_one_element_to_each_branch_even_with_nothing_in_it() -> None:
    empty = Chunk("flow", "edge.events", 1, 5, 9, 0, [])
    lanes, failed = run(empty, chunk([make.event()]))
    receipts = {empty.receipt, Receipt("flow", "edge.events", 3, 0, 1)}
    assert {x.receipt for x in lanes} == receipts
    assert {b.receipts[0] for b in failed} == receipts
    assert len(lanes) == len(failed) == 2


def test_a_topic_prefix_is_taken_off() -> None:
    lanes, failures = split(chunk([make.event(), b"junk"], prefix="plant1."), prefix="plant1.")
    assert len(lanes.events) == 1
    assert failures[0].source == "plant1.edge.events"


GOOD = encode(make.event())
BAD: dict[str, tuple[bytes | None, str]] = {
    "tombstone": (None, "not a record: the single-object header is missing"),
    "empty": (b"", "not a record: the single-object header is missing"),
    "text": (b"hello", "not a record: the single-object header is missing (starts_with='68656c6c6f')"),
    "header alone": (GOOD[:10], "payload does not fit its schema (record='EdgeEvent')"),
    "cut short": (GOOD[:-1], "payload does not fit its schema (record='EdgeEvent')"),
    "bytes left over": (GOOD + b"\0", "payload is not the canonical encoding of its record (record='EdgeEvent')"),
    "unknown fingerprint": (b"\xc3\x01" + b"12345678" + GOOD[10:], "unknown schema fingerprint (fingerprint="),
    "another record": (encode(make.aggregate()), "another record than expected (expected='EdgeEvent', got="),
    "a megabyte of garbage": (b"\xc3\x01" + b"\xa5" * (1 << 20), "unknown schema fingerprint"),
    "a megabyte in our frame": (GOOD[:10] + b"\xa5" * (1 << 20), "record is too large (record='EdgeEvent'"),
    "names that would not fit into a decision": (encode(make.event(cohort="c" * 129)), "its cohort is too long"),
    "a model name that long": (encode(make.event(model_name="m" * 20_000)), "its model_name is too long"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_record_becomes_a_failure_and_the_good_ones_go_on(kind: str) -> None:
    payload, sentence = BAD[kind]
    before, after = make.event(seq=1), make.event(seq=2)
    lanes, failures = split(chunk([before, payload, after], topic="edge.events", begin=70))
    assert lanes.events == [before, after]
    (failure,) = failures
    assert (failure.source, failure.partition, failure.offset, failure.key) == ("edge.events", 3, 71, b"key-71")
    assert failure.problem.startswith(sentence)
    assert (failure.stage, failure.reason) == ("split", "DecodeError")
    assert failure.failed_at == RECEIVED_MS * 1000
    whole = payload or b""
    assert failure.payload == whole[: len(failure.payload)]
    assert len(failure.payload) == len(whole) or f"cut from {len(whole)} bytes" in failure.problem


def test_a_record_of_the_largest_size_fits_whole_into_its_failure() -> None:
    payload = b"x" * 1_000_000
    _, (failure,) = split(chunk([payload], topic="edge.events"))
    assert failure.payload == payload


def test_a_chunk_of_nothing_but_bad_records_is_answered_for() -> None:
    lanes, failures = split(chunk([b"a", None, b"b"], topic="edge.samples"))
    assert lanes == Lanes(Receipt("flow", "edge.samples", 3, 0, 3), [], [], [])
    assert [f.offset for f in failures] == [0, 1, 2]


def test_live_failures_are_dated_by_the_wall_clock() -> None:
    _, (failure,) = split(chunk([b"a"], topic="edge.samples"), recorded_clock=False)
    assert failure.failed_at > 1_700_000_000_000_000


def late(window_start: int, watermark_us: int, **changes: Any) -> tuple[Lanes, list[Failure]]:
    one = make.aggregate(start_us=window_start, size_us=1_000_000)
    return split(chunk([one], watermark_us=watermark_us, **changes))


@pytest.mark.parametrize(("watermark_us", "wanted"), [(14_999_999, True), (15_000_000, False), (99_000_000, False)])
def test_an_aggregate_is_wanted_until_its_window_is_closed_for_good(watermark_us: int, wanted: bool) -> None:
    lanes, failures = late(2_000_000, watermark_us)  # window 0..5 s, lateness 10 s
    assert len(lanes.aggregates) == int(wanted)
    assert len(failures) == int(not wanted)
    if failures:
        assert failures[0].reason == "LateData"
        assert failures[0].problem == (
            f"its window is closed for good (device_id='pump-1', window_end=5000000, watermark={watermark_us}); "
            "raise --allowed_lateness when devices are offline for longer than that"
        )


def test_a_closed_window_that_is_read_again_is_skipped_without_a_word() -> None:
    resume = Resume(position=10, horizons=((FLEET_LANE, 5_000_000),))
    lanes, failures = late(0, 0, begin=9, resume=resume)
    assert (lanes.aggregates, failures) == ([], [])


def test_a_new_aggregate_for_a_window_that_an_earlier_run_closed_is_late() -> None:
    resume = Resume(position=10, horizons=((FLEET_LANE, 5_000_000),))
    lanes, failures = late(0, 0, begin=10, resume=resume)
    assert lanes.aggregates == []
    assert [f.reason for f in failures] == ["LateData"]


def test_an_aggregate_of_a_window_that_was_open_is_wanted_again_after_a_restart() -> None:
    resume = Resume(position=10, horizons=((FLEET_LANE, 5_000_000),))
    lanes, failures = late(5_000_000, 0, begin=3, resume=resume)
    assert (len(lanes.aggregates), failures) == (1, [])


def test_events_and_failures_that_an_earlier_run_answered_are_not_answered_again() -> None:
    one = chunk([make.event(seq=0), b"junk", make.event(seq=2)], topic="edge.events", resume=Resume(position=2))
    lanes, failures = split(one)
    assert [e.seq for e in lanes.events] == [2]
    assert failures == []


def test_an_aggregate_that_spans_two_fleet_windows_is_refused() -> None:
    _, (failure,) = split(chunk([make.aggregate(start_us=4_500_000, size_us=1_000_000)]))
    assert failure.problem == (
        "an aggregate spans two fleet windows (device_id='pump-1'); "
        "the fleet window must be a multiple of the edges' aggregate window"
    )


def test_an_aggregate_as_long_as_the_fleet_window_fits() -> None:
    lanes, failures = split(chunk([make.aggregate(start_us=5_000_000, size_us=5_000_000)]))
    assert (len(lanes.aggregates), failures) == (1, [])


@pytest.mark.parametrize(
    "broken",
    [{"readings": 5}, {"bins": b"\xff" * 7}, {"bins": b""}, {"m2": b"\xff" * 16}],
)
def test_a_broken_sketch_is_refused(broken: dict[str, Any]) -> None:
    lanes, (failure,) = split(chunk([make.aggregate(**broken)]))
    assert lanes.aggregates == []
    assert failure.problem.startswith("not a sketch: ")
    assert failure.problem.endswith("(device_id='pump-1')")


def test_a_window_in_the_far_future_is_refused_because_it_would_hold_the_committed_offset_until_then() -> None:
    ahead_us = RECEIVED_MS * 1000 + MAX_AHEAD_US
    fits = make.aggregate(start_us=ahead_us - 1_000_000)
    assert len(split(chunk([fits]), rule=WindowRule(size_us=1_000_000, lateness_us=0))[0].aggregates) == 1
    for start_us in (ahead_us, 4_102_444_800_000_000, 253_402_300_700_000_000):
        wrong = make.aggregate(start_us=start_us - start_us % 5_000_000, size_us=1_000_001)
        _, (failure,) = split(chunk([wrong]))
        assert failure.problem.startswith("its window ends in the future (device_id='pump-1', window_end=")
        assert failure.problem.endswith("; the clock of the device is wrong")


def test_a_window_before_1970_is_late() -> None:
    _, (failure,) = split(chunk([make.aggregate(start_us=-5_000_000)]))
    assert failure.reason == "LateData"


ENDS = (-(2**63), -(2**62), FIRST_US - 1, LAST_US + 1, 1_700_000_000_000_000_000, 2**63 - 1)


@pytest.mark.parametrize("at_us", ENDS)
def test_a_time_of_no_year_is_put_away_because_a_runner_cannot_count_with_it(at_us: int) -> None:
    start_us = max(min(at_us, 2**63 - 5_000_001), 5_000_000 - 2**63)
    wrong = [
        *(make.event(**{name: at_us}) for name in ("sensed_from", "sensed_to", "decided_at")),
        make.aggregate(start_us=start_us - start_us % 5_000_000),
        make.audit(event_times=np.full(8, at_us, "<i8").tobytes()),
    ]
    for record in wrong:
        lanes, (failure,) = split(chunk([record]))
        assert (lanes.events, lanes.audits, lanes.aggregates) == ([], [], [])
        assert failure.problem.startswith("its time is of no year between 1 and 9999 (device_id='pump-1', at_us=")


def test_events_of_a_clock_that_is_ahead_are_kept_with_by_how_much() -> None:
    received_ms = 1_700_000_000_000
    day_us = 86_400_000_000
    fine = [make.event("pump-1", i, decided_at=received_ms * 1000 - 20_000) for i in range(2)]
    ahead = [make.event("pump-2", i, decided_at=received_ms * 1000 + day_us) for i in range(2)]
    unset = [make.event("pump-3", i, decided_at=30_000_000 + i) for i in range(2)]
    made = [event for three in zip(fine, ahead, unset, strict=True) for event in three]
    lanes, failures = split(chunk(made, received_ms=received_ms), recorded_clock=False)
    assert (lanes.events, failures) == (made, [])
    assert lanes.ahead_us == (0, day_us, None) * 2


def test_a_replay_measures_no_clocks() -> None:
    assert split(chunk([make.event()]))[0].ahead_us == ()


@pytest.mark.parametrize("wrong", [{"size_us": 0}, {"size_us": -1}, {"lateness_us": -1}])
def test_windows_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="fleet windows need a positive size and a lateness of zero or more"):
        WindowRule(**({"size_us": 1, "lateness_us": 0} | wrong))


def test_late_data_survives_pickling_with_all_it_says() -> None:
    error = LateData("its window is closed", device_id="pump-1", window_end=5, fix="wait less")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is LateData
    assert (str(again), again.where, again.fix) == (str(error), error.where, error.fix)


def test_topics_of_the_catalogue_all_have_a_lane() -> None:
    from pipelines.graph import INPUTS

    assert {t.name for t in INPUTS} == {topics.EVENTS.name, topics.AGGREGATES.name, topics.SAMPLES.name}


def test_records_that_retention_deleted_unread_leave_a_dead_letter_that_names_them() -> None:
    gap = Chunk("flow", "edge.events", 1, 5, 9, 0, [], lost_from=5)
    lanes, (letter,) = split(gap)
    assert lanes.events == []
    assert (letter.source, letter.partition, letter.offset, letter.stage) == ("edge.events", 1, 5, "source")
    assert letter.reason == "LostRecords"
    assert "offsets 5 to 8 were deleted by retention" in letter.problem


def test_what_the_source_refused_becomes_a_dead_letter_and_nothing_else() -> None:
    events = [make.event(seq=i) for i in range(4)]
    refused = ((0, refusal.OTHER_PAYLOAD), (1, refusal.WENT_BACK), (3, refusal.KILLS))
    lanes, failures = split(chunk(events, refused=refused))
    assert lanes.events == events[2:3]
    assert [(f.offset, f.reason) for f in failures] == [(0, "IdentityTaken"), (1, "Diverged"), (3, "KillsWorkers")]
    assert [f.payload for f in failures] == [encode(events[at]) for at in (0, 1, 3)]


def test_what_an_earlier_run_has_refused_is_not_put_away_again() -> None:
    aggregates = [make.aggregate(seq=i) for i in range(2)]
    again = chunk(aggregates, refused=((0, refusal.WENT_BACK), (1, refusal.WENT_BACK)), resume=Resume(1))
    lanes, failures = split(again)
    assert (lanes.aggregates, [f.offset for f in failures]) == ([], [1])


def test_a_record_on_which_our_own_code_fails_is_put_away_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(record: Any) -> None:
        if record.seq == 1:
            raise RuntimeError("nobody thought of this")

    monkeypatch.setattr("pipelines.split._check_names", fail)
    lanes, failures = split(chunk([make.event(seq=i) for i in range(3)]))
    assert [e.seq for e in lanes.events] == [0, 2]
    assert [(f.offset, f.reason) for f in failures] == [(1, "UnexpectedError")]
    assert "RuntimeError: nobody thought of this" in failures[0].problem


def test_too_many_failures_end_the_job_with_the_reason() -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    mostly_junk = chunk([b"junk"] * 6 + [make.event()] * 2, topic="edge.events")
    pipeline | beam.Create([mostly_junk]) | Split("", RULE, limit=FailureLimit(0.5, 10))
    with pytest.raises(Exception, match="6 of the last 8 records were refused"):
        pipeline.run()
    stopped = limits.take_stopped()
    assert stopped is not None
    assert "not a record" in str(stopped)
    assert limits.take_stopped() is None
