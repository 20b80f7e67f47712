"""The oracle's readings are exact and repeat; its account is there before anybody hears of it."""

from __future__ import annotations

import base64
import struct
from pathlib import Path

import pytest

from tests.faults.checker import Account
from tests.faults.oracle import Account as File
from tests.faults.oracle import Oracle
from tests.faults.source import ESCALATE_AT, Key, block

NOW_US = 1_700_000_000_000_000


@pytest.mark.parametrize("number", range(50))
def test_the_mean_of_a_block_is_what_float32_adds_up_to_in_any_order(number: int) -> None:
    made = block(7, "p", number)
    values = struct.unpack("<8f", made.values)
    assert sum(values) / 8 == sum(reversed(values)) / 8 == made.mean
    assert min(values) > 0


def test_blocks_follow_from_seed_device_and_number_and_some_of_them_are_quiet() -> None:
    made = [block(7, "p", number) for number in range(200)]
    assert made == [block(7, "p", number) for number in range(200)]
    assert len({one.values for one in made} | {block(8, "p", n).values for n in range(200)}) == 400
    assert 20 < sum(not one.must_escalate for one in made) < 100
    assert all(one.mean >= ESCALATE_AT or one.mean < 1.0 for one in made)


def test_what_is_asked_for_again_after_a_death_is_another_block(tmp_path: Path) -> None:
    file = File(tmp_path / "account")
    oracle = Oracle(7, file)
    assert oracle.answer({"device": "p", "acked": -1}, NOW_US)["number"] == 0
    assert oracle.answer({"device": "p", "acked": 0}, NOW_US)["number"] == 1
    told = oracle.answer({"device": "p", "acked": -1}, NOW_US)  # a new life: nobody knows what became of number 1
    assert told["number"] == 2
    assert base64.b64decode(told["values"]) == block(7, "p", 2).values
    oracle.answer({"close": True}, NOW_US)
    assert oracle.answer({"device": "p", "acked": 2}, NOW_US) == {"end": True}
    file.sync()
    account = Account.of((tmp_path / "account").read_text().splitlines(), 7)
    assert account.acked == {("p", 0), ("p", 2)}
    assert len(account.given) == 3
    assert account.given[Key("p", told["first"])].number == 2


def test_no_two_blocks_of_a_device_begin_at_the_same_time_whatever_the_clock_does(tmp_path: Path) -> None:
    oracle = Oracle(7, File(tmp_path / "account"))
    firsts = [oracle.answer({"device": "p", "acked": -1}, NOW_US)["first"] for _ in range(20)]
    assert len(set(firsts)) == 20
    assert oracle.answer({"device": "q", "acked": -1}, NOW_US)["first"] == firsts[0]


def test_a_clock_that_jumps_moves_the_event_times_of_its_device_only(tmp_path: Path) -> None:
    oracle = Oracle(7, File(tmp_path / "account"))
    oracle.answer({"device": "p", "shift_us": 3_600_000_000}, NOW_US)
    late = oracle.answer({"device": "p", "acked": -1}, NOW_US)["first"]
    right = oracle.answer({"device": "q", "acked": -1}, NOW_US)["first"]
    assert late - right == 3_600_000_000
