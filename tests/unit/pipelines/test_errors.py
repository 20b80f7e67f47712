from __future__ import annotations

import importlib
import pickle
import pkgutil

import pytest

import pipelines
from schemas.errors import EXIT_CODES, TidegateError, exit_code


def families() -> list[type[TidegateError]]:
    """Every error of ours that the cloud half knows, its own included."""
    for module in pkgutil.walk_packages(pipelines.__path__, "pipelines."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: list[type[TidegateError]] = [TidegateError]
    for family in found:
        found += [child for child in family.__subclasses__() if child not in found]
    return found


@pytest.mark.parametrize("family", families(), ids=lambda f: f.__name__)
def test_errors_survive_the_way_between_processes_with_all_they_say(family: type[TidegateError]) -> None:
    error = family("it broke", fix="mend it", topic="edge.events", offset=7, raw=b"\x00", nothing=None)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is family
    assert (again.problem, again.fix, again.where) == (error.problem, error.fix, error.where)
    assert str(again) == "it broke (topic='edge.events', offset=7, raw=b'\\x00', nothing=None); mend it"
    assert (again.retriable, exit_code(again)) == (family.retriable, exit_code(error))
    assert exit_code(error) in EXIT_CODES.values()


def test_late_data_is_among_them() -> None:
    assert "LateData" in {f.__name__ for f in families()}
