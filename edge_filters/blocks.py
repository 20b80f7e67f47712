"""What travels through the filter: blocks of readings in, windows between the parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from schemas.records import Floats, Times


class Block(NamedTuple):
    """Readings of one device, in the order in which they were sensed.

    `times`: int64[n], event time in microseconds since 1970-01-01 UTC; may repeat and jump back.
    `values`: float32[n, channels], row-major; may hold values that are not finite.
    """

    device_id: str
    times: Times
    values: Floats


class Span(NamedTuple):
    """What the deciders need to know of a block's event times, in microseconds.

    `longest` is the longest step between neighbours, seen as an unsigned number: a step back is longer than any gap.
    """

    first: int
    last: int
    longest: int

    @property
    def ordered(self) -> bool:
        """Whether no time is before the one in front of it."""
        return self.longest < 1 << 63


def span(times: Times) -> Span:
    """Span of int64[n], n >= 1."""
    steps = (times[1:] - times[:-1]).view(np.uint64)
    return Span(int(times[0]), int(times[-1]), int(steps.max()) if len(steps) else 0)


def spans(times: Sequence[Times]) -> list[Span]:
    """Spans of blocks; those of one length, as they come from a sensor at work, in one go."""
    length = len(times[0])
    if length < 2 or any(len(each) != length for each in times):
        return [span(each) for each in times]
    together = np.concatenate(times).reshape(-1, length)
    longest = (together[:, 1:] - together[:, :-1]).view(np.uint64).max(axis=1)
    return list(map(Span, together[:, 0].tolist(), together[:, -1].tolist(), longest.tolist()))


class Window(NamedTuple):
    """Consecutive finite readings of one device, for one score. Views where a block is exactly one window."""

    times: Times
    values: Floats
