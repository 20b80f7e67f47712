"""The claims of a process on their way: asked before the start, sent until they have arrived, let go at the end."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from edge_filters.lease import REMEMBERED, Lease, epoch_from_clock
from edge_filters.outgoing import pack_claim
from edge_filters.ports import Delivery, Feedback, Inbox, Outbox, Store
from schemas.errors import SpoolError
from schemas.records import DeviceClaim

#: How long a start waits for the broker before it goes on without: longer where its own disk knows no count, and where
#: the broker is there and only the topics are not read yet.
BROKER_S, NEW_S, TOPICS_S = 3.0, 10.0, 10.0
#: How long it waits for the answer of whoever may hold a device: a process that is alive answers within one turn of its
#: loop. An earlier process of the same state folder is dead in almost every case, so it is given less time.
STRANGER_S, OWN_S = 5.0, 1.0
_NAME = "lease"


class Claims:
    """Sends claims past the spool, each again until it is there. One thread."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._waiting: list[DeviceClaim] = []
        self._away: list[tuple[DeviceClaim, Any]] = []

    def put(self, claims: Iterable[DeviceClaim]) -> None:
        """Send these as soon as the outbox can."""
        self._waiting += claims

    def pump(self) -> bool:
        """Send what waits; whether everything has arrived."""
        still: list[tuple[DeviceClaim, Any]] = []
        for claim, receipt in self._away:
            delivery = self._outbox.report(receipt).delivery
            if delivery is Delivery.PENDING:
                still.append((claim, receipt))
            elif delivery is Delivery.LOST:
                self._waiting.append(claim)
        if self._waiting and self._outbox.ready:
            still += [(claim, self._outbox.send(pack_claim(claim))) for claim in self._waiting]
            self._waiting = []
        self._away = still
        return not self._away and not self._waiting


def lease_of(devices: Iterable[str], edge_id: str, store: Store) -> Lease:
    """The lease of a new process, which its state folder knows from now on. Raises SpoolError: the disk failed."""
    before = _before(store)
    instance = uuid.uuid4().hex[:16]
    store.save(_NAME, json.dumps([*before, instance][-REMEMBERED:]).encode())
    return Lease(devices, edge_id, instance, before)


def _before(store: Store) -> list[str]:
    try:
        found = json.loads(store.load(_NAME) or b"[]")
    except ValueError:
        return []  # without the names of its predecessors a start only waits a little longer for their answer
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def begin(
    lease: Lease,
    store: Store,
    inbox: Inbox,
    outbox: Outbox,
    stop: threading.Event,
    clock: Callable[[], int],
    leftovers: bool = False,
) -> tuple[int, list[Feedback | str]]:
    """Find out whether the devices are free, and count this start above everything that was seen.

    Args:
        leftovers: whether records of an earlier start wait to be sent.

    Returns:
        the boot_epoch, which is counted in the store, and what the inbox gave meanwhile beside claims.

    Raises:
        LeaseError: another process holds a device. SpoolError: the disk failed.
    """
    heard: list[Feedback | str] = []

    def wait(seconds: float, done: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + seconds
        while True:
            for item in inbox.poll():
                if isinstance(item, DeviceClaim):
                    lease.hear(item)
                else:
                    heard.append(item)
            if done() or lease.lost is not None or time.monotonic() >= deadline_s or stop.wait(0.01):
                return

    wait(NEW_S if store.is_new else BROKER_S, lambda: inbox.ready and outbox.ready)
    if outbox.ready:
        wait(TOPICS_S, lambda: inbox.ready)
    knows = inbox.ready and inbox.hears_claims
    if knows:
        wait(0.0, lambda: True)  # what came between the last look and the end of the topics
    if knows and (knocks := lease.to_ask(clock())):
        claims = Claims(outbox)
        claims.put(knocks)
        wait(BROKER_S, claims.pump)
        wait(STRANGER_S if lease.asks_strangers else OWN_S, lambda: False)
    if lease.lost is not None:
        raise lease.lost
    above = lease.highest
    if store.is_new and not above and (leftovers or not knows):
        above = epoch_from_clock(clock())
    if above >= 2**62:
        raise SpoolError(
            "a claim on a device has an epoch that nothing can follow",
            epoch=above,
            fix="give the device another id, or remove its claims from the topic",
        )
    epoch = store.next_boot_epoch(above)
    lease.begin(epoch, clock())
    return epoch, heard
