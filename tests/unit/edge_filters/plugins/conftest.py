"""A module to put plug-ins into, and a folder with a model and a recording."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas import features
from tests.doubles import edge_model, recording


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module `own` to put plug-ins into."""
    module = types.ModuleType("own")
    monkeypatch.setitem(sys.modules, "own", module)
    return module


@pytest.fixture(autouse=True)
def _statistics_as_before() -> Iterator[None]:
    before = dict(features.STATISTICS)
    yield
    features.STATISTICS.clear()
    features.STATISTICS.update(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    edge_model.write(tmp_path / "model")
    recording.write(tmp_path / "r.avro", range(20))
    return tmp_path
