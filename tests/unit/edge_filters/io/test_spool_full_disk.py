"""The spool on a disk that is really full: a tmpfs of 8 MiB, of which somebody else takes what is left."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_filters.io.spool import FileSpool
from edge_filters.outgoing import Parcel, Priority, pack
from schemas.codec import decode, peek_identity
from schemas.records import GapMarker, GapReason
from tests.doubles import records as make

MIB = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until there is no room."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)) == 4096:
            pass
    assert path.stat().st_size > MIB


def event(seq: int) -> Parcel:
    return pack(make.event("pump-7", seq, readings=500, values=bytes(4000)))


def sample(seq: int) -> Parcel:
    return pack(make.audit("pump-7", seq))


def seqs(spool: FileSpool, lane: Priority) -> list[int]:
    out: list[int] = []
    number = spool.first(lane)
    while (number := spool.next(lane, number)) < spool.end(lane):
        part = spool.read(lane, number, 50, MIB)
        number += len(part)
        for parcel in part:
            if (identity := peek_identity(parcel.payload)) is not None:
                out.append(identity.seq)
    return out


def named(spool: FileSpool, topic: str) -> tuple[set[int], set[GapReason]]:
    """What the markers that wait name for a lane, and why."""
    numbers: set[int] = set()
    reasons: set[GapReason] = set()
    number = spool.first(Priority.GAPS)
    while number < spool.end(Priority.GAPS):
        for parcel in (part := spool.read(Priority.GAPS, number, 50, MIB)):
            marker = decode(parcel.payload, GapMarker)
            if marker.lane == topic:
                numbers |= {seq for first, last in marker.runs for seq in range(first, last + 1)}
                reasons.add(marker.reason)
        number += len(part)
    return numbers, reasons


def test_on_a_full_disk_the_oldest_of_least_value_go_each_is_named_and_room_is_enough_to_go_on(small: Path) -> None:
    spool = FileSpool(small / "spool", max_bytes=64 * MIB, segment_bytes=256 * 1024)
    spool.append([sample(n) for n in range(50)])
    for n in range(3000):  # 12 MB into 8
        spool.append([event(n)])
    assert spool.problem == ""  # there was always something older to give up
    left = seqs(spool, Priority.URGENT)
    gone, why = named(spool, "edge.events")
    assert seqs(spool, Priority.SAMPLES) == []
    assert named(spool, "edge.samples")[0] == set(range(50))
    assert why == {GapReason.EVICTED}
    assert sorted({*left, *gone}) == list(range(3000))
    assert not {*left} & gone
    assert len(left) > 1000
    assert spool.take_dropped() == {b"pump-7": len(gone) + 50}
    spool.close()
    again = FileSpool(small / "spool", max_bytes=64 * MIB, segment_bytes=256 * 1024)
    assert seqs(again, Priority.URGENT) == left
    assert again.take_notices() == []
    again.close()


def test_where_others_fill_the_disk_it_says_so_names_what_it_could_not_keep_and_recovers_by_itself(small: Path) -> None:
    spool = FileSpool(small / "spool", max_bytes=64 * MIB, fsync="always")
    spool.append([event(0)])
    fill(small / "hog")
    refused = [n for n in range(1, 400) if Priority.URGENT not in spool.append([event(n)])]
    assert refused
    assert "has no room" in spool.problem
    assert f"{len(refused)} records could not be kept" in spool.problem
    assert "No space left on device" in spool.problem
    (small / "hog").unlink()
    assert spool.append([event(400)]) != {}
    assert spool.problem == ""
    gone, why = named(spool, "edge.events")
    assert set(refused) <= gone
    assert GapReason.DISK_FULL in why
    assert sorted({*seqs(spool, Priority.URGENT), *gone}) == list(range(401))
    assert sum(spool.take_dropped().values()) == len(gone)
    spool.close()
