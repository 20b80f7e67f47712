"""A real process with a spool dies at each named place, again and again, on one folder: nothing promised is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_filters.io.spool import FileSpool
from edge_filters.outgoing import Priority
from schemas.codec import decode, peek_identity
from schemas.failpoints import KILLED
from schemas.records import GapMarker

LANES = (Priority.URGENT, Priority.BULK, Priority.SAMPLES)
NAMES = ("spool.append.written", "spool.fsync", "spool.roll", "spool.dirsync", "spool.pointer", "spool.unlink",
         "spool.evict")  # fmt: skip

WRITER = """
import sys
from pathlib import Path
from edge_filters.io.spool import FileSpool
from edge_filters.outgoing import Priority, pack
from tests.doubles import records as make
spool = FileSpool(Path(sys.argv[1]), max_bytes=40_000, fsync="always", segment_bytes=4_000)
life = int(sys.argv[2])
for n in range(400):
    for lane in spool.append([pack(make.event("d", n, boot_epoch=life)), pack(make.audit("d", n, boot_epoch=life))]):
        print("kept", lane.value, n, flush=True)
    if n % 7 == 0:
        for lane in (Priority.URGENT, Priority.SAMPLES):
            if parcels := spool.read(lane, spool.first(lane), 3, 1 << 16):
                print("out", lane.value, len(parcels), flush=True)
                spool.ack(lane, parcels)
"""


@pytest.mark.parametrize("name", NAMES)
def test_whoever_dies_there_loses_nothing_that_was_promised(name: str, tmp_path: Path) -> None:
    gone: set[tuple[str, int, int]] = set()
    for life, count in enumerate((1, 2, 3, 5, 8, 13), 1):
        environment = os.environ | {"TIDEGATE_FAILPOINT": f"{name}:{count}"}
        before = waiting(tmp_path, gone) if life > 1 else {}
        child = subprocess.run(
            [sys.executable, "-c", WRITER, str(tmp_path), str(life)],
            env=environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert child.returncode == KILLED, child.stderr
        said = [line.split() for line in child.stdout.splitlines()]
        expected = {lane: [*before.get(lane, [])] for lane in LANES}
        for words in said:
            if words[0] == "kept":
                expected[Priority(int(words[1]))].append((life, int(words[2])))
        out = {lane: sum(int(words[2]) for words in said if words[:2] == ["out", str(lane.value)]) for lane in LANES}
        found = waiting(tmp_path, gone)
        for lane in LANES:
            topic = "edge.events" if lane is Priority.URGENT else "edge.samples"
            left = [one for one in expected[lane] if (topic, *one) not in gone]
            missing = set(left) - set(found[lane])
            assert len(missing) <= out[lane], f"{lane.name}: {sorted(missing)[:9]}"
            assert found[lane] == sorted(set(found[lane]))
            assert not {(topic, *one) for one in found[lane]} & gone


def waiting(folder: Path, gone: set[tuple[str, int, int]]) -> dict[Priority, list[tuple[int, int]]]:
    """Life and number of what waits; what markers name goes into `gone`."""
    spool = FileSpool(folder, max_bytes=40_000, fsync="always", segment_bytes=4_000)
    out: dict[Priority, list[tuple[int, int]]] = {}
    for lane in Priority:
        found = out.setdefault(lane, [])
        number = spool.first(lane)
        while number < spool.end(lane):
            for parcel in (part := spool.read(lane, number, 50, 1 << 16)):
                if lane is Priority.GAPS:
                    marker = decode(parcel.payload, GapMarker)
                    gone |= {
                        (marker.lane, marker.boot_epoch, n)
                        for first, last in marker.runs
                        for n in range(first, last + 1)
                    }
                elif (identity := peek_identity(parcel.payload)) is not None:
                    found.append((identity.boot_epoch, identity.seq))
            number += len(part)
    assert not spool.take_dropped()
    spool.close()
    return out
