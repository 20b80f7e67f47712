"""Ways to break the product, each one mistake that somebody could make. Applied at the start of a process, by name.

A mutant that finds nothing to break fails at once: a proof that patches the wrong place proves nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

Mutant = Callable[[], None]


def _replace(owner: Any, name: str, new: Any) -> Any:
    """Put `new` where something is; returns what was there."""
    old = getattr(owner, name)  # AttributeError: there is nothing of that name any more
    setattr(owner, name, new)
    return old


def _is(module: str) -> bool:
    """Whether this process runs a module as its main program."""
    return f" -m {module} " in f" {' '.join(sys.orig_argv)} "


def early_ack() -> None:
    """The spool acknowledges before the data is on the disk."""
    if _is("edge_filters"):
        _replace(os, "fsync", lambda fd: None)


def spool_in_memory() -> None:
    """The spool gathers records in memory and writes them out now and then."""
    if not _is("edge_filters"):
        return
    from edge_filters.io import spool

    held: dict[int, list[Any]] = {}

    def write(self: Any, lane: Any, segment: Any, data: bytes) -> None:
        waiting = held.setdefault(id(lane), [])
        waiting.append((segment, data))
        if len(waiting) >= 50:
            for at, some in waiting:
                original(self, lane, at, some)
            waiting.clear()

    original = _replace(spool.FileSpool, "_write", write)


def ack_on_send() -> None:
    """A record counts as delivered when it has been handed to the Kafka client."""
    if not _is("edge_filters"):
        return
    from edge_filters.io import kafka
    from edge_filters.ports import Delivery, Report

    _replace(kafka.KafkaOutbox, "report", lambda self, receipt: Report(Delivery.DELIVERED))


def no_dedupe() -> None:
    """The pipeline decides whatever it reads, also what was sent again."""
    if not _is("pipelines job"):
        return
    from pipelines import dedupe

    _replace(dedupe.Dedupe, "first_time", lambda self, topic, identity: True)


def early_position() -> None:
    """The pipeline commits its position when it has read, not when it has answered."""
    if not _is("pipelines job"):
        return
    from pipelines.io import ledger

    def register(self: Any, partition: Any, begin: int, end: int, watermark_us: int) -> None:
        original(self, partition, begin, end, watermark_us)
        from pipelines.io.chunk import Receipt

        self.acknowledge_all(Receipt("", *partition, begin, end))

    original = _replace(ledger.LedgerCore, "register", register)
    from pipelines.io import sink

    def process(self: Any, batch: Any) -> Any:
        time.sleep(0.3)  # the moment between position and answer, wide enough to be hit
        return written(self, batch)

    written = _replace(sink._Write, "process", process)


def no_crc() -> None:
    """The spool does not look at the checksums of what it reads back."""
    if not _is("edge_filters"):
        return
    from edge_filters.io import frames

    _replace(frames, "crc32c", lambda *_: 0)


MUTANTS: dict[str, Mutant] = {
    "early-ack": early_ack,
    "spool-in-memory": spool_in_memory,
    "ack-on-send": ack_on_send,
    "no-dedupe": no_dedupe,
    "early-position": early_position,
    "no-crc": no_crc,
}


def apply(name: str) -> None:
    """Break this process. Raises KeyError."""
    MUTANTS[name]()
