"""What travels through the filter: blocks of readings in, windows between the parts."""

from __future__ import annotations

from typing import NamedTuple

from schemas.records import Floats, Times


class Block(NamedTuple):
    """Readings of one device, in the order in which they were sensed.

    `times`: int64[n], event time in microseconds since 1970-01-01 UTC; may repeat and jump back.
    `values`: float32[n, channels], row-major; may hold values that are not finite.
    """

    device_id: str
    times: Times
    values: Floats


class Window(NamedTuple):
    """Consecutive finite readings of one device, for one score. Views where a block is exactly one window."""

    times: Times
    values: Floats
