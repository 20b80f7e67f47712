"""Dead letters as values: positions, groups, what may go back, and how much of a damaged record can be read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.dlq import page
from deploy.dlq.letters import Letter, Position, Selection, collect, grouped, of_message
from deploy.dlq.partial import read_partly
from deploy.dlq.retry import hopeless, judge
from schemas.codec import encode
from schemas.errors import ConfigError
from schemas.records import Failure
from tests.doubles import records as make

NOW_US = 1_790_000_000_000_000
GOOD = encode(make.event())


def failure(**changes: Any) -> Failure:
    fields: dict[str, Any] = {
        "source": "p.edge.events",
        "partition": 1,
        "offset": 7,
        "key": b"pump-1",
        "payload": GOOD,
        "stage": "split",
        "reason": "DecodeError",
        "problem": "unknown schema fingerprint",
        "failed_at": NOW_US,
    }
    return Failure(**fields | changes)


def message(value: bytes | None, offset: int = 0, key: bytes | None = b"k") -> SimpleNamespace:
    return SimpleNamespace(partition=0, offset=offset, timestamp=NOW_US // 1000, key=key, value=value)


def letter(offset: int = 0, **changes: Any) -> Letter:
    made = of_message(message(encode(failure(**changes)), offset))
    assert isinstance(made, Letter)
    return made


@pytest.mark.parametrize("text", ["cloud.deadletter/0@12", "p.cloud.deadletter/0@12", "0@12"])
def test_a_position_reads_as_it_is_printed(text: str) -> None:
    assert Position.parse(text, "p.") == Position(0, 12)
    assert Position.parse(str(Position(0, 12)), "p.") == Position(0, 12)


@pytest.mark.parametrize("text", ["", "12", "edge.events/0@12", "0@-1", "0@1e3", "0@" + "9" * 30, "a\n0@1"])
def test_anything_else_is_no_position(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write it like cloud\.deadletter/0@12"):
        Position.parse(text)


def test_groups_count_what_was_selected_and_what_was_sent_again() -> None:
    box = collect(
        [
            message(encode(failure(failed_at=NOW_US + 5)), 0),
            message(encode(failure(failed_at=NOW_US)), 1),
            message(encode(failure(reason="LateData", source="p.edge.aggregates")), 2),
            message(b"junk", 3),
            message(None, 4, b"retried:1"),
        ]
    )
    first, *others = grouped(box, Selection(prefix="p."))
    assert (first.source, first.count, first.retried) == ("edge.events", 2, 1)
    assert (first.first_us, first.last_us, first.newest) == (NOW_US, NOW_US + 5, Position(0, 1))
    assert {(g.source, g.reason) for g in others} == {("edge.aggregates", "LateData"), ("", "Unreadable")}
    only = grouped(box, Selection(prefix="p.", source="edge.events", since_us=NOW_US + 1))
    assert [group.count for group in only] == [1]
    assert all(found.failure is None or not found.failure.payload for found in box.letters)


def test_a_tombstone_that_is_no_note_retries_nothing() -> None:
    box = collect([message(None, 0, b"retried:"), message(None, 1, None), message(None, 2, b"retried:0x1")])
    assert not box.retried
    assert len(box.letters) == 3


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"reason": "LostRecords", "payload": b""}, "no payload to send"),
        ({"reason": "LateData"}, "closed for good"),
        ({"reason": "IdentityTaken"}, "would have two decisions"),
        ({"source": "p.cloud.decisions"}, "does not read"),
        ({"source": "edge.events"}, "does not read"),
        ({"problem": "too big (payload cut from 2000000 bytes)"}, "holds only its start"),
        ({"key": b"k" * 1024}, "holds only its start"),
        ({"payload": b""}, "it would be refused again"),
        ({"payload": GOOD[:-1]}, "it would be refused again"),
        ({"payload": encode(make.aggregate())}, "it would be refused again"),
        ({"payload": encode(make.event(cohort="c" * 129))}, "longer than 128 characters"),
        (
            {
                "source": "p.edge.aggregates",
                "payload": encode(make.aggregate(start_us=NOW_US + 3 * 3_600_000_000)),
            },
            "taken in 2.0 hours",
        ),
    ],
)
def test_what_cannot_succeed_is_refused_with_the_reason(changes: dict[str, Any], why: str) -> None:
    assert why in hopeless(letter(**changes), "p.", NOW_US)


def test_what_decodes_now_goes_back_once() -> None:
    box = collect([message(encode(failure()), 0), message(encode(failure(offset=9)), 1)], lambda _: True)
    first, twin = judge(box.letters, box, "p.", NOW_US)
    assert first.sends
    assert "the same record as cloud.deadletter/0@0" in twin.why
    box.retried.add(Position(0, 0))
    sent, back = judge(box.letters, box, "p.", NOW_US)
    assert (sent.skipped, back.skipped) == (True, True)
    assert "came back" in back.why
    assert judge(box.letters[:1], box, "p.", NOW_US, again=True)[0].sends


def test_what_killed_workers_goes_back_only_when_asked_for() -> None:
    box = collect([message(encode(failure(reason="KillsWorkers")), 0)], lambda _: True)
    (held,) = judge(box.letters, box, "p.", NOW_US)
    assert (held.skipped, "workers died of it" in held.why) == (True, True)
    assert judge(box.letters, box, "p.", NOW_US, again=True)[0].sends
    (diverged,) = judge(
        collect([message(encode(failure(reason="Diverged")), 0)], lambda _: True).letters, box, "p.", NOW_US
    )
    assert diverged.sends


def test_a_damaged_record_is_read_up_to_the_damage() -> None:
    partial = read_partly(GOOD[:-5])
    assert partial.record == "EdgeEvent v1"
    assert (partial.fields["device_id"], partial.fields["channels"]) == ("pump-1", 2)
    assert partial.problem.startswith("field values at byte")
    whole = read_partly(GOOD)
    assert whole.problem == ""
    assert whole.fields["values"] == make.event().values
    assert "left over" in read_partly(GOOD + b"x").problem


@given(st.binary(max_size=200), st.integers(0, len(GOOD)))
def test_any_bytes_make_a_page_that_cannot_steer_a_terminal(junk: bytes, at: int) -> None:
    for payload in (junk, GOOD[:at] + junk):
        one = letter(payload=payload, problem=junk.decode("latin-1"), stage="\x1b[2J")
        shown = page.of(one, collect([]), "p.", NOW_US)
        assert all(line.isprintable() for line in shown.as_text(64).split("\n"))
        shown.as_json()
