"""Identity of a record. Everything that dedupes, explains or replays stands on these three numbers."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from schemas.errors import DecodeError

#: An ISA-95 path such as `plant1/line2/pump-7`. No colon: it separates the parts of an event id.
DEVICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


class Identity(NamedTuple):
    """Who sent a record, in which life of the process, and which record of that life it is.

    `boot_epoch` counts the starts of a device and is kept on its disk; `seq` counts its windows from 0 in each life.
    Tuples compare in the order in which a device emits, so "already seen" is one comparison.
    """

    device_id: str
    boot_epoch: int
    seq: int

    @property
    def event_id(self) -> str:
        """The same input gives the same id on every run.

        >>> Identity("pump-7", 3, 1042).event_id
        'pump-7:3:1042'
        """
        return f"{self.device_id}:{self.boot_epoch}:{self.seq}"

    @classmethod
    def parse(cls, event_id: str) -> Identity:
        """Inverse of `event_id`. Raises DecodeError: not an event id."""
        device_id, _, rest = event_id.partition(":")
        boot_epoch, _, seq = rest.partition(":")
        if not (DEVICE_ID.fullmatch(device_id) and boot_epoch.isdecimal() and seq.isdecimal()):
            raise DecodeError("not an event id", got=event_id[:200], fix="an event id looks like pump-7:3:1042")
        return cls(device_id, int(boot_epoch), int(seq))


def chosen_for_audit(event_id: str, rate: float) -> bool:
    """Whether an event belongs to the random audit sample taken at `rate` in [0, 1].

    The draw is a hash of the id, so a replay takes the same sample and nothing about the signal can steer it.
    """
    draw = int.from_bytes(hashlib.blake2b(event_id.encode(), digest_size=8, person=b"audit").digest(), "big")
    return draw < rate * 2.0**64
