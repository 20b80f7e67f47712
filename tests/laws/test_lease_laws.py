"""Laws of the lease: whatever the order in which processes start, hear and die, one of them is left per device."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from edge_filters.lease import Lease
from schemas.records import ClaimKind, DeviceClaim


@dataclass
class Process:
    """One process over a log that all of them share."""

    lease: Lease
    log: list[DeviceClaim]
    read: int = 0
    stopped: bool = False
    said: list[DeviceClaim] = field(default_factory=list)

    def hear(self, count: int) -> None:
        """The next few claims of the log, and what they make it do."""
        for claim in self.log[self.read : self.read + count]:
            self.read += 1
            if not self.stopped:
                self.lease.hear(claim)
                if self.lease.lost is not None:
                    self.stopped = True
        if not self.stopped:
            self.log += self.lease.answers()


def start(log: list[DeviceClaim], name: str, epoch: int) -> Process:
    """A process that could not ask: it starts with the epoch of its own disk, whatever was claimed."""
    made = Process(Lease(["pump-7"], "edge", name), log)
    made.lease.begin(epoch, 1_000_000)
    log += made.lease.claims()
    return made


steps = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=40)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=6), steps)
def test_of_processes_that_could_not_ask_one_is_left(epochs: list[int], order: list[tuple[int, int]]) -> None:
    log: list[DeviceClaim] = []
    processes = [start(log, f"p{n}", epoch) for n, epoch in enumerate(epochs)]
    for who, count in order:
        processes[who % len(processes)].hear(count)
    for _ in range(3):  # until there is nothing that anybody has not heard
        for process in processes:
            process.hear(len(log))
    left = [n for n, process in enumerate(processes) if not process.stopped]
    assert left == [epochs.index(max(epochs))]


@given(st.integers(1, 10**13), st.integers(0, 5))
def test_whoever_asks_while_another_lives_goes_away_and_the_other_never_notices(epoch: int, late: int) -> None:
    log: list[DeviceClaim] = []
    first = start(log, "first", epoch)
    second = Lease(["pump-7", "pump-8"], "other", "second")
    for claim in log:
        second.hear(claim)
    knocks = second.to_ask(5)
    assert [(k.kind, k.device_id, k.epoch) for k in knocks] == [(ClaimKind.KNOCK, "pump-7", epoch)]
    assert second.asks_strangers
    log += knocks
    first.hear(late)
    first.hear(len(log))
    for claim in log[1:]:
        second.hear(claim)
    assert second.lost is not None
    assert not first.stopped


def test_where_nobody_answers_the_next_one_counts_on() -> None:
    log: list[DeviceClaim] = []
    start(log, "dead", 7)
    second = Lease(["pump-7"], "other", "second", before=["dead"])
    for claim in log + second.to_ask(5):
        second.hear(claim)
    assert second.lost is None
    assert (second.highest, second.asks_strangers) == (7, False)


def test_a_device_that_was_let_go_is_taken_without_asking() -> None:
    log: list[DeviceClaim] = []
    first = start(log, "first", 3)
    log += first.lease.releases(9)
    second = Lease(["pump-7"], "other", "second")
    for claim in log[-1:]:  # what compaction leaves
        second.hear(claim)
    assert second.to_ask(10) == []
    assert second.highest == 3


def test_a_disk_that_was_set_back_is_told_from_a_clone() -> None:
    log: list[DeviceClaim] = []
    start(log, "mine", 7)
    old = Lease(["pump-7"], "edge", "now", before=["mine"])
    old.begin(4, 0)
    clone = Lease(["pump-7"], "edge", "other")
    clone.begin(4, 0)
    for claim in log:
        old.hear(claim)
        clone.hear(claim)
    assert "was set back" in str(old.lost)
    assert "belongs to another process" in str(clone.lost)


def test_claims_of_other_devices_and_of_kinds_to_come_change_nothing() -> None:
    lease = Lease(["pump-7"], "edge", "me")
    lease.begin(1, 0)
    for device, kind in (("pump-8", ClaimKind.CLAIM), ("pump-7", ClaimKind.UNKNOWN)):
        lease.hear(DeviceClaim(device_id=device, epoch=9, instance="x", edge_id="e", kind=kind, at=0))
    assert (lease.lost, lease.answers()) == (None, [])
