"""Readers and writers made for a schema: the corners of numbers, and which schemas are flat."""

from __future__ import annotations

import types
from enum import StrEnum
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import BOOK
from schemas.flat import Compiled, NotCanonical, compiled
from schemas.records import Decision, DeviceStatus, EdgeAggregate, EdgeEvent, SensorBlock


class Colour(StrEnum):
    RED = "RED"
    BLUE = "BLUE"


def made(*fields: tuple[str, Any], enums: Any = None) -> Compiled:
    found = compiled(parsed(*fields), enums or {})
    assert found is not None
    return found


def parsed(*fields: tuple[str, Any]) -> Any:
    return fastavro.parse_schema(
        {"type": "record", "name": "R", "fields": [{"name": n, "type": t} for n, t in fields]}, {}
    )


NUMBER = made(("n", "long"))
#: Microseconds since 1970 within a second share five of their eight bytes, which are looked up.
TIMES = (
    st.integers(2**48 - 5, 2**48 + 5) | st.integers(2**55 - 5, 2**55 + 5) | st.integers(1_700_000_000_000_000, 2**51)
)


@given(st.integers(-(2**63), 2**63 - 1) | TIMES)
def test_any_number_of_64_bits_comes_back(number: int) -> None:
    data = NUMBER.write(b"", types.SimpleNamespace(n=number))
    for _ in range(2):  # the second time by what was kept of the first
        assert NUMBER.write(b"", types.SimpleNamespace(n=number)) == data
        assert NUMBER.read(data, 0) == {"n": number}


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_a_number_of_more_bits_is_not_written(number: int) -> None:
    with pytest.raises(OverflowError, match="64 bits"):
        NUMBER.write(b"", types.SimpleNamespace(n=number))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x00",
        b"\x81\x80\x00",
        b"\x80" * 7 + b"\x00",
        b"\xff" * 9 + b"\x02",  # bit 64
        b"\xff" * 9 + b"\x03",  # bit 64 and a valid rest
        b"\xff" * 10 + b"\x01",
        b"\x02\x00",
    ],
)
def test_a_second_spelling_of_a_number_is_refused(data: bytes) -> None:
    with pytest.raises(NotCanonical):
        NUMBER.read(data, 0)


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 2**62])
def test_an_int_in_a_union_has_32_bits(number: int) -> None:
    reader = made(("n", ["null", "int"]))
    for fits in (2**31 - 1, -(2**31)):
        assert reader.read(reader.write(b"", types.SimpleNamespace(n=fits)), 0) == {"n": fits}
    with pytest.raises(NotCanonical, match="32 bits"):
        reader.read(reader.write(b"", types.SimpleNamespace(n=number)), 0)


def test_what_was_kept_of_a_time_does_not_let_a_longer_spelling_through() -> None:
    data = NUMBER.write(b"", types.SimpleNamespace(n=1_700_000_000_000_000))
    assert len(data) == 8
    NUMBER.read(data, 0)
    with pytest.raises(NotCanonical):
        NUMBER.read(data[:7] + bytes([data[7] | 0x80, 0]), 0)


@pytest.mark.parametrize("index", [4, 6, 1, 255, 128])
def test_an_enum_index_that_is_not_one_is_refused(index: int) -> None:
    enum = {"type": "enum", "name": "C", "symbols": ["RED", "BLUE"]}
    codec = made(("c", enum), enums={"c": Colour})
    assert codec.read(b"\x02", 0) == {"c": Colour.BLUE}
    with pytest.raises((KeyError, NotCanonical)):
        codec.read(bytes([index]), 0)


@pytest.mark.parametrize("data", [b"\x01a\x00", b"\x02", b"\x04\x02a\x00", b"\x02\x02a\x02\x02b\x00", b"\x03\x02a\x00"])
def test_an_array_that_is_not_one_whole_block_is_refused(data: bytes) -> None:
    codec = made(("names", {"type": "array", "items": "string"}))
    assert codec.read(b"\x02\x02a\x00", 0) == {"names": ["a"]}
    with pytest.raises((NotCanonical, IndexError, UnicodeDecodeError)):
        codec.read(data, 0)


def test_the_records_of_the_hot_paths_are_flat_and_one_with_records_in_it_is_not() -> None:
    flat = {entry.record for entry in BOOK.all() if entry.flat is not None}
    assert {EdgeEvent, Decision, SensorBlock, EdgeAggregate} <= flat
    assert DeviceStatus not in flat


@pytest.mark.parametrize(
    "kind",
    [
        "float",
        "boolean",
        ["null", "string", "long"],
        {"type": "map", "values": "long"},
        {"type": "array", "items": "long"},
    ],
)
def test_a_schema_with_anything_else_is_left_to_the_schema_driven_way(kind: Any) -> None:
    assert compiled(parsed(("a", kind)), {}) is None


def test_a_symbol_that_the_program_does_not_know_is_left_to_schema_resolution() -> None:
    enum = {"type": "enum", "name": "C", "symbols": ["RED", "BLUE", "GREEN"], "default": "RED"}
    assert compiled(parsed(("c", enum)), {"c": Colour}) is None
