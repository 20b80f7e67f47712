"""Which records a worker is at: a note on disk that outlives it, and what the supervisor makes of the notes.

A worker that dies takes its bundle with it, and the next one reads the same records again. Where one of them is what
kills it, that goes round for ever. So the source notes what it hands out before it does; whatever runs in its stage
runs before it notes that it is done. After a death the supervisor reads the note, has the next worker take that range
one record at a time, and when it has died twice of one record, has it put away unread.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pipelines.io.partition import Partition

#: Names the folder, for a process that somebody watches over.
FOLDER = "TIDEGATE_TRAIL"
_AT, _ORDERS = "at", "orders.json"
_ROOM = 1024


class Step(NamedTuple):
    """Records of one partition that were handed out together: `records` of them, from `begin` up to `end`."""

    topic: str
    number: int
    begin: int
    end: int
    records: int


class Trail:
    """The worker's side. Used by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError: the folder is not there. Orders that cannot be read count as none."""
        self._file = os.open(folder / _AT, os.O_RDWR | os.O_CREAT, 0o600)
        self._slow: dict[Partition, list[tuple[int, int]]] = defaultdict(list)
        self._kills: dict[Partition, set[int]] = defaultdict(set)
        try:
            orders = json.loads((folder / _ORDERS).read_bytes())
            for topic, number, begin, end in orders["slow"]:
                self._slow[Partition(topic, number)].append((begin, end))
            for topic, number, offset in orders["kills"]:
                self._kills[Partition(topic, number)].add(offset)
        except (OSError, ValueError, KeyError, TypeError):
            pass

    def at(self, step: Step) -> None:
        """These are handed out now."""
        os.pwrite(self._file, json.dumps(step).encode().ljust(_ROOM), 0)

    def done(self) -> None:
        """What was handed out last went through."""
        os.pwrite(self._file, b"-", 0)

    def most(self, partition: Partition, offset: int, records: int) -> int:
        """How many records may be taken at once from `offset` on: one inside of a range under suspicion."""
        for begin, end in self._slow.get(partition, ()):
            if begin <= offset < end:
                return 1
            if offset < begin:
                records = min(records, begin - offset)
        return records

    def kills(self, partition: Partition) -> Collection[int]:
        """Offsets that are to be put away without a look at them."""
        return self._kills.get(partition, ())


@cache
def trail() -> Trail | None:
    """The trail of this process, where somebody watches over it."""
    folder = os.environ.get(FOLDER)
    try:
        return Trail(Path(folder)) if folder else None
    except OSError:
        return None


def innocent() -> None:
    """Whatever ends this process now, it is not the record that it is at: the broker is away, for example."""
    if (here := trail()) is not None:
        here.done()


def read_step(folder: Path) -> Step | None:
    """What the worker was at when it died; None where it was at nothing."""
    try:
        topic, number, begin, end, records = json.loads((folder / _AT).read_bytes())
        return Step(str(topic), int(number), int(begin), int(end), int(records))
    except (OSError, ValueError, TypeError):
        return None


@dataclass(slots=True)
class Isolation:
    """The supervisor's side: from one death to the next, which records to be careful with. Pure.

    deaths: so many at one single record make it the culprit.
    most:   so many culprits are put away; where there are more, it is not the records.
    """

    deaths: int = 2
    most: int = 20
    slow: list[Step] = field(default_factory=list)
    kills: list[tuple[str, int, int]] = field(default_factory=list)
    _died_at: dict[tuple[str, int, int], int] = field(default_factory=dict)

    def after_death(self, step: Step | None) -> str:
        """Take in where a worker died; what will be done about it, as a sentence, empty for nothing."""
        if step is None or len(self.kills) >= self.most:
            return ""
        where = f"{step.topic}[{step.number}]"
        if step.records > 1:
            self.slow = [*self.slow[-3:], step]
            return f"it died at offsets {step.begin} to {step.end - 1} of {where}, which are taken one by one now"
        who = (step.topic, step.number, step.begin)
        self._died_at[who] = self._died_at.get(who, 0) + 1
        if self._died_at[who] < self.deaths:
            if not any(_holds(one, step) for one in self.slow):
                self.slow = [*self.slow[-3:], step]
            return f"it died at offset {step.begin} of {where}; once more, and that record is put away"
        self.kills.append(who)
        return f"offset {step.begin} of {where} killed it {self._died_at[who]} times and is put away unread"

    def write(self, folder: Path) -> None:
        """Orders for the next worker, which starts with a clean note."""
        orders = {"slow": [s[:4] for s in self.slow], "kills": self.kills}
        (folder / _ORDERS).write_text(json.dumps(orders))
        (folder / _AT).write_bytes(b"-".ljust(_ROOM))


def _holds(wide: Step, narrow: Step) -> bool:
    return wide[:2] == narrow[:2] and wide.begin <= narrow.begin < wide.end
