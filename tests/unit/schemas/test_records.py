"""The dataclasses are what the .avsc files say, which are the truth."""

from __future__ import annotations

import dataclasses
import types
import typing
from enum import StrEnum
from typing import Any

import numpy as np
import pytest

from schemas import records as r
from schemas.codec import _ENUMS, BOOK, MAX_BYTES
from tests.golden.samples import SAMPLES

NEWEST = {entry.record: BOOK.newest(entry.record).source for entry in BOOK.all()}
_PLAIN = {"string": str, "bytes": bytes, "double": float, "long": int, "int": int, "boolean": bool}


def python_type(schema: Any) -> Any:
    """Type of a field in a dataclass, as its Avro type says."""
    if isinstance(schema, list):
        (branch,) = [python_type(s) for s in schema if s != "null"]
        return branch | None
    if isinstance(schema, str):
        return _PLAIN.get(schema) or (bytes if schema == "Sha256" else _by_name(schema))
    kind = schema["type"]
    if kind == "array":
        return list[python_type(schema["items"])]  # type: ignore[misc]
    if kind == "map":
        return dict[str, python_type(schema["values"])]  # type: ignore[misc]
    if kind == "fixed":
        return bytes
    if kind in ("enum", "record"):
        return _by_name(schema["name"])
    return python_type(kind)


def _by_name(name: str) -> Any:
    return getattr(r, name.rpartition(".")[2])


def check_same_fields(cls: type[Any], schema: dict[str, Any]) -> None:
    hints = typing.get_type_hints(cls)
    assert sorted(f.name for f in dataclasses.fields(cls)) == sorted(f["name"] for f in schema["fields"])
    for field in schema["fields"]:
        assert hints[field["name"]] == python_type(field["type"]), field["name"]


@pytest.mark.parametrize("cls", NEWEST, ids=lambda cls: cls.__name__)
def test_a_dataclass_has_the_fields_and_types_of_its_schema(cls: type[Any]) -> None:
    check_same_fields(cls, NEWEST[cls])
    assert NEWEST[cls]["name"] == cls.__name__


def test_the_record_within_a_status_has_the_fields_of_its_schema() -> None:
    applied = next(f for f in NEWEST[r.DeviceStatus]["fields"] if f["name"] == "applied")["type"]
    check_same_fields(r.Applied, applied["items"])


def enums(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [enum for branch in schema for enum in enums(branch)]
    if not isinstance(schema, dict):
        return []
    if schema["type"] == "enum":
        return [schema]
    inner = [*schema.get("fields", []), schema.get("items"), schema.get("values")]
    return [enum for part in inner for enum in enums(part["type"] if part and "doc" in part else part)]


@pytest.mark.parametrize("cls", NEWEST, ids=lambda cls: cls.__name__)
def test_enums_have_the_symbols_of_their_schema_in_its_order(cls: type[Any]) -> None:
    for enum in enums(NEWEST[cls]):
        python: type[StrEnum] = _by_name(enum["name"])
        assert [str(member) for member in python] == enum["symbols"]
        assert enum.get("default", enum["symbols"][0]) in enum["symbols"]


def test_the_codec_turns_every_enum_field_into_its_enum() -> None:
    for cls in [*NEWEST, r.Applied]:
        hints = typing.get_type_hints(cls)
        want = {name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, StrEnum)}
        assert _ENUMS.get(cls, {}) == want


@pytest.mark.parametrize("cls", NEWEST, ids=lambda cls: cls.__name__)
def test_every_field_of_a_schema_is_documented(cls: type[Any]) -> None:
    assert NEWEST[cls]["doc"]
    assert all(field["doc"] for field in NEWEST[cls]["fields"])


@pytest.mark.parametrize("cls", NEWEST, ids=lambda cls: cls.__name__)
def test_times_are_microseconds_by_their_schema(cls: type[Any]) -> None:
    for field in NEWEST[cls]["fields"]:
        levels = ("raise_at", "clear_at", "escalate_at")
        if field["name"].endswith(("_at", "_from", "_to", "_start", "_end")) and field["name"] not in levels:
            assert field["type"] == {"type": "long", "logicalType": "timestamp-micros"}, field["name"]


def test_what_a_device_writes_begins_with_its_identity() -> None:
    for cls, schema in NEWEST.items():
        if "boot_epoch" in cls.__slots__:
            assert [f["name"] for f in schema["fields"][:3]] == ["device_id", "boot_epoch", "seq"]


def test_every_record_has_a_limit_below_that_of_the_broker() -> None:
    assert set(MAX_BYTES) == set(NEWEST)
    assert max(MAX_BYTES.values()) < 1024 * 1024 - 2048


def test_the_union_of_records_names_them_all() -> None:
    assert isinstance(r.Record, types.UnionType)
    assert set(typing.get_args(r.Record)) == set(NEWEST)


def test_arrays_are_views_of_the_bytes_and_cannot_be_written_to() -> None:
    block = SAMPLES["sensor_block"]()
    assert isinstance(block, r.SensorBlock)
    assert block.matrix.shape == (3, 2)
    assert block.times.dtype == np.int64
    assert not block.matrix.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        block.times[0] = 0


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SAMPLES["edge_event"]().score = 0.0  # type: ignore[misc, union-attr]


def test_a_window_that_was_kept_back_has_no_matrix() -> None:
    event = dataclasses.replace(SAMPLES["edge_event"](), values=b"")  # type: ignore[type-var]
    assert isinstance(event, r.EdgeEvent)
    with pytest.raises(ValueError, match="cannot reshape"):
        _ = event.matrix


def test_more_evidence_than_the_limit_is_refused() -> None:
    update = SAMPLES["threshold_update"]()
    with pytest.raises(ValueError, match="at most 64 event ids of evidence, got 65"):
        dataclasses.replace(update, evidence=["a:1:1"] * 65)  # type: ignore[type-var]


def test_names_of_the_ledger_are_told_apart() -> None:
    assert len(set(r.LEDGER)) == len(r.LEDGER)
