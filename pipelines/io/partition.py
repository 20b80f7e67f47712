"""A topic-partition."""

from __future__ import annotations

from typing import NamedTuple


class Partition(NamedTuple):
    """A topic-partition; sorts by topic and number."""

    topic: str
    number: int
