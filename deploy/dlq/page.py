"""One dead letter for people: what, why, its bytes, as much of its record as can be read, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deploy.dlq.letters import Box, Letter
from deploy.dlq.partial import Partial, read_partly
from deploy.dlq.retry import hopeless
from deploy.records import plain
from deploy.text import safe, utc

_WIDTH = 16


@dataclass(frozen=True, slots=True)
class Page:
    """What `tidegate dlq show` prints. Times in microseconds."""

    letter: Letter
    prefix: str
    retried: bool
    why_not: str
    partial: Partial

    @property
    def payload(self) -> bytes:
        """What was refused; of a record that is no dead letter, the record itself."""
        return self.letter.raw if self.letter.failure is None else self.letter.failure.payload

    @property
    def next_step(self) -> str:
        """What an operator does now."""
        if self.why_not:
            return f"it cannot be sent again: {self.why_not}"
        again = " --again" if self.retried else ""
        done = "it was sent again before; " if self.retried else ""
        place = self.letter.position
        return f"{done}`tidegate dlq retry {place.partition}@{place.offset}{again}` sends it again"

    def as_json(self) -> dict[str, Any]:
        """For programs: bytes as base64."""
        failure = self.letter.failure
        return {
            "position": str(self.letter.position),
            "at": self.letter.at_us,
            "source": self.letter.source(self.prefix) or None,
            "source_partition": None if failure is None else failure.partition,
            "source_offset": None if failure is None else failure.offset,
            "key": None if failure is None or failure.key is None else failure.key.decode(errors="backslashreplace"),
            "stage": self.letter.stage or None,
            "reason": self.letter.reason,
            "problem": self.letter.problem,
            "retried": self.retried,
            "can_be_retried": not self.why_not,
            "next": self.next_step,
            "payload": plain(self.payload),
            "record": self.partial.record or None,
            "fields": {name: plain(value) for name, value in self.partial.fields.items()},
            "unread": self.partial.problem or None,
        }

    def as_text(self, hex_bytes: int) -> str:
        """For people. `hex_bytes`: of the payload. Nothing in it can steer a terminal."""
        return "\n".join(safe(line) for line in self._lines(hex_bytes))

    def _lines(self, hex_bytes: int) -> Iterator[str]:
        failure, payload = self.letter.failure, self.payload
        yield f"letter    {self.letter.position}, {utc(self.letter.at_us)}"
        if failure is not None:
            yield f"from      {self.letter.source(self.prefix)}/{failure.partition}@{failure.offset}"
            yield "key       " + ("-" if failure.key is None else failure.key[:200].decode(errors="backslashreplace"))
            yield f"stage     {failure.stage}"
        yield f"reason    {self.letter.reason}"
        yield f"problem   {self.letter.problem}"
        yield f"next      {self.next_step}"
        yield f"payload   {len(payload)} bytes"
        for start in range(0, min(hex_bytes, len(payload)), _WIDTH):
            row = payload[start : min(start + _WIDTH, hex_bytes)]
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
            yield f"  {start:06x}  {row.hex(' '):<{_WIDTH * 3}} {text}"
        if len(payload) > hex_bytes:
            yield f"  ... {len(payload) - hex_bytes} bytes more; --bytes shows them"
        if self.partial.record:
            yield f"record    {self.partial.record}"
            for name, value in self.partial.fields.items():
                yield f"  {name} = {_short(value)}"
        if self.partial.problem:
            yield f"  stops     {self.partial.problem}"


def of(letter: Letter, box: Box, prefix: str, now_us: int) -> Page:
    """Page of a letter that still has its payload. `now_us` in microseconds."""
    payload = letter.raw if letter.failure is None else letter.failure.payload
    retried = letter.position in box.retried
    return Page(letter, prefix, retried, hopeless(letter, prefix, now_us), read_partly(payload))


def _short(value: object) -> str:
    if isinstance(value, bytes):
        return f"<{len(value)} bytes> {value[:16].hex()}" + ("..." if len(value) > 16 else "")
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."
