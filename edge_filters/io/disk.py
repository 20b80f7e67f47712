"""The file operations that the spool stands on, all of them, so that its laws can be tested on a disk that crashes.

What each promises after a power cut is the least that POSIX promises: written bytes and the length of a file are there
after `sync` of it, names (made, renamed, removed) after `sync_folder`, and before that any part of them, in any order.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Protocol


class Disk(Protocol):
    """Files by path and by handle. Every operation may raise OSError."""

    def make_folder(self, folder: Path) -> None:
        """Make a folder and those above it, where they are missing."""
        ...

    def names(self, folder: Path) -> list[str]:
        """Names of what is in a folder, sorted."""
        ...

    def read(self, path: Path, offset: int = 0, size: int = -1) -> bytes:
        """Bytes of a file from an offset on, to its end or at most `size`."""
        ...

    def open(self, path: Path, *, new: bool = False) -> int:
        """A handle for reading and writing; `new`: the file is made, and was not there."""
        ...

    def append(self, handle: int, data: bytes) -> None:
        """Write all of it at the end."""
        ...

    def write_at(self, handle: int, offset: int, data: bytes) -> None:
        """Write all of it at an offset."""
        ...

    def truncate(self, handle: int, size: int) -> None:
        """Cut, or fill up with zeros."""
        ...

    def sync(self, handle: int) -> None:
        """Content and length are on the disk when it returns."""
        ...

    def close(self, handle: int) -> None:
        """Let go of a handle; promises nothing about the disk."""
        ...

    def remove(self, path: Path) -> None:
        """Take a name away."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, in place of whatever had it."""
        ...

    def sync_folder(self, folder: Path) -> None:
        """Names in a folder are on the disk when it returns."""
        ...

    def lock(self, path: Path) -> int:
        """Lock a file that is made where it is missing; it holds the process id. Raises BlockingIOError: it is held."""
        ...


class OsDisk:
    """The real one. Implements Disk."""

    def make_folder(self, folder: Path) -> None:
        """As os.makedirs."""
        folder.mkdir(parents=True, exist_ok=True)

    def names(self, folder: Path) -> list[str]:
        """As os.listdir, sorted."""
        return sorted(os.listdir(folder))

    def read(self, path: Path, offset: int = 0, size: int = -1) -> bytes:
        """Open, read, close."""
        with path.open("rb") as file:
            if offset:
                file.seek(offset)
            return file.read(size)

    def open(self, path: Path, *, new: bool = False) -> int:
        """As os.open. What appends goes to the end; `write_at` is for files that nothing appends to."""
        flags = os.O_RDWR | os.O_CLOEXEC
        return os.open(path, flags | os.O_CREAT | os.O_EXCL if new else flags, 0o600)

    def append(self, handle: int, data: bytes) -> None:
        """Write until all is written; the handle stands at the end, as only appends move it."""
        os.lseek(handle, 0, os.SEEK_END)
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]

    def write_at(self, handle: int, offset: int, data: bytes) -> None:
        """As os.pwrite."""
        os.pwrite(handle, data, offset)

    def truncate(self, handle: int, size: int) -> None:
        """As os.ftruncate."""
        os.ftruncate(handle, size)

    def sync(self, handle: int) -> None:
        """As os.fsync."""
        os.fsync(handle)

    def close(self, handle: int) -> None:
        """As os.close."""
        os.close(handle)

    def remove(self, path: Path) -> None:
        """As os.unlink."""
        path.unlink(missing_ok=True)

    def rename(self, source: Path, target: Path) -> None:
        """As os.replace."""
        os.replace(source, target)

    def sync_folder(self, folder: Path) -> None:
        """As fsync of the folder."""
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def lock(self, path: Path) -> int:
        """As flock, which the kernel lets go of when the process ends, however it ends."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        return handle
