"""The dead letter topic as values: letters, where they lie, and the notes that say which were sent again.

A note is a record without a value in the same topic and partition, keyed `retried:OFFSET`. It is written in one
transaction with the retried record, so that one is never there without the other, and it outlives its letter.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from schemas import topics
from schemas.codec import decode
from schemas.errors import ConfigError, DecodeError
from schemas.records import Failure

#: Reason of what lies in the topic and is no dead letter.
UNREADABLE = "Unreadable"
_POSITION = re.compile(r"(?:(?P<topic>[^/@]+)/)?(?P<partition>\d{1,9})@(?P<offset>\d{1,18})")
_NOTE = re.compile(rb"retried:(\d{1,18})")


class Position(NamedTuple):
    """Where a letter lies in the dead letter topic."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{topics.DEAD_LETTERS.name}/{self.partition}@{self.offset}"

    @classmethod
    def parse(cls, text: str, prefix: str = "") -> Position:
        """As `list`, `show` and `tail` print it; the topic may be left out. Raises ConfigError: not a position.

        >>> Position.parse("cloud.deadletter/0@12"), Position.parse("0@12")
        (Position(partition=0, offset=12), Position(partition=0, offset=12))
        """
        found = _POSITION.fullmatch(text)
        if found is None or found["topic"] not in (None, topics.DEAD_LETTERS.name, topics.DEAD_LETTERS.named(prefix)):
            raise ConfigError(
                "not the position of a dead letter", got=text[:100], fix=f"write it like {cls(0, 12)}, or like 0@12"
            )
        return cls(int(found["partition"]), int(found["offset"]))

    def note(self) -> bytes:
        """Key of the note that says this letter was sent again."""
        return b"retried:%d" % self.offset


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter. `failure` is None where the record is not one: then `problem` says why."""

    position: Position
    stamped_ms: int
    failure: Failure | None
    problem: str
    digest: bytes  # of source, key and payload: the same record refused again has the same
    raw: bytes = b""  # where it is no dead letter

    @property
    def at_us(self) -> int:
        """When it was refused, microseconds; of an unreadable one, when it was written."""
        return self.stamped_ms * 1000 if self.failure is None else self.failure.failed_at

    @property
    def reason(self) -> str:
        """Error family that refused it."""
        return UNREADABLE if self.failure is None else self.failure.reason

    @property
    def stage(self) -> str:
        """Step that refused it."""
        return "" if self.failure is None else self.failure.stage

    def source(self, prefix: str) -> str:
        """Topic it comes from, without the prefix."""
        return "" if self.failure is None else self.failure.source.removeprefix(prefix)

    def light(self) -> Letter:
        """Without its payload, for where only its place and reason matter."""
        return replace(self, failure=None if self.failure is None else replace(self.failure, payload=b""), raw=b"")


@dataclass(slots=True)
class Box:
    """All of the topic: letters in the order in which they lie there, and which of them were sent again."""

    letters: list[Letter] = field(default_factory=list)
    retried: set[Position] = field(default_factory=set)

    def came_back(self) -> dict[bytes, Position]:
        """By digest: a letter that was sent again. Another letter of that digest is the same record, refused anew."""
        return {letter.digest: letter.position for letter in self.letters if letter.position in self.retried}


def of_message(message: Any) -> Letter | Position:
    """A letter, or the position that a note is about. Never raises for what is in it."""
    place = Position(message.partition, message.offset)
    if message.value is None:
        note = _NOTE.fullmatch(message.key or b"")
        if note is not None:
            return Position(message.partition, int(note[1]))
        return Letter(place, message.timestamp, None, "a record without a value", b"")
    try:
        failure = decode(message.value, Failure)
    except DecodeError as wrong:
        return Letter(place, message.timestamp, None, str(wrong), b"", message.value)
    return Letter(place, message.timestamp, failure, failure.problem, digest(failure))


def digest(failure: Failure) -> bytes:
    """Of what was refused, wherever it lay: the same bytes under the same key in the same topic."""
    out = hashlib.blake2b(digest_size=16, person=b"dead letter")
    for part in (failure.source.encode(), failure.key or b"", failure.payload):
        out.update(len(part).to_bytes(8, "big") + part)
    return out.digest()


def collect(messages: Iterable[Any], keep: Callable[[Letter], bool] = lambda _: False) -> Box:
    """Read the topic into a box; payloads stay only where `keep` says so."""
    box = Box()
    for message in messages:
        found = of_message(message)
        if isinstance(found, Position):
            box.retried.add(found)
        else:
            box.letters.append(found if keep(found) else found.light())
    return box


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which letters are meant. Empty: all of them. Times in microseconds, `until_us` not included."""

    positions: frozenset[Position] = frozenset()
    reason: str = ""
    stage: str = ""
    source: str = ""
    since_us: int | None = None
    until_us: int | None = None
    prefix: str = ""

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        narrowed = self.positions or self.reason or self.stage or self.source
        return not narrowed and self.since_us is None and self.until_us is None

    def __call__(self, letter: Letter) -> bool:
        """Whether a letter is meant."""
        return (
            (not self.positions or letter.position in self.positions)
            and self.reason in ("", letter.reason)
            and self.stage in ("", letter.stage)
            and self.source.removeprefix(self.prefix) in ("", letter.source(self.prefix))
            and (self.since_us is None or letter.at_us >= self.since_us)
            and (self.until_us is None or letter.at_us < self.until_us)
        )


@dataclass(slots=True)
class Group:
    """Letters of one source, stage and reason. Times in microseconds."""

    source: str
    stage: str
    reason: str
    count: int = 0
    retried: int = 0
    first_us: int = 0
    last_us: int = 0
    newest: Position | None = None
    problem: str = ""

    def add(self, letter: Letter, was_retried: bool) -> None:
        """Count one more."""
        self.first_us = letter.at_us if not self.count else min(self.first_us, letter.at_us)
        self.last_us = max(self.last_us, letter.at_us)
        self.count += 1
        self.retried += was_retried
        self.newest, self.problem = letter.position, letter.problem


def grouped(box: Box, selection: Selection) -> list[Group]:
    """The selected letters by source, stage and reason, the most frequent first."""
    groups: dict[tuple[str, str, str], Group] = {}
    for letter in filter(selection, box.letters):
        key = letter.source(selection.prefix), letter.stage, letter.reason
        groups.setdefault(key, Group(*key)).add(letter, letter.position in box.retried)
    return sorted(groups.values(), key=lambda group: (-group.count, group.source, group.stage, group.reason))
