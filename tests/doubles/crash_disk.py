"""A disk in memory that crashes: what was not synced is there in part, in any order, or not at all.

It keeps the least that POSIX promises, which is less than ext4 keeps: a name is durable after `sync_folder` only, and a
file's content after `sync` only. It can run out of room, too.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random


class PowerCut(BaseException):
    """Nothing of the process runs on; not an Exception, so that no handler swallows it."""


@dataclass
class _File:
    live: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Callable[[bytearray, Random], None]] = field(default_factory=list)


_NameOp = tuple[Path | None, Path | None, _File]  # from, to, what


def _write(offset: int, data: bytes) -> Callable[[bytearray, Random], None]:
    def apply(content: bytearray, draw: Random) -> None:
        whole = draw.random() < 0.5
        kept = data if whole else data[: draw.randrange(len(data) + 1)]
        if not whole and draw.random() < 0.3:  # the length is there before the content is
            kept += bytes(len(data) - len(kept))
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(kept)] = kept

    return apply


def _cut(size: int) -> Callable[[bytearray, Random], None]:
    def apply(content: bytearray, _: Random) -> None:
        del content[size:]
        content.extend(bytes(size - len(content)))

    return apply


class CrashDisk:
    """Implements edge_filters.io.disk.Disk."""

    def __init__(self, *, room: int = 1 << 30, lies: bool = False) -> None:
        """`room`: bytes of all files. `lies`: says that it has synced and has not."""
        self.room = room
        self.lies = lies
        self.left: int | None = None  # changes until the power is cut
        self._names: dict[Path, _File] = {}
        self._durable_names: dict[Path, _File] = {}
        self._name_ops: list[_NameOp] = []
        self._handles: dict[int, _File] = {}
        self._next_handle = 3
        self._locked = False

    # -- the crash ------------------------------------------------------------------------------------------------

    def power_cut(self, draw: Random) -> None:
        """Lose what is not durable, as `draw` wants it, and begin anew with the rest."""
        for source, target, file in self._name_ops:
            if draw.random() < 0.5:
                self._apply(self._durable_names, source, target, file)
        files = {id(file): file for file in [*self._names.values(), *self._durable_names.values()]}
        for file in files.values():
            content = bytearray(file.durable)
            for op in file.pending:
                if draw.random() < 0.6:
                    op(content, draw)
            file.live, file.durable, file.pending = content, bytearray(content), []
        self._names = dict(self._durable_names)
        self.kill()
        self._name_ops.clear()

    def kill(self) -> None:
        """End the process: all that was written stays, in the cache or on the disk."""
        self._handles.clear()
        self._locked = False
        self.left = None

    def _change(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise PowerCut

    @staticmethod
    def _apply(names: dict[Path, _File], source: Path | None, target: Path | None, file: _File) -> None:
        if source is not None:
            names.pop(source, None)
        if target is not None:
            names[target] = file

    def _rename(self, source: Path | None, target: Path | None, file: _File) -> None:
        self._change()
        self._apply(self._names, source, target, file)
        self._name_ops.append((source, target, file))

    def _room_for(self, more: int) -> int:
        used = sum(len(file.live) for file in {id(file): file for file in self._names.values()}.values())
        return max(0, min(more, self.room - used))

    # -- the port -------------------------------------------------------------------------------------------------

    def make_folder(self, folder: Path) -> None:
        """Folders are there."""

    def names(self, folder: Path) -> list[str]:
        depth = len(folder.parts)
        return sorted({path.parts[depth] for path in self._names if path.parts[:depth] == folder.parts})

    def read(self, path: Path, offset: int = 0, size: int = -1) -> bytes:
        content = self._names[path].live
        return bytes(content[offset:] if size < 0 else content[offset : offset + size])

    def open(self, path: Path, *, new: bool = False) -> int:
        if new:
            if path in self._names:
                raise FileExistsError(errno.EEXIST, "exists", str(path))
            self._rename(None, path, _File())
        self._next_handle += 1
        self._handles[self._next_handle] = self._names[path]
        return self._next_handle

    def append(self, handle: int, data: bytes) -> None:
        file = self._handles[handle]
        fits = self._room_for(len(data))
        if fits:
            self.write_at(handle, len(file.live), data[:fits])
        if fits < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")

    def write_at(self, handle: int, offset: int, data: bytes) -> None:
        file = self._handles[handle]
        file.pending.append(_write(offset, data))
        if self.left == 0:  # cut in the middle of it: part of it may be in the file
            raise PowerCut
        self._change()
        if len(file.live) < offset:
            file.live.extend(bytes(offset - len(file.live)))
        file.live[offset : offset + len(data)] = data

    def truncate(self, handle: int, size: int) -> None:
        self._change()
        file = self._handles[handle]
        _cut(size)(file.live, Random(0))
        file.pending.append(_cut(size))

    def sync(self, handle: int) -> None:
        self._change()
        file = self._handles[handle]
        if not self.lies:
            file.durable, file.pending = bytearray(file.live), []

    def close(self, handle: int) -> None:
        self._handles.pop(handle, None)

    def remove(self, path: Path) -> None:
        if path in self._names:
            self._rename(path, None, self._names[path])

    def rename(self, source: Path, target: Path) -> None:
        self._rename(source, target, self._names[source])

    def sync_folder(self, folder: Path) -> None:
        self._change()
        if self.lies:
            return
        rest: list[_NameOp] = []
        for op in self._name_ops:
            if folder in {path.parent for path in op[:2] if isinstance(path, Path)}:
                self._apply(self._durable_names, *op)
            else:
                rest.append(op)
        self._name_ops = rest

    def lock(self, path: Path) -> int:
        if self._locked:
            raise BlockingIOError(errno.EAGAIN, "locked")
        self._locked = True
        if path not in self._names:
            self._names[path] = self._durable_names[path] = _File()
        return self.open(path)
