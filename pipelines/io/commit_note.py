"""The note beside a committed offset: what an earlier run had finished, in at most a few hundred characters."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from pipelines.io.chunk import Resume
from schemas.errors import DecodeError

VERSION = 1


@dataclass(frozen=True, slots=True)
class CommitNote:
    """`position`: every record lane answered everything below it. `horizons`: lane -> closed window end, us.

    `signed`: which process wrote it in which of its transactions, `name:number`; empty outside of transactions.
    """

    position: int
    horizons: dict[str, int] = field(default_factory=dict)
    signed: str = ""

    def __str__(self) -> str:
        fields: dict[str, object] = {"v": VERSION, "p": self.position, "h": self.horizons}
        if self.signed:
            fields["s"] = self.signed
        return json.dumps(fields, separators=(",", ":"), sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> CommitNote:
        """Inverse of str(). Raises DecodeError: the note was written by somebody else.

        >>> CommitNote.parse(str(CommitNote(7, {"fleet": 10_000_000}))).horizons
        {'fleet': 10000000}
        """
        try:
            raw = json.loads(text)
            if raw["v"] != VERSION:
                raise DecodeError("a commit note of an unknown version", version=raw["v"])
            signed = str(raw.get("s", ""))
            return cls(int(raw["p"]), {str(lane): int(at) for lane, at in raw["h"].items()}, signed)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as cause:
            raise DecodeError("not a commit note of this project", got=text[:100]) from cause

    def resume(self, offset: int) -> Resume:
        """What a run that starts at the committed `offset` has to know."""
        return Resume(max(offset, self.position), tuple(sorted(self.horizons.items())))
