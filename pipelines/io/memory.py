"""What the dedupe knows, kept over a restart: of each device the last record that was answered, in a compacted topic.

A source that starts again reads a partition from where it stands, and would know nothing of a device whose last record
lies further back. So it writes, every few seconds and for each partition, the last identity of every device below an
offset that is safe to start from, and that offset. A start takes the newest such page, learns the devices, and reads
again only what lies between the page's offset and its own. What the page says of offsets that the start has yet to
read is left out: those records come again and are not resends.
"""

from __future__ import annotations

import contextlib
import logging
import struct
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.dedupe import Dedupe, Last
from pipelines.io.partition import Partition
from pipelines.io.transport import LogReader
from schemas.codec import decode, encode
from schemas.errors import DecodeError
from schemas.records import SeenPage

log = logging.getLogger(__name__)

#: How often pages are written, and bytes per second that they may take: with very many devices they come less often.
EVERY_S, BYTES_PER_S = 5.0, 200_000
#: Devices on one page; a partition has as many pages as it takes.
PER_PAGE = 5_000
#: How long a start looks for pages before it goes on without.
LOAD_S = 20.0
_ENTRY = struct.Struct("<qqqIH")  # boot_epoch, seq, offset, CRC-32 of the payload, bytes of the device's name


@dataclass(frozen=True, slots=True)
class Remembered:
    """What earlier runs knew of one partition when everything below `as_of` was answered."""

    as_of: int
    devices: dict[str, Last] = field(default_factory=dict)


def pages(group: str, partition: Partition, as_of: int, devices: Mapping[str, Last]) -> list[SeenPage]:
    """A partition's devices on as many pages as it takes; a device is always on the page of its name's hash."""
    count = max(1, -(-len(devices) // PER_PAGE))
    parts: list[list[bytes]] = [[] for _ in range(count)]
    for device, (epoch, seq, offset, crc) in devices.items():
        name = device.encode()
        parts[zlib.crc32(name) % count] += [_ENTRY.pack(epoch, seq, offset, crc, len(name)), name]
    return [
        SeenPage(
            group=group,
            source=partition.topic,
            partition=partition.number,
            page=number,
            pages=count,
            as_of=as_of,
            devices=b"".join(part),
        )
        for number, part in enumerate(parts)
    ]


def key_of(page: SeenPage) -> bytes:
    """Key of a page: a newer one of the same number takes its place."""
    return f"{page.group}/{page.source}/{page.partition}/{page.page}".encode()


def entries(page: SeenPage) -> Iterator[tuple[str, Last]]:
    """The devices of a page. Raises DecodeError: it is damaged."""
    data, at = page.devices, 0
    while at < len(data):
        if at + _ENTRY.size > len(data):
            raise DecodeError("a page of seen devices is cut short", source=page.source, at=at)
        epoch, seq, offset, crc, size = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        name = data[at : at + size]
        at += size
        if at > len(data):
            raise DecodeError("a page of seen devices is cut short", source=page.source, at=at)
        try:
            yield name.decode(), Last(epoch, seq, offset, crc)
        except UnicodeDecodeError as cause:
            raise DecodeError("a page of seen devices names one that is not UTF-8", source=page.source) from cause


def gathered(found: Iterable[SeenPage]) -> dict[Partition, Remembered]:
    """Pages, in the order of the log, as what they say together. Raises DecodeError: one is damaged."""
    newest: dict[tuple[Partition, int], SeenPage] = {}
    count: dict[Partition, int] = {}
    for page in found:
        partition = Partition(page.source, page.partition)
        newest[partition, page.page] = page
        count[partition] = page.pages
    by_partition: dict[Partition, list[SeenPage]] = defaultdict(list)
    for (partition, number), page in newest.items():
        if number < count[partition]:  # when there are fewer pages than before, the last ones stay behind
            by_partition[partition].append(page)
    out = {}
    for partition, together in by_partition.items():
        if len(together) < count[partition]:
            continue
        devices: dict[str, Last] = {}
        for page in together:
            for device, last in entries(page):
                devices[device] = max(last, devices.get(device, last))
        out[partition] = Remembered(min(page.as_of for page in together), devices)
    return out


def load(reader: LogReader, topic: str, group: str) -> dict[Partition, Remembered]:
    """What the topic says of this group; nothing where it is not there, damaged, or does not end within LOAD_S.

    Raises LogAway: the broker is away.
    """
    places = [Partition(topic, number) for number in reader.partitions(topic)]
    if not places:
        return {}
    began_s = time.monotonic()
    prefix = f"{group}/".encode()
    latest: dict[bytes, bytes] = {}
    first, ends = reader.first(places), reader.ends(places)
    reader.assign(first)
    open_places = {place for place in places if first[place] < ends[place]}
    while open_places:
        if time.monotonic() - began_s > LOAD_S:
            log.warning("what earlier runs knew of devices is not used: reading %s took too long", topic)
            return {}
        for _, records, _ in reader.read(0.05, 1_000):
            for record in records:
                if record.key is not None and record.key.startswith(prefix):
                    latest.pop(record.key, None)  # so that the order is that of the newest ones
                    if record.value is not None:
                        latest[record.key] = record.value
        open_places = {place for place in open_places if (reader.position(place) or 0) < ends[place]}
    try:
        out = gathered(decode(value, SeenPage) for value in latest.values())
    except DecodeError as error:
        log.warning("what earlier runs knew of devices is not used: %s", error)
        return {}
    devices = sum(len(one.devices) for one in out.values())
    log.info("%d devices of %d partitions are known, read in %.2f s", devices, len(out), time.monotonic() - began_s)
    return out


class Keeper:
    """Writes pages: makes them in the source's thread when it is time, and sends them in one of its own."""

    def __init__(
        self, group: str, topic: str, open_producer: Callable[[], Any], clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        """`open_producer`: a kafka-python producer; may raise while the broker is away."""
        self._group, self._topic, self._open, self._clock_s = group, topic, open_producer, clock_s
        self._kept: dict[Partition, dict[str, Last]] = defaultdict(dict)
        self._changed: dict[Partition, set[str]] = defaultdict(set)
        self._safe: dict[Partition, int] = {}
        self._due_s = clock_s() + EVERY_S
        self._waiting: dict[bytes, bytes] = {}
        self._wake = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def knew(self, partition: Partition, devices: Mapping[str, Last]) -> None:
        """What an earlier run knew, which goes on new pages too."""
        self._kept[partition].update(devices)

    def saw(self, partition: Partition, devices: Collection[str]) -> None:
        """Devices that have sent something new."""
        self._changed[partition].update(devices)

    def turn(self, dedupe: Dedupe, safe: Callable[[], Mapping[Partition, int]]) -> None:
        """When it is time, make the pages of every partition that has moved on.

        `safe`: below which offset of each partition everything is answered. What was safe at the turn before is what
        is written now: its commit has long been made.
        """
        if self._clock_s() < self._due_s:
            return
        written = 0
        before, self._safe = self._safe, dict(safe())
        for partition, as_of in before.items():
            kept, again = self._kept[partition], set()
            for device in self._changed[partition]:
                last = dedupe.last_below(partition.topic, device, as_of)
                if last is not None:
                    kept[device] = max(last, kept.get(device, last))
                newest = dedupe.last_below(partition.topic, device, 2**63 - 1)
                if last != newest:
                    again.add(device)
            self._changed[partition] = again
            for page in pages(self._group, partition, as_of, kept):
                payload = encode(page)
                written += len(payload)
                with self._wake:
                    self._waiting[key_of(page)] = payload
        if written:
            self._start()
            with self._wake:
                self._wake.notify_all()
        self._due_s = self._clock_s() + max(EVERY_S, written / BYTES_PER_S)

    def close(self) -> None:
        """End the thread; what it has not sent is of no use to anybody."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"remember-{self._group}", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        producer = None
        said = False
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    break
                taken, self._waiting = self._waiting, {}
            try:
                producer = producer or self._open()
                sent = [producer.send(self._topic, value=value, key=key) for key, value in taken.items()]
                for future in sent:
                    future.get(timeout=10)
                said = False
            except Exception as failed:  # a page that is missing costs a longer start, and the next one is on its way
                if not said:
                    log.warning(
                        "what the dedupe knows cannot be kept, trying on: %s: %s", type(failed).__name__, failed
                    )
                said = True
                with contextlib.suppress(Exception):
                    if producer is not None:
                        producer.close(timeout=0)
                producer = None
        if producer is not None:
            producer.close(timeout=1)
