"""What the sensors of the fault suite sense: every reading follows from seed, device and number. Pure, plain Python.

A block is one window. Its values are multiples of 1/1024 and small, so that float32 adds them up exactly in any order
and the edge model's score, the mean of the window, is known to the last bit.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import NamedTuple

READINGS, CHANNELS = 4, 2
#: Event time between two readings of a block, microseconds.
STEP_US = 1_000
#: Levels of the model that the edges of the suite run (tests/doubles/edge_model.py).
ESCALATE_AT, RAISE_AT = 2.0, 3.0
_GRAIN = 1024


class Key(NamedTuple):
    """Which block: a device gives no two that begin at the same event time."""

    device: str
    sensed_from: int


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a device.

    `mean` is the score that the edge model must give it; `values` float32[4, 2] as little-endian bytes.
    """

    device: str
    number: int
    mean: float
    values: bytes

    @property
    def must_escalate(self) -> bool:
        """Whether it becomes an event whatever came before; quiet blocks do only where they clear an alarm."""
        return self.mean >= ESCALATE_AT

    @property
    def outcome(self) -> str:
        """What the heavy model says of it."""
        return "ANOMALY" if self.mean >= RAISE_AT else "NORMAL"


def block(seed: int, device: str, number: int) -> Block:
    """Block `number` of a device, from 0.

    >>> block(1, "p", 0) == block(1, "p", 0), block(1, "p", 0).mean == block(1, "p", 1).mean
    (True, False)
    """
    draw = random.Random(f"{seed}/{device}/{number}")  # not for secrets
    loud = draw.random() < 0.75
    mean = draw.randrange(2 * _GRAIN, 9 * _GRAIN) if loud else draw.randrange(_GRAIN // 4, 3 * _GRAIN // 4)
    spread = [draw.randrange(-_GRAIN // 8, _GRAIN // 8) for _ in range(READINGS * CHANNELS // 2)]
    rows = [mean + change for change in spread] + [mean - change for change in spread]
    draw.shuffle(rows)
    values = struct.pack(f"<{len(rows)}f", *(value / _GRAIN for value in rows))
    return Block(device, number, mean / _GRAIN, values)
