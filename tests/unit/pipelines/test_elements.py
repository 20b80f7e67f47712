from __future__ import annotations

import contextlib

import pytest
from apache_beam import coders
from hypothesis import given
from hypothesis import strategies as st

from pipelines.elements import Lanes, LanesCoder, Sighting
from pipelines.io.chunk import Receipt
from schemas.errors import DecodeError
from schemas.sketch import Sketch
from tests.doubles import records as make


def sighting(offset: int, **fields: int) -> Sighting:
    aggregate = make.aggregate(**fields)
    return Sighting(offset, aggregate, Sketch.from_aggregate(aggregate))


CODER = LanesCoder()
RECEIPT = Receipt("flow-ä", "plant.edge.events", 3, 10, 2**60)
LANES = [
    Lanes(RECEIPT, [], [], []),
    Lanes(RECEIPT, [make.event(seq=i) for i in range(3)], [], []),
    Lanes(RECEIPT, [], [make.audit(seq=i) for i in range(3)], []),
    Lanes(RECEIPT, [], [], [sighting(2**40 + i, seq=i) for i in range(3)]),
    Lanes(RECEIPT, [make.event()], [make.audit()], [sighting(1)]),
    Lanes(RECEIPT, [make.event(seq=i) for i in range(3)], [], [], (0, None, -(2**62))),
]


@pytest.mark.parametrize("lanes", LANES)
def test_lanes_survive_bytes(lanes: Lanes) -> None:
    assert CODER.decode(CODER.encode(lanes)) == lanes


def test_the_coder_is_the_one_that_beam_uses_for_lanes() -> None:
    assert isinstance(coders.registry.get_coder(Lanes), LanesCoder)
    assert CODER.is_deterministic()


@given(st.sampled_from(LANES), st.data())
def test_bytes_that_end_too_early_are_refused(lanes: Lanes, data: st.DataObject) -> None:
    whole = CODER.encode(lanes)
    with pytest.raises(DecodeError):
        CODER.decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize("lanes", LANES)
def test_bytes_left_over_are_refused(lanes: Lanes) -> None:
    with pytest.raises(DecodeError, match="not a decoded chunk"):
        CODER.decode(CODER.encode(lanes) + b"\0")


@given(st.sampled_from(LANES), st.data())
def test_changed_bytes_are_lanes_or_a_decode_error_and_nothing_else(lanes: Lanes, data: st.DataObject) -> None:
    broken = bytearray(CODER.encode(lanes))
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError):
        CODER.decode(bytes(broken))


@given(st.binary(max_size=300))
def test_any_bytes_are_lanes_or_a_decode_error(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        CODER.decode(data)


def test_a_size_is_estimated_without_encoding_every_record() -> None:
    receipt = Receipt("f", "t", 0, 0, 100)
    lanes = Lanes(receipt, [make.event(seq=n) for n in range(100)], [], [])
    assert LanesCoder().estimate_size(lanes) == pytest.approx(len(LanesCoder().encode(lanes)), rel=0.1)
    assert LanesCoder().estimate_size(Lanes(receipt, [], [], [])) > 0
