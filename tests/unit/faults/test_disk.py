"""The disks of the fault suite do what they are for: what was not forced to disk is gone after a power cut."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.disk import WITH_JOURNAL, WITHOUT_JOURNAL, PowerDisk, SmallDisk, may_mount

pytestmark = pytest.mark.skipif(bool(may_mount()), reason=may_mount() or "it can")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[PowerDisk]:
    made = PowerDisk(tmp_path, 32)
    yield made
    made.close()


def write(path: Path, data: bytes, *, durable: bool) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(fd, data)
    if durable:
        os.fsync(fd)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    os.close(fd)


@pytest.mark.parametrize("flag", [WITH_JOURNAL, WITHOUT_JOURNAL])
def test_after_a_power_cut_what_was_forced_to_disk_is_there_and_the_rest_is_not(disk: PowerDisk, flag: int) -> None:
    write(disk.path / "kept", b"k" * 100, durable=True)
    write(disk.path / "lost", b"l" * 100, durable=False)
    disk.cut(flag)
    with pytest.raises(OSError, match="Input/output error"):
        write(disk.path / "after", b"a", durable=True)
    disk.revive()
    assert (disk.path / "kept").read_bytes() == b"k" * 100
    lost = disk.path / "lost"
    assert not lost.exists() or lost.read_bytes() != b"l" * 100
    assert not (disk.path / "after").exists()


def test_a_full_disk_refuses_and_has_room_again_when_it_is_freed(tmp_path: Path) -> None:
    small = SmallDisk(tmp_path, 1024)
    try:
        small.fill()
        with pytest.raises(OSError, match="No space left"):
            write(small.path / "x", b"x" * 8192, durable=False)
        small.free()
        write(small.path / "x", b"x" * 8192, durable=False)
    finally:
        small.close()
