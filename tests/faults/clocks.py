"""Faults of time: a device whose clock jumps by hours, or starts in 1970. Never the machine's own clock."""

from __future__ import annotations

import time

from tests.faults.scenario import Bench, Scenario
from tests.faults.world import World

_HOUR_US = 3_600_000_000


def _jump(bench: Bench, world: World, turn: int) -> None:
    """The clock of one device jumps and comes back; the others must not notice."""
    bench.pause(0.5, 1.5)
    to_1970 = -time.time_ns() // 1000 + 100 * _HOUR_US
    shift_us = [2 * _HOUR_US, -_HOUR_US, to_1970, 24 * _HOUR_US][(bench.seed + turn) % 4]
    world.tell_oracle(device=world.devices[0], shift_us=shift_us)
    bench.pause(1.0, 3.0)
    world.tell_oracle(device=world.devices[0], shift_us=0)


SCENARIOS = (
    Scenario("clock-jump", "T1 T2 T3", "one device's clock jumps by hours, or to 1970, for 1 to 3 s", _jump, quick=4),
)
