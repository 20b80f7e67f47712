"""Faults of disks: power cuts below the edge's state and below the broker, a full disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.faults.disk import WITH_JOURNAL, WITHOUT_JOURNAL, PowerDisk, SmallDisk
from tests.faults.proxy import FaultBroker
from tests.faults.scenario import Bench, Scenario
from tests.faults.world import Stuck, World

#: Every log of the broker is forced to disk with every batch: without it a single broker loses what it acknowledged.
FLUSHING = "\nlog.flush.interval.messages=1\n"


@contextmanager
def _edge_on_disk(bench: Bench) -> Iterator[World]:
    """A world whose edge keeps its state and spool on a disk of its own."""
    disk = PowerDisk(bench.folder)
    try:
        with bench.world(state=disk.path / "state") as world:
            world.disk = disk
            yield world
    finally:
        disk.close()


def _cut_edge(bench: Bench, world: World, turn: int) -> None:
    """Mostly while the broker hangs: then the spool is the only place where records are."""
    disk = world.disk
    assert disk is not None
    bench.pause(0.2, 1.2)
    flag = bench.dice.choice([WITH_JOURNAL, WITHOUT_JOURNAL])
    if bench.dice.random() < 0.75:
        with world.frozen("broker"):
            bench.pause(0.1, 0.8)
            _power_off_edge(world, disk, flag)
    else:
        _power_off_edge(world, disk, flag)
    world.start_edge()


def _power_off_edge(world: World, disk: PowerDisk, flag: int) -> None:
    disk.cut(flag)
    world.cuts += 1
    world.end_edge()
    disk.revive()


@contextmanager
def _broker_on_disk(bench: Bench) -> Iterator[World]:
    """A world whose broker has its folder on a disk of its own."""
    disk = PowerDisk(bench.folder, 512)
    try:
        more = "" if bench.mutant == "broker-without-flush" else FLUSHING
        with FaultBroker(disk.path / "broker", more=more) as broker, bench.world(broker=broker) as world:
            disk.sync()  # what the broker's own formatting left in memory is no fault of ours
            world.disk = disk
            yield world
    finally:
        disk.close()


def _cut_broker(bench: Bench, world: World, turn: int) -> None:
    disk = world.disk
    assert disk is not None
    bench.pause(0.5, 2.5)
    disk.cut(bench.dice.choice([WITH_JOURNAL, WITHOUT_JOURNAL]))
    world.cuts += 1
    world.broker.kill()
    disk.revive()
    world.broker.start(timeout_s=180)


@contextmanager
def _edge_on_small_disk(bench: Bench) -> Iterator[World]:
    disk = SmallDisk(bench.folder, 4096)
    try:
        with bench.world(state=disk.path / "state") as world:
            world.small = disk
            yield world
    finally:
        disk.close()


def _fill(bench: Bench, world: World, turn: int) -> None:
    """Somebody else fills the disk for a while; the edge is not started again. Every second time the broker hangs."""
    disk, edge = world.small, world.edge
    assert disk is not None
    assert edge is not None
    bench.pause(0.3, 1.0)
    leave = bench.dice.randrange(0, 8192)
    if turn % 2:
        with world.frozen("broker"):
            disk.fill(leave)
            bench.pause(1.0, 3.0)
            disk.free()
    else:
        disk.fill(leave)
        bench.pause(1.0, 3.0)
        disk.free()
    if edge.poll() is not None:
        raise Stuck(f"the edge ended with {edge.returncode} when its disk was full")


SCENARIOS = (
    Scenario(
        "power-cut-edge", "S3", "power cut below the edge's state, mostly while the broker hangs", _cut_edge,
        {"early-ack": "lost"}, _edge_on_disk, quick=4, long=50, needs_root=True,
    ),
    Scenario(
        "power-cut-broker", "K3", "power cut below a broker that forces each batch to disk", _cut_broker,
        {"broker-without-flush": "lost"}, _broker_on_disk, quick=2, needs_root=True,
    ),
    Scenario(
        "full-disk", "S6", "the edge's disk is full for 1 to 3 s, every second time while the broker hangs", _fill,
        {"silent-drop": "unexplained"}, _edge_on_small_disk, quick=2, needs_root=True, may_lose=True,
    ),
)  # fmt: skip
