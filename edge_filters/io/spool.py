"""The durable spool: a few lanes of append-only segment files, a CRC on every record, one writer.

    spool/lock                                holds the process id of the one that has it open
    spool/id                                  16 random bytes: frames of another spool do not count here
    spool/reserve                             room for gap markers where the disk is full
    spool/urgent, gaps, bulk, samples         a lane each, see lane.py; frames.py says how a record lies in it

What `append` returned for survives kill -9, and a power cut as `fsync` says. Where there is no room, records are given
up by the value of their lane, the oldest first, and named in gap markers, which are on the disk before the records are
gone and are sent like records. A crash between the two is finished at the next start: what a waiting marker names is
gone.

Segment files instead of SQLite because this sits on the hot path; tests/bench/bench_spool.py compares them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edge_filters.gaps import Gaps
from edge_filters.io.disk import Disk, OsDisk
from edge_filters.io.frames import OWNER_BYTES, Owner, frame_bytes
from edge_filters.io.lane import NAMES, SUFFIX, Fsync, Lane
from edge_filters.outgoing import Parcel, Priority, pack_gap
from schemas.codec import decode
from schemas.errors import DecodeError, SpoolError
from schemas.failpoints import reach
from schemas.records import GapMarker, GapReason

#: What gap markers and the head of a new segment may take where the disk is full.
RESERVE_BYTES = 128 * 1024
#: Appends after which a lost reserve is sought again.
_TRY_AGAIN = 64
_FULL = (errno.ENOSPC, errno.EDQUOT)
#: Who gives for whom: a lane may take room from those before it here and from itself.
_BY_VALUE = (Priority.SAMPLES, Priority.BULK, Priority.URGENT)


def wall_us() -> int:
    """Microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


class FileSpool:
    """A spool in a folder. Implements ports.Spool. `append` may be called by several threads, which share an fsync."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        fsync: Fsync = "interval",
        fsync_every_s: float = 1.0,
        segment_bytes: int | None = None,
        disk: Disk | None = None,
        clock: Callable[[], int] = wall_us,
    ) -> None:
        """Open or make it.

        Args:
            folder: holds nothing but this spool.
            max_bytes: of all segments together.
            fsync: "always": before `append` returns; "interval": by a thread; "never": the kernel decides.
            fsync_every_s: for "interval".
            segment_bytes: size from which on the next segment is begun; a sixteenth of all, 64 KiB to 4 MiB.
            disk: file operations; the real ones by default.
            clock: for gap markers, microseconds since 1970.

        Raises:
            SpoolError: another process has it open, or the disk failed.
        """
        self._folder, self._max_bytes, self._fsync, self._clock = folder, max_bytes, fsync, clock
        self._disk = disk or OsDisk()
        self._dropped: Counter[bytes] = Counter()
        self._unkept = Gaps()  # given up, but not on the disk as a marker yet
        self._unkept_count = 0
        self._failed: OSError | None = None
        self._reserved, self._appends = False, 0
        self._fold_at = max(64 * 1024, max_bytes // 32)
        self._changed = threading.Condition(threading.Lock())
        self._syncing: set[Priority] = set()
        self._notices: list[str] = []
        self.problem = ""
        self.waiting_by_key: Counter[bytes] = Counter()  # as found at the start
        try:
            with self._disk_errors():
                self._disk.make_folder(folder)
                self._lock = self._disk.lock(folder / "lock")
        except SpoolError as failed:
            if not isinstance(failed.__cause__, BlockingIOError):
                raise
            raise SpoolError(
                "the spool is in use by another process",
                spool=str(folder),
                pid=self._disk.read(folder / "lock", 0, 20).decode(errors="replace").strip(),
                fix="stop that process, or give this one a spool of its own",
            ) from None
        with self._disk_errors():
            if "reserve" in self._disk.names(folder):
                self._spend_reserve()  # a start on a full disk needs a little of it
            self._id = self._identify()
            self._sort_out()
            segment_bytes = segment_bytes or max(64 * 1024, min(4 * 1024 * 1024, max_bytes // 16))
            self._lanes = {
                priority: Lane(self._disk, folder / NAMES[priority], priority, self._id, segment_bytes, fsync)
                for priority in Priority
            }
            self._finish_evictions()
            self._reserve()
        for lane in self._lanes.values():
            lane.remove_done()
            self._notices += lane.notices
            lane.notices.clear()
            if lane.priority is not Priority.GAPS:
                self.waiting_by_key += lane.waiting_by_key
        self._stop = threading.Event()
        self._syncer: threading.Thread | None = None
        if fsync == "interval":
            self._syncer = threading.Thread(target=self._sync_now_and_then, args=(fsync_every_s,), daemon=True)
            self._syncer.start()

    # -- what is found at the start ---------------------------------------------------------------------------------

    def _identify(self) -> bytes:
        """The spool's own 16 bytes; where the file is gone, what the segments agree on."""
        path = self._folder / "id"
        names = self._disk.names(self._folder)
        if "id" in names and len(raw := self._disk.read(path)) == 16:
            return raw
        owners = {owner.spool for _, owner in self._segments(names) if owner is not None}
        if owners:
            self._notices.append(f"{path} was damaged or gone; what the segments say is used")
        own = owners.pop() if len(owners) == 1 else os.urandom(16)
        if "id.new" in names:
            self._disk.remove(self._folder / "id.new")
        handle = self._disk.open(self._folder / "id.new", new=True)
        self._disk.append(handle, own)
        self._disk.sync(handle)
        self._disk.close(handle)
        self._disk.rename(self._folder / "id.new", path)
        self._disk.sync_folder(self._folder)
        return own

    def _segments(self, names: Sequence[str]) -> Iterator[tuple[Path, Owner | None]]:
        for lane in NAMES.values():
            if lane in names:
                for name in self._disk.names(self._folder / lane):
                    if name.endswith(SUFFIX):
                        path = self._folder / lane / name
                        yield path, Owner.of(self._disk.read(path, 0, OWNER_BYTES))

    def _sort_out(self) -> None:
        """Put segments where their first bytes say that they belong; what belongs nowhere is put aside and said."""
        moved: list[tuple[Path, Path]] = []
        for path, owner in self._segments(self._disk.names(self._folder)):
            name = path.name.removesuffix(SUFFIX)
            own = path if owner is None else self._folder / NAMES[owner.lane] / f"{owner.first:020d}{SUFFIX}"
            if (owner is not None and owner.spool != self._id) or not (name.isdecimal() and len(name) == 20):
                self._put_aside(path, "does not belong to this spool")
            elif own != path:
                self._disk.rename(path, path.with_suffix(".moved"))
                moved.append((path.with_suffix(".moved"), own))
        for path, own in moved:
            if own.name in self._disk.names(own.parent):
                self._put_aside(path, f"is a copy of {own}")
            else:
                self._disk.rename(path, own)
                self._notices.append(f"{own} lay in the wrong place and was put back")

    def _put_aside(self, path: Path, why: str) -> None:
        self._disk.rename(path, path.with_suffix(".aside"))
        self._notices.append(f"{path} {why}; it was renamed to {path.with_suffix('.aside').name} and is not sent")

    def _finish_evictions(self) -> None:
        """A marker that waits was written before what it names was gone: where a crash came between, end it now."""
        named = self._named()
        if not named:
            return
        for priority in _BY_VALUE:
            lane = self._lanes[priority]
            for segment in lane.segments:
                waiting = list(lane.waiting_in(segment))
                if not waiting:
                    continue
                if not named.has(waiting[-1]):  # the last one: those before it may have arrived and come back
                    break
                self._forget(lane, waiting, segment.end)
                lane.waiting_by_key -= Counter(parcel.key for parcel in waiting)

    def _named(self) -> Gaps:
        named = Gaps()
        for parcel in self._lanes[Priority.GAPS].waiting():
            with contextlib.suppress(DecodeError):
                named.take(decode(parcel.payload, GapMarker))
        return named

    # -- what is in it --------------------------------------------------------------------------------------------

    @property
    def waiting_records(self) -> int:
        """Records of devices that wait for their acknowledgement."""
        lanes = [lane for lane in self._lanes.values() if lane.priority is not Priority.GAPS]
        return sum(lane.end - lane.acked - lane.lost_from(lane.acked) for lane in lanes)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that these and gap markers take."""
        return sum(lane.waiting_bytes for lane in self._lanes.values())

    @property
    def _used(self) -> int:
        return sum(lane.used for lane in self._lanes.values())

    @property
    def fullness(self) -> float:
        """Share of the allowed bytes that is used."""
        return self._used / self._max_bytes

    def first(self, priority: Priority) -> int:
        """Number of the oldest parcel that is not acknowledged."""
        lane = self._lanes[priority]
        return lane.next(lane.acked)

    def end(self, priority: Priority) -> int:
        """Number that the next parcel will get."""
        return self._lanes[priority].end

    def next(self, priority: Priority, number: int) -> int:
        """The first number from there on that something is kept under."""
        return self._lanes[priority].next(number)

    # -- in -------------------------------------------------------------------------------------------------------

    def append(self, parcels: Sequence[Parcel]) -> dict[Priority, int]:
        """Keep parcels; one write per lane. Those of a lane that is not in the answer found no room: see `problem`.

        Raises SpoolError: the disk failed.
        """
        by_lane: dict[Priority, list[Parcel]] = {}
        for parcel in parcels:
            by_lane.setdefault(parcel.priority, []).append(parcel)
        with self._changed, self._disk_errors():
            self._check()
            starts: dict[Priority, int] = {}
            refused = 0
            for priority in sorted(by_lane):
                start = self._keep(self._lanes[priority], by_lane[priority])
                if start is None:
                    refused += len(by_lane[priority])
                else:
                    starts[priority] = start
            self._appends += 1
            self._tidy(refused)
            ends = {priority: self._lanes[priority].end for priority in starts}
        if self._fsync == "always":
            for priority, end in ends.items():
                self._commit(self._lanes[priority], end)
        return starts

    def _check(self) -> None:
        if self._failed is not None:  # after a failed fsync nobody knows what is on the disk
            raise SpoolError(
                "the disk failed to keep the spool", spool=str(self._folder), cause=str(self._failed)
            ) from self._failed

    def _keep(self, lane: Lane, parcels: list[Parcel]) -> int | None:
        """Number of the first, or None: there is no room, and what was refused will be named."""
        size = sum(map(frame_bytes, parcels))
        if size + (len(Priority) + 1) * OWNER_BYTES > self._max_bytes and len(parcels) > 1:
            half = len(parcels) // 2
            parts = [self._keep(lane, parcels[:half]), self._keep(lane, parcels[half:])]
            return None if None in parts else parts[0]
        if size + (len(Priority) + 1) * OWNER_BYTES > self._max_bytes:
            raise SpoolError(
                "a record is larger than the whole spool",
                bytes=size,
                max_bytes=self._max_bytes,
                fix="raise spool.max_bytes",
            )
        while self._used + size > self._max_bytes:
            if not self._evict_for(lane):
                self._refuse(parcels, GapReason.EVICTED, "it is full of records that are worth more")
                return None
        while True:
            try:
                return self._write(lane, parcels)
            except OSError as failed:
                if failed.errno not in _FULL:
                    raise
                if not self._evict_for(lane):
                    self._refuse(parcels, GapReason.DISK_FULL, str(failed))
                    return None

    def _write(self, lane: Lane, parcels: list[Parcel]) -> int:
        return lane.append(parcels)

    def _refuse(self, parcels: list[Parcel], reason: GapReason, why: str) -> None:
        for parcel in parcels:
            self._unkept.add(parcel, reason)
            self._dropped[parcel.key] += 1
        self._unkept_count += len(parcels)
        self.problem = f"the spool at {self._folder} has no room: {why}; {self._unkept_count} records could not be kept"

    def _tidy(self, refused: int) -> None:
        """Name what found no room, once there is some or now and then, and take the reserve back."""
        if not self._unkept and self._reserved:
            return
        if self._unkept and (not refused or self._appends % _TRY_AGAIN == 0):
            try:
                self._mark(self._unkept)
            except OSError as failed:
                if failed.errno not in _FULL:
                    raise
                return
            self._unkept = Gaps()
            if not refused:
                self._unkept_count, self.problem = 0, ""
        if self._appends % _TRY_AGAIN == 0:
            self._reserve()

    # -- no room ----------------------------------------------------------------------------------------------------

    def _evict_for(self, wanting: Lane) -> bool:
        """Give up the oldest segment of the lane of least value; not one of more value than `wanting`'s."""
        for priority in _BY_VALUE:
            lane = self._lanes[priority]
            if lane.waiting_bytes and self._evict(lane):
                return True
            if priority is wanting.priority:
                return False
        return False

    def _evict(self, lane: Lane) -> bool:
        try:
            if len(lane.segments) == 1:
                self._with_reserve(lane.roll)
            segment = lane.segments[0]
            gone = list(lane.waiting_in(segment))
            gaps = Gaps()
            for parcel in gone:
                gaps.add(parcel, GapReason.EVICTED)
            if gaps:
                self._with_reserve(lambda: self._mark(gaps))
        except OSError as failed:
            if failed.errno not in _FULL:
                raise
            return False  # not even the reserve was enough: nothing may go that is not named
        reach("spool.evict")
        for parcel in gone:
            self._dropped[parcel.key] += 1
        self._forget(lane, gone, segment.end)
        lane.remove_done()
        self._reserve()
        return True

    def _forget(self, lane: Lane, gone: Sequence[Parcel], end: int) -> None:
        lane.waiting_bytes -= sum(map(frame_bytes, gone))
        lane.move(end)
        lane.sync_pointer()  # before the marker can be sent: what it names must not come back

    def _mark(self, gaps: Gaps) -> None:
        """Write markers, all or none after a crash too, and force them to the disk."""
        lane = self._lanes[Priority.GAPS]
        if lane.waiting_bytes > self._fold_at:
            self._fold(lane)
            self._fold_at = max(self._fold_at, 2 * lane.waiting_bytes)
        lane.append([pack_gap(marker) for marker in gaps.markers(self._clock())], together=True)
        if self._fsync != "never":
            lane.sync()

    def _fold(self, lane: Lane) -> None:
        """Many markers into few. What is on its way meanwhile names nothing else, so it may arrive as well."""
        named = self._named()
        end = lane.end
        lane.roll()
        lane.append([pack_gap(marker) for marker in named.markers(self._clock())], together=True)
        if self._fsync != "never":
            lane.sync()
        lane.waiting_bytes = sum(frame_bytes(parcel) for parcel in lane.waiting_in(lane.segments[-1]))
        lane.move(end)
        lane.remove_done()

    def _with_reserve(self, write: Callable[[], None]) -> None:
        """Do it, and where the disk is full again with the room that was kept for it. Raises OSError."""
        try:
            write()
        except OSError as failed:
            if failed.errno not in _FULL or not self._reserved:
                raise
            self._spend_reserve()
            write()

    def _spend_reserve(self) -> None:
        self._reserved = False
        handle = self._disk.open(self._folder / "reserve")
        try:
            self._disk.truncate(handle, 0)
        finally:
            self._disk.close(handle)

    def _reserve(self) -> None:
        """Fill the reserve as far as the disk has room: a little of it is enough for a marker."""
        if self._reserved:
            return
        path = self._folder / "reserve"
        handle = self._disk.open(path, new="reserve" not in self._disk.names(self._folder))
        try:
            size = len(self._disk.read(path))
            if size < RESERVE_BYTES:
                self._disk.append(handle, b"\0" * (RESERVE_BYTES - size))
            self._reserved = True
        except OSError as failed:
            if failed.errno not in _FULL:
                raise
            self._reserved = len(self._disk.read(path)) > 0
        finally:
            self._disk.close(handle)

    def take_dropped(self) -> dict[bytes, int]:
        """Parcels per key that were given up or damaged since the last call; b"" where damage hides whose."""
        dropped, self._dropped = self._dropped, Counter()
        for lane in self._lanes.values():
            if lane.damaged:
                dropped[b""] += lane.damaged
                lane.damaged = 0
        return dropped

    def take_notices(self) -> list[str]:
        """Sentences about what happened to the spool since the last call."""
        notices, self._notices = self._notices, []
        for lane in self._lanes.values():
            notices += lane.notices
            lane.notices.clear()
        return notices

    # -- out ------------------------------------------------------------------------------------------------------

    def read(self, priority: Priority, number: int, max_records: int, max_bytes: int) -> list[Parcel]:
        """Parcels from a number on, out of one segment; none where that number is damaged, and `next` knows better."""
        with self._changed, self._disk_errors():
            return self._lanes[priority].read(number, max_records, max_bytes)

    def ack(self, priority: Priority, parcels: Sequence[Parcel]) -> None:
        """Forget the next so many parcels of a lane."""
        lane = self._lanes[priority]
        with self._changed, self._disk_errors():
            lane.acknowledge(len(parcels), sum(map(frame_bytes, parcels)))
            lane.remove_done()

    # -- to the disk ------------------------------------------------------------------------------------------------

    def _commit(self, lane: Lane, end: int) -> None:
        """Wait until everything below a number is on the disk. Who comes first forces it there for all who wait."""
        while True:
            with self._changed:
                while lane.synced < end and lane.priority in self._syncing:
                    self._changed.wait()
                self._check()
                if lane.synced >= end:
                    return
                self._syncing.add(lane.priority)
                force = lane.begin_sync()
            self._force(lane, force)

    def _force(self, lane: Lane, force: Callable[[], int]) -> None:
        synced, failed = -1, None
        try:
            synced = force()
        except OSError as cause:
            failed = cause
        with self._changed:
            self._syncing.discard(lane.priority)
            self._failed = self._failed or failed
            lane.synced = max(lane.synced, synced)
            self._changed.notify_all()

    def _sync_now_and_then(self, every_s: float) -> None:
        while not self._stop.wait(every_s):
            self._sync()

    def _sync(self) -> None:
        """Force to disk what was written since the last time."""
        for lane in self._lanes.values():
            with self._changed:
                if self._failed is not None or (lane.synced == lane.end and not lane.names_dirty):
                    continue
                force = lane.begin_sync()
            self._force(lane, force)

    def close(self) -> None:
        """Write everything out and let go. Raises SpoolError: the disk failed."""
        self._stop.set()
        if self._syncer is not None:
            self._syncer.join()
        with self._disk_errors():
            try:
                for lane in self._lanes.values():
                    lane.close()
            finally:
                self._disk.close(self._lock)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as cause:
            raise SpoolError(
                "the spool's disk failed",
                spool=str(self._folder),
                cause=str(cause),
                fix="free space or mend the disk, then restart",
            ) from cause
