"""`--from` and `--to`: a moment in a recording or a topic, and what of a recording lies between two of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np

from deploy.text import utc
from schemas.container import ContainerWriter, read
from schemas.errors import ConfigError, DecodeError
from schemas.records import SensorBlock
from schemas.units import duration_us

_DATE = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True, slots=True)
class Moment:
    """A time: microseconds since 1970, or since (before: negative) something that is known only later."""

    us: int
    relative: bool

    def after(self, zero_us: int) -> int:
        """Microseconds since 1970, where an offset counts from `zero_us`."""
        return self.us + zero_us if self.relative else self.us


#: Of what is known only later, the thing itself: where a topic ends when it is asked.
NOW = Moment(0, relative=True)


def moment(text: str) -> Moment:
    """A moment as people write it: `2026-05-01`, `2026-05-01T12:00:00Z`, `10min`, `-5min`. Without a zone it is UTC.

    Raises ConfigError: neither a time nor a duration.

    >>> moment("1.5s"), moment("-2ms"), moment("1970-01-01T00:00:01Z")
    (Moment(us=1500000, relative=True), Moment(us=-2000, relative=True), Moment(us=1000000, relative=False))
    """
    if _DATE.match(text):
        try:
            at = datetime.fromisoformat(text)
        except ValueError as wrong:
            raise ConfigError(
                f"not a time: {text[:60]!r}", fix=f"write it like 2026-05-01T12:00:00Z ({wrong})"
            ) from None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        whole = at - datetime(1970, 1, 1, tzinfo=UTC)
        return Moment((whole.days * 86_400 + whole.seconds) * 1_000_000 + whole.microseconds, relative=False)
    sign = -1 if text.startswith("-") else 1
    try:
        return Moment(sign * duration_us(text.removeprefix("-")), relative=True)
    except ConfigError as wrong:
        neither = f"neither a time nor a duration: {text[:60]!r}"
        raise ConfigError(
            wrong.problem if wrong.problem.startswith("missing unit") else neither,
            fix="write it like 10min, or like 2026-05-01T12:00:00Z",
        ) from wrong


@dataclass(frozen=True, slots=True)
class Span:
    """Event times from `start` (included) to `end` (not included); None leaves a side open."""

    start: Moment | None = None
    end: Moment | None = None

    @property
    def is_all(self) -> bool:
        """Whether nothing is cut off."""
        return self.start is None and self.end is None

    def bounds(self, zero_us: int) -> tuple[int, int]:
        """As microseconds since 1970. Raises ConfigError: the end is not behind the start."""
        low = -(2**63) if self.start is None else self.start.after(zero_us)
        high = 2**63 - 1 if self.end is None else self.end.after(zero_us)
        if high <= low:
            raise ConfigError(
                "--to is not later than --from", fix="both count from the start of the recording, or are times"
            )
        return low, high


def first_time(path: Path) -> int:
    """Event time of the first reading of a recording, microseconds. Raises DecodeError, ConfigError."""
    for block in blocks(path):
        if block.event_times:
            return int(block.times[0])
    raise DecodeError("the recording holds no reading", recording=str(path))


def cut(path: Path, span: Span, out: Path, zero_us: int) -> int:
    """Write the readings of a recording that lie in a span to another one; returns how many there are.

    Args:
        zero_us: what offsets count from, microseconds since 1970.

    Raises: ConfigError: nothing lies there, or a file cannot be opened. DecodeError: damage before the span's end.
    """
    low, high = span.bounds(zero_us)
    kept = 0
    first: int | None = None
    last = zero_us
    with out.open("wb") as file:
        writer = ContainerWriter(file, SensorBlock)
        for block in blocks(path):
            times = block.times
            if not len(times):
                continue
            first, last = times[0] if first is None else first, times[-1]
            rows = (times >= low) & (times < high)
            if not rows.any():
                continue
            kept += int(rows.sum())
            writer.write(block if rows.all() else _rows(block, rows))
        writer.close()
    if not kept:
        raise ConfigError(
            "nothing of the recording lies between --from and --to",
            recording=str(path),
            begins=utc(int(first or zero_us)),
            ends=utc(int(last)),
        )
    return kept


def _rows(block: SensorBlock, rows: Any) -> SensorBlock:
    from dataclasses import replace

    labels = block.labels
    return replace(
        block,
        event_times=block.times[rows].tobytes(),
        values=block.matrix[rows].tobytes(),
        labels=None if labels is None else np.frombuffer(labels, np.uint8)[rows].tobytes(),
    )


def blocks(path: Path) -> Iterator[SensorBlock]:
    """Blocks of a recording, one after the other. Raises ConfigError, DecodeError with the file's name."""
    try:
        with path.open("rb") as file:
            for record in read(file, SensorBlock):
                yield cast(SensorBlock, record)
    except OSError as cause:
        raise ConfigError("the recording cannot be read", recording=str(path), cause=cause.strerror) from None
    except DecodeError as wrong:
        raise DecodeError(wrong.problem, fix=wrong.fix, **({"recording": str(path)} | wrong.where)) from wrong


#: Nothing is cut off.
ALL = Span()
