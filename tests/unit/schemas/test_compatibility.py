"""Every version of every schema reads every other one, and what older programs wrote is read for good."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import fastavro
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse

from schemas import codec
from schemas.codec import BOOK, SchemaBook, WriterSchema, decode, encode
from schemas.errors import DecodeError
from schemas.records import Decision, Outcome
from tests.golden.samples import SAMPLES

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


def versions(book: SchemaBook) -> dict[type[Any], list[WriterSchema]]:
    found: dict[type[Any], list[WriterSchema]] = {}
    for entry in book.all():
        found.setdefault(entry.record, []).append(entry)
    return found


def incompatible_pairs(book: SchemaBook) -> list[str]:
    """Of all pairs of versions of a record, both ways round: which reader cannot read which writer, and why."""
    problems = []
    for record, entries in versions(book).items():
        for reader, writer in permutations(entries, 2):
            result = ReaderWriterCompatibilityChecker().get_compatibility(
                parse(json.dumps(reader.source)), parse(json.dumps(writer.source))
            )
            if result.compatibility is not SchemaCompatibilityType.compatible:
                why = ", ".join(sorted(str(message) for message in result.messages))
                problems.append(f"{record.__name__} v{reader.version} reads v{writer.version}: {why}")
    return problems


def with_second(name: str, change: Callable[[dict[str, Any]], None]) -> SchemaBook:
    """The released book, and a changed second version of one record."""
    released = {f"{_file(e)}": e for e in BOOK.all() if e.version == 1}
    source = copy.deepcopy(released[name].source)
    change(source)
    return SchemaBook([*((e.record, e.version, e.source) for e in BOOK.all()), (released[name].record, 2, source)])


def _file(entry: WriterSchema) -> str:
    return codec._FILES[entry.record]


def test_every_version_reads_every_other_one() -> None:
    assert incompatible_pairs(BOOK) == []


def add_field(**field: Any) -> Callable[[dict[str, Any]], None]:
    return lambda source: source["fields"].append({"name": "note", "doc": "", **field})


def drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda source: source.update(fields=[f for f in source["fields"] if f["name"] != name])


def retype(name: str, new: Any) -> Callable[[dict[str, Any]], None]:
    def change(source: dict[str, Any]) -> None:
        next(f for f in source["fields"] if f["name"] == name)["type"] = new

    return change


def add_symbol(enum: str) -> Callable[[dict[str, Any]], None]:
    return lambda source: _enum(source, enum)["symbols"].append("BROKEN")


def _enum(schema: dict[str, Any], name: str) -> dict[str, Any]:
    types: list[Any] = [field["type"] for field in schema["fields"]]
    found: dict[str, Any] = next(t for t in types if isinstance(t, dict) and t.get("name") == name)
    return found


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("edge_event", add_field(type="string"), "note"),
        ("edge_event", drop("score"), "score"),
        ("edge_event", retype("score", "string"), "reader type: double not compatible with writer type: string"),
        ("edge_event", retype("seq", "double"), "double"),
        (
            "artifact_chunk",
            retype("sha256", {"type": "fixed", "name": "Sha256", "size": 20}),
            "expected: 20, found: 32",
        ),
        ("threshold_update", add_symbol("TargetKind"), "BROKEN"),
    ],
    ids=["a field without a default", "a field less", "another type", "a wider number", "another size", "a symbol"],
)
def test_an_incompatible_change_is_caught(name: str, change: Callable[[dict[str, Any]], None], why: str) -> None:
    problems = incompatible_pairs(with_second(name, change))
    assert problems
    assert why in " ".join(problems)


@pytest.mark.parametrize(
    "change",
    [add_field(type=["null", "string"], default=None), add_symbol("Outcome"), retype("policy_version", "int")],
    ids=["a field with a default", "a new symbol of an enum with a default", "no change at all"],
)
def test_a_compatible_change_is_let_through(change: Callable[[dict[str, Any]], None]) -> None:
    assert incompatible_pairs(with_second("edge_event", change)) == []


def test_compatibility_is_asked_of_every_pair_and_not_of_neighbours_alone() -> None:
    """v1 -> v2 -> v3 with v3 refusing only v1: checking neighbours would let it through."""
    source = next(e for e in BOOK.all() if _file(e) == "model_update").source
    second, third = copy.deepcopy(source), copy.deepcopy(source)
    second["fields"].append({"name": "note", "type": "string", "default": ""})
    third["fields"].append({"name": "note", "type": "string"})
    record = next(e.record for e in BOOK.all() if _file(e) == "model_update")
    problems = incompatible_pairs(SchemaBook([(record, 1, source), (record, 2, second), (record, 3, third)]))
    assert [problem.split(":")[0] for problem in problems] == ["ModelUpdate v3 reads v1"]


@dataclasses.dataclass(frozen=True)
class ShorterDecision:
    """A later version of a record: fewer fields, one more."""

    device_id: str
    outcome: Outcome
    heavy_score: float | None
    note: str


def test_bytes_of_an_older_version_become_a_record_of_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    old = next(e for e in BOOK.all() if e.record is Decision)
    newer = copy.deepcopy(old.source)
    keep = [f for f in newer["fields"] if f["name"] in {"device_id", "heavy_score"}]
    outcome = _enum(newer, "Outcome")
    newer["fields"] = [
        *keep,
        {"name": "outcome", "type": outcome, "default": "UNKNOWN"},
        {"name": "note", "type": "string", "default": "none"},
    ]
    book = SchemaBook([(ShorterDecision, 1, old.source), (ShorterDecision, 2, newer)])
    monkeypatch.setitem(codec.MAX_BYTES, ShorterDecision, 8_192)
    monkeypatch.setitem(codec._ENUMS, ShorterDecision, {"outcome": Outcome})
    record = decode(encode(SAMPLES["decision"]()), ShorterDecision, book)
    assert record == ShorterDecision("plant1/line2/pump-7", Outcome.NORMAL, 0.5, "none")


def test_a_newer_version_than_the_program_knows_is_a_decode_error_with_what_to_do() -> None:
    book = with_second("decision", add_field(type="string", default=""))
    newest = book.newest(Decision)
    out = io.BytesIO()
    out.write(newest.header)
    sample = SAMPLES["decision"]()
    fields = {name: getattr(sample, name) for name in Decision.__slots__}
    fastavro.schemaless_writer(out, newest.parsed, fields | {"note": "new"})
    with pytest.raises(DecodeError, match=r"unknown schema fingerprint .*add its \.avsc to schemas/avro"):
        decode(out.getvalue(), Decision)


def test_every_released_version_has_its_golden_bytes() -> None:
    want = {f"{_file(entry)}.v{entry.version}.bin" for entry in BOOK.all()}
    assert {path.name for path in GOLDEN.glob("*.bin")} == want


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.bin")), ids=lambda path: path.stem)
def test_golden_bytes_are_read_as_what_they_were_written_from(path: Path) -> None:
    expected = SAMPLES[path.name.split(".")[0]]()
    assert decode(path.read_bytes(), type(expected)) == expected


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.bin")), ids=lambda path: path.stem)
def test_the_newest_version_is_still_written_as_the_golden_bytes(path: Path) -> None:
    name, version = path.name.split(".")[:2]
    record = SAMPLES[name]()
    if version == f"v{BOOK.newest(type(record)).version}":
        assert encode(record) == path.read_bytes()


@pytest.mark.parametrize("entry", BOOK.all(), ids=lambda e: f"{e.record.__name__} v{e.version}")
def test_an_independent_library_reads_the_golden_bytes_with_our_schema(entry: WriterSchema) -> None:
    """Apache's own implementation, to which a fingerprint or framing of ours means nothing."""
    from avro.io import BinaryDecoder, DatumReader

    data = (GOLDEN / f"{_file(entry)}.v{entry.version}.bin").read_bytes()
    stream = io.BytesIO(data[10:])
    datum = DatumReader(parse(json.dumps(_plain(entry.source)))).read(BinaryDecoder(stream))
    assert stream.read() == b""
    sample = SAMPLES[_file(entry)]()
    for name, value in datum.items():
        if not isinstance(value, list) or not value or not isinstance(value[0], dict):
            assert getattr(sample, name) == value


def _plain(schema: Any) -> Any:
    """Without logical types, which that library turns into datetimes."""
    return codec._without_logical_types(schema)
