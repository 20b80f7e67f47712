"""Words from devices and files on their way to people: terminals, logs, tables, JSON. None of them steers anything."""

from __future__ import annotations

import json
import logging
import unicodedata
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import output, records
from schemas.errors import ConfigError, DecodeError
from schemas.logs import formatter
from schemas.printing import as_json, harmless
from tests.doubles.edge_parts import T0, engine, model_update, thresholds
from tests.golden.samples import SAMPLES

EVIL = "pump\r\n2026-01-01 INFO all is well\x1b[2J\x1b]0;mine\x07\x9b31m\u202egnp.exe<script>alert(1)</script>=cmd()"


def steers(text: str) -> list[str]:
    """Characters that a terminal might obey; a line feed is none as long as an indented line follows."""
    odd = [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    return odd + [c for c in text if c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f"]


def forged(text: str) -> list[str]:
    """Lines beyond the first that look like an entry of their own."""
    return [line for line in text.split("\n")[1:] if line and not line.startswith(" ")]


@given(st.text() | st.text(alphabet="\x1b\r\n\x9b\u202eab "))
def test_what_is_harmless_steers_nothing_and_forges_no_line(text: str) -> None:
    told = harmless(text)
    assert (steers(told), forged(told)) == ([], [])
    assert harmless(told) == told


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_for_people_is_the_same_json(value: Any) -> None:
    for indent in (None, 2):
        told = as_json(value, indent)
        assert json.loads(told) == value
        assert steers(told) == []


@pytest.mark.parametrize("kind", ["text", "json"])
def test_a_line_of_the_log_stays_one_entry(kind: str) -> None:
    shaped = formatter(kind, "edge-1", "%(asctime)s %(levelname)s %(message)s")
    line = shaped.format(logging.LogRecord("edge", logging.INFO, "", 0, "%s: refused", (EVIL,), None))
    assert (steers(line), forged(line)) == ([], [])


def test_an_error_is_a_harmless_sentence_whatever_it_is_about() -> None:
    for error in (DecodeError(EVIL, device_id=EVIL, fix=EVIL), ConfigError(f"edge.toml: 1 problem:\n  {EVIL}")):
        assert (steers(str(error)), forged(str(error))) == ([], [])


def test_tables_notes_and_json_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table([{"device": EVIL, "n": 1}], {"device": "device", "n": "n"})
    output.note(EVIL)
    output.print_json({EVIL: [EVIL]})
    out, err = capsys.readouterr()
    assert (steers(out), steers(err), forged(err)) == ([], [], [])


def evil(record: Any) -> Any:
    """The record with the words in every field that is free to hold any; where the record refuses them, without."""
    for field in fields(record):
        value = getattr(record, field.name)
        for worse in (EVIL,) if type(value) is str else ([EVIL] * len(value),) if _is_words(value) else ():
            try:
                record = replace(record, **{field.name: worse})
            except ValueError:  # an identity has an alphabet
                assert field.name == "device_id"
    return record


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_record_as_tail_shows_it(name: str) -> None:
    record = evil(SAMPLES[name]())
    for stamped_ms in (1_700_000_000_000, -(2**63), 2**63 - 1):
        line = records.Line(EVIL, 0, 1, stamped_ms, EVIL.encode(), b"", record, None)
        broken = replace(line, record=None, problem=EVIL)
        for shown in (line.as_text(), broken.as_text(), as_json(line.as_json()), as_json(broken.as_json())):
            assert steers(shown) == []
            assert "\n" not in shown


def test_what_an_edge_says_of_feedback() -> None:
    made = engine()
    said = made.apply_thresholds(thresholds(reason=EVIL), T0)
    said += made.apply_thresholds(thresholds(version=2, model_name=EVIL), T0)
    said += made.offer_model(model_update(update={"manifest": EVIL.encode()})[0], T0)
    shaped = formatter("text", "edge-1", "%(levelname)s %(message)s")
    assert said
    for sentence in said:
        line = shaped.format(logging.LogRecord("edge", logging.INFO, "", 0, sentence, (), None))
        assert (steers(line), forged(line)) == ([], [])
