from __future__ import annotations

import copy
import pickle

import pytest

from schemas import errors as e

FAMILIES = [cls for cls in vars(e).values() if isinstance(cls, type) and issubclass(cls, e.TidegateError)]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda cls: cls.__name__)
def test_an_error_survives_pickling_with_all_it_knows(family: type[e.TidegateError]) -> None:
    error = family("the pump is off", fix="switch it on", device="pump-7", tries=3)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is family
        assert str(again) == str(error) == "the pump is off (device='pump-7', tries=3); switch it on"
        assert (again.problem, again.fix, again.where) == (error.problem, error.fix, error.where)


def test_a_place_may_be_called_problem_or_self() -> None:
    error = e.DecodeError("two of them", problem="a", self=1)
    assert pickle.loads(pickle.dumps(error)).where == {"problem": "a", "self": 1}


def test_a_sentence_without_place_and_fix_stands_alone() -> None:
    assert str(e.PipelineError("it stopped")) == "it stopped"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda cls: cls.__name__)
def test_every_family_has_a_documented_exit_code_of_its_own(family: type[e.TidegateError]) -> None:
    assert family in e.EXIT_CODES
    assert family.__doc__
    assert e.exit_code(family("x")) == e.EXIT_CODES[family]
    assert e.EXIT_CODES[family] not in (0, 2, 130, 143)


def test_a_family_made_elsewhere_takes_the_code_of_the_one_above_it() -> None:
    class Narrower(e.ConfigError):
        """For this test."""

    assert e.exit_code(Narrower("x")) == 78


def test_only_what_can_come_back_is_worth_another_try() -> None:
    assert [cls.__name__ for cls in FAMILIES if cls.retriable] == ["UnavailableError"]
