"""Models for a replay of recorded decisions: each event goes to the version that decided it when it was recorded.

Which heavy model a live pipeline had when an event came depends on the moment an update reached it, and no event tells
that; its decision does. So after a swap in the middle of a recording the replay still decides as it was decided.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pipelines import decide
from pipelines.io.models import read_heavy
from schemas.container import read
from schemas.errors import DecodeError, ModelError
from schemas.ids import Identity
from schemas.records import Decision, EdgeEvent, ThresholdUpdate
from schemas.scoring import Scorer


@dataclass(frozen=True, slots=True)
class RecordedModels:
    """Where they are: package folders, several versions of a model among them, and the file with the decisions."""

    folders: tuple[str, ...]
    decisions: str


class RecordedShelf:
    """Implements models.Shelf: by itself it has the newest version of each model; `split` gives shelves by event.

    Raises ModelError: a folder is no package, or its heavy model does not work here.
    """

    def __init__(self, source: RecordedModels) -> None:
        scorers = [read_heavy(folder) for folder in source.folders]
        self._by_sha = {scorer.package.sha256: scorer for scorer in scorers}
        self._newest: dict[str, Scorer] = {}
        shas: dict[tuple[str, int], bytes] = {}
        for scorer in scorers:
            name, version = scorer.manifest.name, scorer.manifest.version
            if shas.setdefault((name, version), scorer.package.sha256) != scorer.package.sha256:
                raise ModelError("two packages have the same model name and version", name=name, version=version)
            if name not in self._newest or self._newest[name].manifest.version < version:
                self._newest[name] = scorer
        self._pins = _pins(Path(source.decisions))

    def heavy(self, model_name: str) -> Scorer | None:
        """Newest version of that name."""
        return self._newest.get(model_name)

    def thresholds(self, target: str) -> ThresholdUpdate | None:
        """See FolderShelf."""
        return None

    def split(self, events: Sequence[EdgeEvent]) -> list[tuple[list[int], _OneVersion]]:
        """Places of events with the shelf that they were decided from. Each place is in one of them."""
        groups: dict[bytes | None, list[int]] = defaultdict(list)
        for at, event in enumerate(events):
            newest = self._newest.get(event.model_name)
            sha256 = newest.package.sha256 if newest is not None else None
            groups[self._pins.get(event.identity, sha256)].append(at)
        return [(places, _OneVersion(self, sha256, self._by_sha)) for sha256, places in groups.items()]


class _OneVersion:
    """Implements models.Shelf for events that one package decided; None: that no package decided."""

    def __init__(self, shelf: RecordedShelf, sha256: bytes | None, by_sha: dict[bytes, Scorer]) -> None:
        self._shelf, self._sha256, self._by_sha = shelf, sha256, by_sha

    def heavy(self, model_name: str) -> Scorer | None:
        """That package; where it was not given, the newest of the name: the comparison shows that it is another."""
        return None if self._sha256 is None else self._by_sha.get(self._sha256) or self._shelf.heavy(model_name)

    def thresholds(self, target: str) -> ThresholdUpdate | None:
        """See FolderShelf."""
        return None


@functools.lru_cache(maxsize=2)
def recorded_shelf(source: RecordedModels) -> RecordedShelf:
    """The shelf for a source; made once per process."""
    return RecordedShelf(source)


def _pins(path: Path) -> dict[Identity, bytes | None]:
    """Package that decided each event; None where there was none of its name. Of damage, what is before it."""
    found: dict[Identity, bytes | None] = {}
    shas: dict[bytes, bytes] = {}  # the same hash once in memory
    try:
        with path.open("rb") as file:
            for record in read(file, Decision):
                decision = cast(Decision, record)
                sha256 = decision.heavy_sha256
                if sha256 is not None:
                    found.setdefault(decision.identity, shas.setdefault(sha256, sha256))
                elif decision.reason == decide.NO_MODEL:
                    found.setdefault(decision.identity, None)
    except DecodeError:
        pass
    return found
