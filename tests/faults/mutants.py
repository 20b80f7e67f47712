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
    """The spool gathers what it appends in memory and writes it out now and then."""
    if not _is("edge_filters"):
        return
    from edge_filters.io import disk

    held: dict[int, list[bytes]] = {}

    def append(self: Any, handle: int, data: bytes) -> None:
        waiting = held.setdefault(handle, [])
        waiting.append(data)
        if len(waiting) >= 50:
            original(self, handle, b"".join(waiting))
            waiting.clear()

    original = _replace(disk.OsDisk, "append", append)


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

    _replace(dedupe.Dedupe, "see", lambda *_, **__: dedupe.Seen.NEW)


def torn_transaction() -> None:
    """The pipeline commits its positions in one transaction and the answers in the next."""
    if not _is("pipelines job"):
        return
    from pipelines.io import answers

    def attempt(self: Any, writer: Any, transaction: Any) -> None:
        deadline_s = time.monotonic() + 10.0
        if transaction.offsets:
            writer.begin()
            writer.offsets(transaction.offsets, deadline_s)
            writer.commit(deadline_s)
        if transaction.records:
            time.sleep(0.3)  # the moment between the two, wide enough to be hit
            writer.begin()
            for topic, records in transaction.records.items():
                writer.send(topic, records)
            writer.flush(deadline_s)
            writer.commit(deadline_s)

    _replace(answers.Answers, "_attempt", attempt)


def blind_commit() -> None:
    """The pipeline takes a commit for done whose outcome nobody knows."""
    if not _is("pipelines job"):
        return
    from pipelines.io import answers

    _replace(answers.Answers, "_landed", lambda self, transaction: True)


def commit_again() -> None:
    """The pipeline writes a transaction again whose outcome nobody knows."""
    if not _is("pipelines job"):
        return
    from pipelines.io import answers

    _replace(answers.Answers, "_landed", lambda self, transaction: False)


def silent_drop() -> None:
    """The spool names nothing of what it gives up."""
    if not _is("edge_filters"):
        return
    from edge_filters import gaps

    _replace(gaps.Gaps, "add", lambda self, parcel, reason: None)


MUTANTS: dict[str, Mutant] = {
    "early-ack": early_ack,
    "spool-in-memory": spool_in_memory,
    "ack-on-send": ack_on_send,
    "no-dedupe": no_dedupe,
    "torn-transaction": torn_transaction,
    "blind-commit": blind_commit,
    "commit-again": commit_again,
    "silent-drop": silent_drop,
}


def apply(name: str) -> None:
    """Break this process. Raises KeyError."""
    MUTANTS[name]()
