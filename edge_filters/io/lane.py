"""One lane of the spool: segment files in order, the pointer to what is acknowledged, and what a crash left of both.

    urgent/acked                        two slots, written by turns: the number below which all is acknowledged
    urgent/00000000000000000000.seg     where it belongs, then frames; its name is the number of its first parcel

Order of the steps that must not be swapped: a segment's name is on the disk before anything in it is promised; the
pointer is on the disk before a segment below it is removed. So whatever part of that a crash leaves, what is read is
what was written, in order, and a hole means damage.
"""

from __future__ import annotations

import bisect
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_filters.io.disk import Disk
from edge_filters.io.frames import (
    HEAD,
    MAX_FRAME_BYTES,
    OWNER_BYTES,
    SLOT_APART,
    Found,
    Owner,
    frame,
    frame_bytes,
    frames,
    read_slots,
    slot,
)
from edge_filters.outgoing import Parcel, Priority
from schemas.failpoints import reach

NAMES = {Priority.URGENT: "urgent", Priority.GAPS: "gaps", Priority.BULK: "bulk", Priority.SAMPLES: "samples"}
SUFFIX = ".seg"
#: Acknowledged parcels after which the pointer is forced to the disk. What it lags behind is sent again after a power
#: cut, and has to be well within what the pipeline remembers of a device.
POINTER_EVERY = 256

Fsync = Literal["always", "interval", "never"]


@dataclass(slots=True)
class Segment:
    """A file, the numbers it holds (`end` excluded), and its bytes."""

    path: Path
    first: int
    end: int
    size: int


@dataclass(slots=True)
class _Cursor:
    """Where a number was found last, so that reading on does not search."""

    number: int = -1
    segment: int = -1
    offset: int = 0


class Lane:
    """Not safe for several threads: FileSpool holds a lock around it."""

    def __init__(
        self, disk: Disk, folder: Path, priority: Priority, spool: bytes, segment_bytes: int, fsync: Fsync
    ) -> None:
        """Open or make it. Raises OSError.

        Args:
            disk: what the file operations go to.
            folder: of this lane alone.
            priority: which lane it is.
            spool: 16 random bytes that name the spool.
            segment_bytes: size from which on the next segment is begun.
            fsync: when a full segment is forced to the disk, and whether a pointer is before what it passes is removed.
        """
        self.priority = priority
        self.folder = folder
        self.segments: list[Segment] = []
        self.holes: list[tuple[int, int]] = []  # numbers that nothing was found of, end excluded, in order
        self.notices: list[str] = []
        self.waiting_by_key: Counter[bytes] = Counter()  # as found at the start
        self.waiting_bytes = 0
        self.acked = self.end = 0  # below the one all is done with; the other is the next number
        self.handle = -1
        self.synced = 0  # below it everything is on the disk
        self.names_dirty = False
        self._retired: dict[Path, int] = {}  # handles of full segments that are to be forced to the disk
        self._disk = disk
        self._tail = (OWNER_BYTES, 0)  # offset behind the last whole frame of the last segment, and the next number
        self._spool = spool
        self._seed = Owner(spool, priority, 0).seed()
        self._segment_bytes = segment_bytes
        self._fsync = fsync
        self._cursor = _Cursor()
        disk.make_folder(folder)
        self._open_pointer()
        for name in disk.names(folder):
            if name.endswith(SUFFIX):
                self._open_segment(folder / name)
        if self.segments:
            self.acked = max(self.acked, self.segments[0].first)
            found = self._end_cleanly(self.segments[-1])
            begin = max(found, self.acked, *(end for _, end in self.holes))
            if self.end > begin:  # what was put aside came after it
                self.holes.append((begin, self.end))
            self.end = max(self.end, self.acked, found)
        else:
            self.acked = self.end
        self.synced = self.end
        self._forced = self.acked
        self.damaged = sum(end - max(first, self.acked) for first, end in self.holes if end > self.acked)
        self.used = sum(segment.size for segment in self.segments)

    # -- what a crash left ----------------------------------------------------------------------------------------

    def _open_pointer(self) -> None:
        path = self.folder / "acked"
        if "acked" not in self._disk.names(self.folder):
            self._pointer = self._disk.open(path, new=True)
            self._disk.write_at(self._pointer, 0, slot(0, 0, self._seed))
            self._disk.write_at(self._pointer, SLOT_APART, slot(1, 0, self._seed))
            self._disk.sync(self._pointer)
            self._disk.sync_folder(self.folder)
        else:
            self._pointer = self._disk.open(path)
            if self._fsync != "never":  # what is read now is what a power cut has to leave
                self._disk.sync(self._pointer)
        self._turn, self.acked, newest = read_slots(self._disk.read(path), self._seed)
        self._side, self._moved = 1 - newest, False
        self.end = self.acked

    def _open_segment(self, path: Path) -> None:
        data = self._disk.read(path)
        named = int(path.name.removesuffix(SUFFIX))
        expected = max(named, self.segments[-1].end if self.segments else 0)
        if self.segments and expected > self.segments[-1].end:
            self.holes.append((self.segments[-1].end, expected))
        segment = Segment(path, expected, expected, len(data))
        whole = OWNER_BYTES
        group: list[Found] = []
        for found in frames(data, self.priority, self._seed, expected, OWNER_BYTES):
            if found.number > segment.end:
                self.holes.append((segment.end, found.number))
                self.notices.append(f"damage in {path}: numbers {segment.end} to {found.number - 1} are lost")
            segment.end, whole = found.number + 1, found.end
            group.append(found)
            if not found.more:
                group.clear()
            if found.number >= self.acked:
                self.waiting_bytes += frame_bytes(found.parcel)
                self.waiting_by_key[found.parcel.key] += 1
        if whole == OWNER_BYTES < len(data) and Owner.of(data) is None:
            self._put_aside(path, len(data))
            return
        self._tail = (group[0].begin, group[0].number) if group else (whole, segment.end)
        for found in group:
            if found.number >= self.acked:
                self.waiting_bytes -= frame_bytes(found.parcel)
                self.waiting_by_key[found.parcel.key] -= 1
        self.segments.append(segment)

    def _put_aside(self, path: Path, size: int) -> None:
        """Neither its first bytes nor any frame is ours: an older format, or rubbish. Nothing of it is thrown away."""
        aside = path.with_suffix(".aside")
        self._disk.rename(path, aside)
        self.notices.append(f"nothing in {path} ({size} bytes) can be read; it was renamed to {aside.name}")
        named = int(path.name.removesuffix(SUFFIX))
        self.end = max(self.end, named + 1)
        if self.holes and self.holes[-1][1] == named:  # the next segment says how far it goes
            self.holes.pop()

    def _end_cleanly(self, segment: Segment) -> int:
        """Cut off the last segment behind its last whole frame; returns the number that follows it."""
        offset, number = self._tail
        if segment.size < OWNER_BYTES:  # made just before the crash
            self._disk.remove(segment.path)
            self.segments.pop()
            return number
        self.handle = self._disk.open(segment.path)
        if segment.size > offset:
            cut = segment.size - offset
            self.notices.append(f"a torn record at the end of {segment.path} was cut off: {cut} bytes")
            self._disk.truncate(self.handle, offset)
            self._disk.sync(self.handle)
        segment.size, segment.end = offset, number
        return number

    # -- in -------------------------------------------------------------------------------------------------------

    def append(self, parcels: Sequence[Parcel], *, together: bool = False) -> int:
        """Write parcels, all or none; returns the number of the first.

        Args:
            parcels: of this lane.
            together: after a crash, too, all or none of them.

        Raises:
            OSError: nothing of these was kept.
        """
        if self.handle < 0 or self.segments[-1].size >= self._segment_bytes or self.segments[-1].end != self.end:
            self.roll()
        segment = self.segments[-1]
        last = len(parcels) - 1
        start = self.end
        data = b"".join(
            frame(parcel, start + n, self._seed, more=together and n < last) for n, parcel in enumerate(parcels)
        )
        try:
            self._disk.append(self.handle, data)
        except OSError:
            with contextlib.suppress(OSError):  # so that the next append does not follow half a frame
                self._disk.truncate(self.handle, segment.size)
                if self._fsync != "never":  # or a power cut brings back what is about to be named as given up
                    self._disk.sync(self.handle)
            raise
        reach("spool.append.written")
        segment.size += len(data)
        segment.end += len(parcels)
        self.end = segment.end
        self.waiting_bytes += len(data)
        self.used += len(data)
        return start

    def roll(self) -> None:
        """Begin a segment. Raises OSError: there is none more than before."""
        path = self.folder / f"{self.end:020d}{SUFFIX}"
        if self.segments and self.segments[-1].path == path:  # nothing but its head is in it
            if self.handle >= 0:
                return
            self.segments.pop()
        if self._fsync == "always":
            self.sync()
        handle = self._make(path)
        reach("spool.roll")
        self.names_dirty = True
        if self._fsync == "always":
            self._sync_names()
        if self.handle >= 0:
            if self._fsync == "never":
                self._disk.close(self.handle)
            else:
                self._retired[self.segments[-1].path] = self.handle
        self.handle = handle
        self.segments.append(Segment(path, self.end, self.end, OWNER_BYTES))
        self.used += OWNER_BYTES

    def _make(self, path: Path) -> int:
        try:
            handle = self._disk.open(path, new=True)
        except FileExistsError:  # what a roll without room left behind
            handle = self._disk.open(path)
            self._disk.truncate(handle, 0)
        try:
            self._disk.append(handle, Owner(self._spool, self.priority, self.end).packed())
        except OSError:
            self._disk.close(handle)
            with contextlib.suppress(OSError):
                self._disk.remove(path)
            raise
        return handle

    def sync(self) -> None:
        """Force what was appended to the disk. Raises OSError: nobody knows what is there."""
        end = self.end
        for handle in (*self._retired.values(), self.handle):
            if handle >= 0:
                self._disk.sync(handle)
        reach("spool.fsync")
        self._sync_names()
        self.synced = max(self.synced, end)

    def _sync_names(self) -> None:
        if self.names_dirty:
            self._disk.sync_folder(self.folder)
            self.names_dirty = False
            reach("spool.dirsync")

    def begin_sync(self) -> Callable[[], int]:
        """What `sync` does as a function for another thread, one at a time, that needs no lock around it.

        It returns the number for `synced`, below which everything is on the disk then. Raises OSError as `sync`.
        """
        retired, self._retired = list(self._retired.values()), {}
        handle, end, names_dirty = self.handle, self.end, self.names_dirty
        self.names_dirty = False

        def force() -> int:
            try:
                for one in (*retired, handle):
                    if one >= 0:
                        self._disk.sync(one)
                reach("spool.fsync")
                if names_dirty:
                    self._disk.sync_folder(self.folder)
                    reach("spool.dirsync")
            finally:
                for one in retired:
                    self._disk.close(one)
            return end

        return force

    # -- out ------------------------------------------------------------------------------------------------------

    def lost_from(self, number: int) -> int:
        """How many numbers from there on nothing was found of."""
        return sum(end - max(first, number) for first, end in self.holes if end > number)

    def next(self, number: int) -> int:
        """The first number from there on that something is kept under."""
        for first, end in self.holes:
            if first <= number < end:
                number = end
        return number

    def read(self, number: int, max_records: int, max_bytes: int) -> list[Parcel]:
        """Parcels from a number on, without a hole between them, out of one segment."""
        at = bisect.bisect_right(self.segments, number, key=lambda segment: segment.first) - 1
        if at < 0 or number >= self.segments[at].end:
            return []
        segment = self.segments[at]
        offset = self._offset(segment, number)
        parcels: list[Parcel] = []
        end = offset
        for size in (max_bytes, MAX_FRAME_BYTES + HEAD):  # the next one alone may be larger than asked for
            data = self._disk.read(segment.path, offset, size)
            for found in frames(data, self.priority, self._seed, number, search=False):
                if found.number != number + len(parcels):
                    break
                parcels.append(found.parcel)
                end = offset + found.end
                if len(parcels) == max_records:
                    break
            if parcels:
                break
        if parcels:
            self._cursor = _Cursor(number + len(parcels), segment.first, end)
        else:
            self._note_damage(segment, number)
        return parcels

    def _offset(self, segment: Segment, number: int) -> int:
        cursor = self._cursor
        if cursor.number == number and cursor.segment == segment.first:
            return cursor.offset
        return next((found.begin for found in self._found(segment) if found.number >= number), segment.size)

    def _found(self, segment: Segment) -> Iterator[Found]:
        return frames(self._disk.read(segment.path), self.priority, self._seed, segment.first, OWNER_BYTES)

    def _note_damage(self, segment: Segment, number: int) -> None:
        """What was whole at the start is no more: go on behind it."""
        whole = next((found.number for found in self._found(segment) if found.number >= number), segment.end)
        whole = max(whole, number + 1)
        self.holes = sorted([*self.holes, (number, whole)])
        self.damaged += whole - number
        self.notices.append(f"damage in {segment.path}: numbers {number} to {whole - 1} are lost")

    def waiting(self) -> Iterator[Parcel]:
        """Every parcel that is not acknowledged, in order."""
        for segment in self.segments:
            yield from self.waiting_in(segment)

    def waiting_in(self, segment: Segment) -> Iterator[Parcel]:
        """Those of one segment."""
        if segment.end > self.acked:
            for found in self._found(segment):
                if segment.end > found.number >= self.acked:
                    yield found.parcel

    def acknowledge(self, count: int, size: int) -> None:
        """The next so many parcels, of so many bytes, are done with."""
        number = self.acked
        while count:
            number = self.next(number)
            run = min([count, *(first - number for first, _ in self.holes if first > number)])
            number += run
            count -= run
        self.waiting_bytes -= size
        self.move(number)
        if self.acked - self._forced >= POINTER_EVERY:
            self.sync_pointer()

    def move(self, acked: int) -> None:
        """Everything below a number is done with: write the pointer. Raises OSError.

        Always into the slot that was not forced last: a power cut may tear what it finds unforced, and one whole slot
        has to be left.
        """
        self.acked = max(self.acked, acked)
        self._turn += 1
        self._moved = True
        self._disk.write_at(self._pointer, self._side * SLOT_APART, slot(self._turn, self.acked, self._seed))
        reach("spool.pointer")

    def sync_pointer(self) -> None:
        """Force the pointer to the disk, where anything is. Raises OSError."""
        if self._fsync != "never":
            self._disk.sync(self._pointer)
            if self._moved:
                self._side, self._moved = 1 - self._side, False
        self._forced = self.acked

    def _has_done(self) -> bool:
        return len(self.segments) > 1 and self.segments[0].end <= self.acked

    def remove_done(self) -> None:
        """Remove segments that are done with, all but the last; the pointer is forced to the disk before. OSError."""
        if not self._has_done():
            return
        self.sync_pointer()
        while self._has_done():
            segment = self.segments.pop(0)
            self._disk.remove(segment.path)
            reach("spool.unlink")
            if (handle := self._retired.pop(segment.path, -1)) >= 0:  # as long as it is open it takes room
                self._disk.close(handle)
            self.used -= segment.size
        self.acked = max(self.acked, self.segments[0].first)  # past a hole that lay before it
        self.holes = [hole for hole in self.holes if hole[1] > self.segments[0].first]

    def close(self) -> None:
        """Write everything out and let go. Raises OSError."""
        try:
            if self._fsync != "never":
                self.sync()
        finally:
            for handle in (*self._retired.values(), self.handle, self._pointer):
                if handle >= 0:
                    self._disk.close(handle)
            self._retired.clear()
            self.handle = self._pointer = -1
