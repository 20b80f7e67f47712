"""Disks that can fail: ext4 in a file, whose power can be cut, and a small tmpfs that can be full. Linux, root.

The power cut is FS_IOC_SHUTDOWN: from that moment the file system writes nothing any more, and what was not forced to
disk before is gone after the next mount. Flag 2 loses the journal too, flag 1 writes the journal out first, so that
metadata is there and data is not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from pathlib import Path

FS_IOC_SHUTDOWN = 0x8004587D
WITH_JOURNAL, WITHOUT_JOURNAL = 1, 2


def may_mount() -> str:
    """Why mounting is not possible here; empty when it is."""
    if os.geteuid() != 0:
        return "mounting a file system needs root"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    return ""


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def _unmount(path: Path) -> None:
    """Now, or as soon as nobody looks into it any more."""
    try:
        _run("umount", str(path))
    except OSError:
        with contextlib.suppress(OSError):
            _run("umount", "--lazy", str(path))


class PowerDisk:
    """An ext4 of its own on a file. `path` is where it is mounted."""

    def __init__(self, folder: Path, megabytes: int = 96) -> None:
        self.path, self._image = folder / "disk", folder / "disk.img"
        self.path.mkdir(parents=True)
        with self._image.open("wb") as file:
            file.truncate(megabytes << 20)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image))
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-o", "loop,data=ordered", str(self._image), str(self.path))

    def sync(self) -> None:
        """Force everything on it to the disk, as half a minute of peace would."""
        _run("sync", "-f", str(self.path))

    def cut(self, flag: int) -> None:
        """The power is gone. Every call on the file system fails from now on."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("=I", flag))
        finally:
            os.close(fd)

    def revive(self) -> None:
        """Power is back: mounted anew, the journal replayed. Whoever had files open must be dead."""
        _run("umount", str(self.path))
        self._mount()

    def close(self) -> None:
        """Unmount and remove."""
        _unmount(self.path)
        self._image.unlink(missing_ok=True)


class SmallDisk:
    """A tmpfs of a given size, which other files can fill."""

    def __init__(self, folder: Path, kilobytes: int) -> None:
        self.path = folder / "small"
        self.path.mkdir(parents=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(self.path))

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"

    def fill(self, leave_bytes: int = 0) -> None:
        """Somebody else takes all the room but so much."""
        stats = os.statvfs(self.path)
        size = max(0, stats.f_bavail * stats.f_frsize - leave_bytes)
        fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT)
        try:
            os.posix_fallocate(fd, 0, size)
        finally:
            os.close(fd)

    def free(self) -> None:
        """And gives it back."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount."""
        _unmount(self.path)
