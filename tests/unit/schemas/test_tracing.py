from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.tracing import HEADER, Hop, TraceParent, feedback_trace, headers_of, parse, trace_of

ids = st.integers(0, 2**60).map("pump-7:1:{}".format)


@given(ids)
def test_one_event_is_one_trace_with_a_span_per_hop(event_id: str) -> None:
    spans = [trace_of(event_id, hop) for hop in Hop]
    assert len({span.trace_id for span in spans}) == 1
    assert len({span.span_id for span in spans}) == len(Hop)
    assert spans == [trace_of(event_id, hop) for hop in Hop]


def test_two_events_are_two_traces() -> None:
    assert len({trace_of(f"pump-7:1:{n}", Hop.EDGE).trace_id for n in range(10_000)}) == 10_000


@given(ids, st.sampled_from(Hop))
def test_what_is_written_has_the_form_of_w3c_and_reads_back(event_id: str, hop: Hop) -> None:
    ((name, value),) = headers_of(event_id, hop)
    assert name == HEADER == "traceparent"
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", value)
    assert parse(value) == trace_of(event_id, hop)


def test_an_update_continues_the_trace_of_its_newest_evidence() -> None:
    update = feedback_trace(["p:1:1", "p:1:2"])
    assert update is not None
    assert update.trace_id == trace_of("p:1:2", Hop.EDGE).trace_id
    assert update.span_id != trace_of("p:1:2", Hop.DECISION).span_id
    assert feedback_trace([]) is None


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        f" 00-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01-{'x' * 1000}",
    ],
)
def test_a_malformed_header_says_nothing(header: str) -> None:
    assert parse(header.encode()) is None


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True)])
def test_only_the_last_bit_of_the_flags_is_sampled(flags: str, sampled: bool) -> None:
    assert parse(f"00-{TRACE}-{SPAN}-{flags}".encode()) == TraceParent(TRACE, SPAN, sampled)


def test_a_later_version_may_say_more() -> None:
    assert parse(f"01-{TRACE}-{SPAN}-01-more".encode()) == TraceParent(TRACE, SPAN)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_trace_or_none(header: bytes) -> None:
    found = parse(header)
    assert found is None or len(found.trace_id) == 32
