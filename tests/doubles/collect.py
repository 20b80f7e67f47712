"""What a PCollection held, after a run of the in-process runner."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

_FOUND: dict[str, list[Any]] = {}


class Collect(beam.PTransform):
    """Keeps every element in `found`, in this process. Stands where a sink stands."""

    def __init__(self) -> None:
        super().__init__()
        self._name = uuid.uuid4().hex
        self.found: list[Any] = _FOUND.setdefault(self._name, [])

    def expand(self, pcoll: beam.PCollection[Any]) -> beam.PCollection[Any]:
        """Passes everything on."""
        return pcoll | beam.ParDo(_Keep(self._name))


class _Keep(beam.DoFn):  # Beam copies it, so it knows the list by name only
    def __init__(self, name: str) -> None:
        self._name = name

    def process(self, element: Any) -> Iterator[Any]:
        _FOUND[self._name].append(element)
        yield element
