"""The durable spool: append-only segment files per lane, a CRC on every record, one writer.

    spool/lock
    spool/urgent/acked                        number of the first parcel that is not acknowledged
    spool/urgent/00000000000000000000.seg     frames; the name is the number of the first parcel in it

Frames are described in frames.py. Acknowledged segments are removed whole. A crash can leave a
torn frame at the end of the last segment: it is cut off at the next start, and nothing that `append` returned for is
lost by kill -9 (with fsync "always", by a power cut either). When there is no room, the oldest bulk segment goes, then
the oldest urgent one, and every parcel in it is counted as dropped.

Segment files instead of SQLite because this sits on the hot path: for 16 records of 2 kB an append took 0.05 ms here
against 0.15 ms in SQLite (WAL, synchronous off) in tests/bench/bench_spool.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edge_filters.io.frames import HEAD, MAX_FRAME_BYTES, frame, frame_bytes, frames
from edge_filters.outgoing import Parcel, Priority
from schemas.errors import SpoolError

Fsync = Literal["always", "interval", "never"]

_ACKED = struct.Struct("<QI")
_NAMES = {Priority.URGENT: "urgent", Priority.BULK: "bulk"}


@dataclass(slots=True)
class _Segment:
    path: Path
    first: int
    count: int = 0
    size: int = 0

    @property
    def end(self) -> int:
        return self.first + self.count


@dataclass(slots=True)
class _Cursor:
    """Where a number was found last, so that reading on does not search."""

    number: int = -1
    segment: int = -1
    offset: int = 0


@dataclass(slots=True)
class _Lane:
    priority: Priority
    folder: Path
    segments: list[_Segment] = field(default_factory=list)
    acked: int = 0
    acked_fd: int = -1
    fd: int = -1
    waiting_bytes: int = 0
    cursor: _Cursor = field(default_factory=_Cursor)
    dirty: bool = False
    next_name: int = 0

    @property
    def end(self) -> int:
        return self.segments[-1].end if self.segments else self.acked


class FileSpool:
    """A spool in a folder. Implements ports.Spool."""

    def __init__(self, folder: Path, *, max_bytes: int, fsync: Fsync = "interval", fsync_every_s: float = 1.0) -> None:
        """Open or make it.

        Args:
            folder: holds nothing but this spool.
            max_bytes: of all files together.
            fsync: "always": before `append` returns; "interval": by a thread; "never": the kernel decides.
            fsync_every_s: for "interval".

        Raises:
            SpoolError: another process has it open, or the disk failed.
        """
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = max(64 * 1024, min(4 * 1024 * 1024, max_bytes // 16))
        self._fsync = fsync
        self._dropped: Counter[bytes] = Counter()
        self._used = 0
        self._failed: OSError | None = None
        self._retired: deque[int] = deque()
        self.notices: list[str] = []
        self.waiting_by_key: Counter[bytes] = Counter()  # as found at the start
        with _disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 20, 0).decode(errors="replace").strip()
            os.close(self._lock)
            raise SpoolError(
                "the spool is in use by another process",
                spool=str(folder),
                pid=holder,
                fix="stop that process, or give this one a spool of its own",
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        with _disk(folder):
            self._lanes = {priority: self._open_lane(priority) for priority in Priority}
        self._stop = threading.Event()
        self._syncer: threading.Thread | None = None
        if fsync == "interval":
            self._syncer = threading.Thread(target=self._sync_now_and_then, args=(fsync_every_s,), daemon=True)
            self._syncer.start()

    # -- what is in it --------------------------------------------------------------------------------------------

    @property
    def waiting_records(self) -> int:
        """Parcels that wait for their acknowledgement."""
        return sum(lane.end - lane.acked for lane in self._lanes.values())

    @property
    def waiting_bytes(self) -> int:
        """Bytes that they take."""
        return sum(lane.waiting_bytes for lane in self._lanes.values())

    @property
    def fullness(self) -> float:
        """Share of the allowed bytes that is used."""
        return self._used / self._max_bytes

    def first(self, priority: Priority) -> int:
        """Number of the oldest parcel that is not acknowledged."""
        return self._lanes[priority].acked

    def end(self, priority: Priority) -> int:
        """Number that the next parcel will get."""
        return self._lanes[priority].end

    # -- in -------------------------------------------------------------------------------------------------------

    def append(self, parcels: Sequence[Parcel]) -> dict[Priority, int]:
        """Keep parcels; one write per lane. Raises SpoolError: disk failed, or no room at all."""
        if self._failed is not None:  # after a failed fsync nobody knows what is on the disk
            raise SpoolError("the disk failed to keep the spool", spool=str(self._folder), cause=str(self._failed))
        starts: dict[Priority, int] = {}
        by_lane: dict[Priority, list[bytes]] = {}
        for parcel in parcels:
            by_lane.setdefault(parcel.priority, []).append(frame(parcel))
        for priority, framed in by_lane.items():
            lane = self._lanes[priority]
            data = b"".join(framed)
            starts[priority] = lane.end
            with _disk(self._folder):
                if not lane.segments or lane.segments[-1].size >= self._segment_bytes:
                    self._new_segment(lane)
                self._make_room(len(data))
                segment = lane.segments[-1]
                self._write(lane, segment, data)
            segment.count += len(framed)
            lane.next_name = max(lane.next_name + len(framed), lane.end)
            segment.size += len(data)
            lane.waiting_bytes += len(data)
            self._used += len(data)
        return starts

    def _write(self, lane: _Lane, segment: _Segment, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(lane.fd, view) :]
            if self._fsync == "always":
                os.fsync(lane.fd)
        except OSError:
            with contextlib.suppress(OSError):  # so that the next append does not follow half a frame
                os.ftruncate(lane.fd, segment.size)
            raise
        lane.dirty = True

    def _new_segment(self, lane: _Lane) -> None:
        if lane.fd >= 0:
            self._retire(lane.fd)
        path = lane.folder / f"{max(lane.end, lane.next_name):020d}.seg"
        lane.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        lane.segments.append(_Segment(path, lane.end))
        if self._fsync == "always":
            _sync_folder(lane.folder)
        self._remove_acked(lane)

    def _retire(self, fd: int) -> None:
        """A segment is full: with "interval" the thread forces it to disk and closes it, so that nobody waits."""
        if self._fsync == "interval":
            self._retired.append(fd)
        else:
            os.close(fd)

    def _make_room(self, needed: int) -> None:
        for lane in (self._lanes[Priority.BULK], self._lanes[Priority.URGENT]):
            while self._used + needed > self._max_bytes and lane.segments:
                if len(lane.segments) == 1:
                    if not lane.segments[0].size:
                        break
                    self._new_segment(lane)
                    if len(lane.segments) == 1:
                        continue
                self._evict(lane)
        if self._used + needed > self._max_bytes:
            raise SpoolError(
                "a record is larger than the whole spool",
                bytes=needed,
                max_bytes=self._max_bytes,
                fix="raise spool.max_bytes",
            )

    def _evict(self, lane: _Lane) -> None:
        segment = lane.segments[0]
        at = segment.first
        for found in frames(segment.path.read_bytes(), lane.priority):
            if at >= lane.acked:
                self._dropped[found.parcel.key] += 1
                lane.waiting_bytes -= frame_bytes(found.parcel)
            at += 1
        lane.acked = max(lane.acked, segment.end)
        self._remove_acked(lane)

    def take_dropped(self) -> dict[bytes, int]:
        """Parcels per key that were thrown out or damaged since the last call."""
        dropped, self._dropped = self._dropped, Counter()
        return dropped

    def take_notices(self) -> list[str]:
        """Sentences about what happened to the spool since the last call."""
        notices, self.notices = self.notices, []
        return notices

    # -- out ------------------------------------------------------------------------------------------------------

    def read(self, priority: Priority, number: int, max_records: int, max_bytes: int) -> list[Parcel]:
        """Parcels from a number on, out of one segment; at least one where there is one."""
        lane = self._lanes[priority]
        segment = next((s for s in lane.segments if s.first <= number < s.end), None)
        if segment is None:
            return []
        cursor = lane.cursor
        if cursor.number != number or cursor.segment != segment.first:
            skipped = list(zip(range(segment.first, number), frames(segment.path.read_bytes(), priority), strict=False))
            cursor = _Cursor(number, segment.first, skipped[-1][1].end if skipped else 0)
        with _disk(self._folder), segment.path.open("rb") as file:
            file.seek(cursor.offset)
            data = file.read(max_bytes)
            parcels: list[Parcel] = []
            end = 0
            for found in frames(data, priority):
                parcels.append(found.parcel)
                end = found.end
                if len(parcels) == max_records:
                    break
            if not parcels:  # the next one alone is larger
                file.seek(cursor.offset)
                for found in frames(file.read(MAX_FRAME_BYTES + HEAD), priority):
                    parcels, end = [found.parcel], found.end
                    break
        lane.cursor = _Cursor(number + len(parcels), segment.first, cursor.offset + end)
        return parcels

    def ack(self, priority: Priority, parcels: Sequence[Parcel]) -> None:
        """Forget the next so many parcels of a lane."""
        lane = self._lanes[priority]
        lane.acked += len(parcels)
        lane.waiting_bytes -= sum(map(frame_bytes, parcels))
        with _disk(self._folder):
            self._keep_acked(lane)
            if lane.segments and lane.segments[0].end <= lane.acked and len(lane.segments) > 1:
                self._remove_acked(lane)

    def _keep_acked(self, lane: _Lane) -> None:
        # not synced: after a power cut some parcels go out twice, which their identity takes care of
        number = struct.pack("<Q", lane.acked)
        os.pwrite(lane.acked_fd, number + struct.pack("<I", zlib.crc32(number)), 0)

    def _remove_acked(self, lane: _Lane) -> None:
        while len(lane.segments) > 1 and lane.segments[0].end <= lane.acked:
            segment = lane.segments.pop(0)
            segment.path.unlink(missing_ok=True)
            self._used -= segment.size
        self._keep_acked(lane)

    # -- life -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Write everything out and let go."""
        self._stop.set()
        if self._syncer is not None:
            self._syncer.join()
            self._sync()
        for lane in self._lanes.values():
            if lane.fd >= 0:
                if self._fsync != "never":
                    with _disk(self._folder):
                        os.fsync(lane.fd)
                os.close(lane.fd)
                lane.fd = -1
            os.close(lane.acked_fd)
        os.close(self._lock)

    def _sync_now_and_then(self, every_s: float) -> None:
        while not self._stop.wait(every_s):
            self._sync()

    def _sync(self) -> None:
        """Force to disk what was written since the last time."""
        fds = [self._retired.popleft() for _ in range(len(self._retired))]
        for lane in self._lanes.values():
            if lane.dirty and lane.fd >= 0:
                lane.dirty = False
                with contextlib.suppress(OSError):  # closed by the other thread just now: then it is among the retired
                    fds.append(os.dup(lane.fd))
                    fds.append(os.open(lane.folder, os.O_RDONLY))
        for fd in fds:
            try:
                os.fsync(fd)
            except OSError as failed:
                self._failed = failed
            finally:
                os.close(fd)

    def _open_lane(self, priority: Priority) -> _Lane:
        lane = _Lane(priority, self._folder / _NAMES[priority])
        lane.folder.mkdir(exist_ok=True)
        lane.acked_fd = os.open(lane.folder / "acked", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        raw = os.pread(lane.acked_fd, _ACKED.size, 0)
        if len(raw) == _ACKED.size and zlib.crc32(raw[:8]) == _ACKED.unpack(raw)[1]:
            lane.acked = _ACKED.unpack(raw)[0]
        paths = sorted(lane.folder.glob("*.seg"))
        for at, path in enumerate(paths):
            self._open_segment(lane, path, last=at == len(paths) - 1)
        if lane.segments:
            lane.acked = min(max(lane.acked, lane.segments[0].first), lane.end)
            lane.fd = os.open(lane.segments[-1].path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            self._remove_acked(lane)
        return lane

    def _open_segment(self, lane: _Lane, path: Path, *, last: bool) -> None:
        named = int(path.stem)
        if lane.segments and named > lane.next_name:  # the segment before lost its tail
            self._dropped[b""] += named - lane.next_name
        data = path.read_bytes()
        # Numbers follow each other without holes even behind damage, so they may be lower than the names say. That
        # errs on the safe side: after one more restart something that has arrived may go out again.
        segment = _Segment(path, lane.end if lane.segments else named)
        for found in frames(data, lane.priority):
            if segment.end >= lane.acked:
                lane.waiting_bytes += frame_bytes(found.parcel)
                self.waiting_by_key[found.parcel.key] += 1
            segment.count += 1
            segment.size = found.end
        if segment.size < len(data):
            what = "a torn record at the end of" if last else "damage in"
            self.notices.append(f"{what} {path} was cut off: {len(data) - segment.size} bytes")
            with path.open("r+b") as file:
                file.truncate(segment.size)
                os.fsync(file.fileno())
        self._used += segment.size
        lane.segments.append(segment)
        lane.next_name = named + segment.count


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        raise SpoolError(
            "the spool's disk failed",
            spool=str(folder),
            cause=str(cause),
            fix="free space or mend the disk, then restart",
        ) from cause
