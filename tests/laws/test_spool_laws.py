"""The spool on a disk that crashes: what was promised is there or named, and nothing else ever is."""

from __future__ import annotations

import functools
from pathlib import Path
from random import Random
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from edge_filters.io import spool as spool_module
from edge_filters.io.frames import OWNER_BYTES
from edge_filters.io.lane import POINTER_EVERY
from edge_filters.io.spool import FileSpool
from edge_filters.outgoing import Parcel, Priority, pack
from pipelines.dedupe import KEEP
from schemas import topics
from schemas.codec import decode, peek_identity
from schemas.errors import SpoolError
from schemas.records import GapMarker
from tests.doubles import records as make
from tests.doubles.crash_disk import CrashDisk, PowerCut
from tests.doubles.edge_parts import T0

ROOT = Path("/spool")
TOPICS = {Priority.URGENT: topics.EVENTS, Priority.BULK: topics.AGGREGATES, Priority.SAMPLES: topics.SAMPLES}


@functools.cache
def cached(lane: Priority, seq: int) -> Parcel:
    """A real record of a lane, the same each time."""
    made = {Priority.URGENT: make.event, Priority.BULK: make.aggregate, Priority.SAMPLES: make.audit}[lane]
    return pack(made("d", seq))


@functools.cache
def _seq_of(payload: bytes) -> int:
    identity = peek_identity(payload)
    assert identity is not None
    return identity.seq


def seq_of(parcel: Parcel) -> int:
    return _seq_of(parcel.payload)


class CrashingSpool(RuleBasedStateMachine):
    """Every record has a number of its own in its lane; `fate` is what the spool has said of it."""

    lies = False
    survives = "power cut"
    room = 1 << 30

    def __init__(self) -> None:
        super().__init__()
        self.disk = CrashDisk(lies=self.lies, room=self.room)
        self.made = dict.fromkeys(TOPICS, 0)
        self.promised: dict[Priority, set[int]] = {lane: set() for lane in TOPICS}
        self.delivered: dict[Priority, set[int]] = {lane: set() for lane in TOPICS}
        self.named: dict[Priority, set[int]] = {lane: set() for lane in TOPICS}
        self.numbers = dict.fromkeys(TOPICS, -1)
        self.crashed = False
        self.dropped = 0

    @initialize()
    def begin(self) -> None:
        self.open()

    def open(self) -> None:
        self.spool = FileSpool(
            ROOT,
            max_bytes=6_000,
            fsync="always" if self.survives == "power cut" else "never",
            segment_bytes=900,
            disk=self.disk,
            clock=lambda: T0,
        )

    # -- what happens ---------------------------------------------------------------------------------------------

    @rule(lanes=st.lists(st.sampled_from(sorted(TOPICS)), min_size=1, max_size=5))
    def keep(self, lanes: list[Priority]) -> None:
        parcels = []
        for lane in lanes:
            parcels.append(cached(lane, self.made[lane]))
            self.made[lane] += 1
        starts = self.spool.append(parcels)
        for parcel in parcels:
            if parcel.priority in starts:
                self.promised[parcel.priority].add(seq_of(parcel))
        for lane, start in starts.items():
            assert start > self.numbers[lane], "a number was given out twice"
            self.numbers[lane] = start + lanes.count(lane) - 1

    @rule(lane=st.sampled_from(sorted(TOPICS)), count=st.integers(1, 8))
    def deliver(self, lane: Priority, count: int) -> None:
        number = self.spool.first(lane)
        if parcels := self.spool.read(lane, number, count, 1 << 16):
            self.delivered[lane] |= set(map(seq_of, parcels))  # they are out, whatever happens in `ack`
            self.spool.ack(lane, parcels)

    @rule()
    def deliver_markers(self) -> None:
        if parcels := self.spool.read(Priority.GAPS, self.spool.first(Priority.GAPS), 3, 1 << 16):
            self.take_markers(parcels)
            self.spool.ack(Priority.GAPS, parcels)

    @rule()
    def restart(self) -> None:
        self.spool.close()
        self.disk.kill()
        self.crashed = True  # what found no room and was not named yet is forgotten
        self.open()

    @rule(seed=st.integers(0, 2**32), left=st.integers(0, 40), then=st.sampled_from(["keep", "deliver", "open"]))
    def crash(self, seed: int, left: int, then: str) -> None:
        """The power goes at any step of whatever is done next."""
        draw = Random(seed)
        self.disk.left = left
        self.crashed = True
        try:
            for _ in range(30):
                if then == "keep":
                    self.keep([draw.choice(sorted(TOPICS)) for _ in range(draw.randrange(1, 5))])
                elif then == "deliver":
                    self.deliver(draw.choice(sorted(TOPICS)), draw.randrange(1, 8))
                    self.deliver_markers()
                else:
                    self.disk.kill()
                    self.disk.left = left
                    self.open()
                    break
        except PowerCut:
            pass
        if self.survives == "power cut":
            self.disk.power_cut(draw)
        else:
            self.disk.kill()
        self.open()

    # -- what must hold -------------------------------------------------------------------------------------------

    def take_markers(self, parcels: list[Parcel]) -> None:
        for parcel in parcels:
            marker = decode(parcel.payload, GapMarker)
            lane = next(lane for lane, topic in TOPICS.items() if topic.name == marker.lane)
            for first, last in marker.runs:
                self.named[lane] |= set(range(first, last + 1))

    def found(self, lane: Priority) -> list[Parcel]:
        out: list[Parcel] = []
        number = self.spool.first(lane)
        while (number := self.spool.next(lane, number)) < self.spool.end(lane):
            part = self.spool.read(lane, number, 5, 600)
            out += part
            number += len(part)
            assert part, f"nothing at {lane.name} {number}: {self.spool._lanes[lane].__dict__}"
        return out

    @invariant()
    def what_was_promised_is_there_or_named_and_nothing_else_is(self) -> None:
        self.take_markers(self.found(Priority.GAPS))
        waiting = 0
        for lane in TOPICS:
            found = self.found(lane)
            seqs = list(map(seq_of, found))
            waiting += len(found)
            assert found == [cached(lane, seq) for seq in seqs], "bytes that nobody wrote"
            assert seqs == sorted(set(seqs)), "out of order, or twice"
            assert not seqs or seqs[-1] < self.made[lane]
            lost = self.promised[lane] - self.delivered[lane] - self.named[lane] - set(seqs)
            assert not lost, f"lost from {lane.name}: {sorted(lost)[:9]}"
            both = self.named[lane] & set(seqs)
            assert not both, f"named as given up, and there: {sorted(both)[:9]}"
        assert self.spool.waiting_records == waiting
        used = sum(self.spool._lanes[lane].used for lane in TOPICS)
        assert self.crashed or used <= 6_000 + len(TOPICS) * OWNER_BYTES  # a power cut brings removed files back
        self.each_loss_is_counted_once_and_named_at_the_latest_when_there_is_room()

    def each_loss_is_counted_once_and_named_at_the_latest_when_there_is_room(self) -> None:
        self.dropped += sum(self.spool.take_dropped().values())
        if not self.crashed and not self.spool.problem:
            assert self.dropped == sum(map(len, self.named.values()))

    def teardown(self) -> None:
        hypothesis.event(f"named: {min(3, sum(map(len, self.named.values())))}")


class KilledSpool(CrashingSpool):
    """kill -9: nothing is forced to the disk, and nothing that was written is lost."""

    survives = "kill -9"


class CrampedSpool(CrashingSpool):
    """A disk that is smaller than the spool may be."""

    room = 5_000


class LyingSpool(CrashingSpool):
    lies = True


@pytest.fixture(autouse=True)
def small_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "RESERVE_BYTES", 700)


_PHASES = [phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.explain]  # it takes minutes
STEPS = hypothesis.settings(stateful_step_count=30, phases=_PHASES)


@pytest.mark.parametrize("machine", [CrashingSpool, KilledSpool, CrampedSpool])
def test_whatever_a_crash_leaves_what_was_promised_is_there_or_named(machine: Any) -> None:
    run_state_machine_as_test(machine, settings=STEPS)


def test_the_law_turns_red_on_a_disk_that_only_says_that_it_has_synced() -> None:
    with pytest.raises((AssertionError, SpoolError, Exception)) as found:
        run_state_machine_as_test(
            LyingSpool,
            settings=hypothesis.settings(
                STEPS, max_examples=300, database=None, phases=[hypothesis.Phase.generate], print_blob=False
            ),
        )
    assert "lost from" in str(found.value) or "given out twice" in str(found.value)


def test_a_power_cut_sends_again_at_most_what_the_pipeline_remembers_of_a_device() -> None:
    disk = CrashDisk()

    def opened() -> FileSpool:
        return FileSpool(ROOT, max_bytes=4 << 20, fsync="always", disk=disk, clock=lambda: T0)

    spool = opened()
    for start in range(0, 2_000, 50):
        spool.append([cached(Priority.URGENT, seq) for seq in range(start, start + 50)])
        spool.ack(Priority.URGENT, spool.read(Priority.URGENT, start, 50, 1 << 20))
    disk.power_cut(Random(1))
    again = opened()
    assert again.waiting_records <= POINTER_EVERY + 50 < KEEP
