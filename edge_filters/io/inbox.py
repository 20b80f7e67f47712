"""Feedback from a log: its topics from their beginning, latest per key, then whatever comes. No call blocks.

Reading happens in a thread of its own, over whichever client or double stands behind `FeedbackLog`.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, Protocol

from edge_filters.outgoing import KNOCK
from edge_filters.ports import Feedback
from schemas import topics
from schemas.codec import decode
from schemas.errors import DecodeError
from schemas.topics import Topic

_HEARD = (topics.THRESHOLDS, topics.MODELS)
_RETRY_S = (0.2, 0.5, 1.0, 2.0)
POLL_S, MAX_POLL = 0.1, 50


class Place(NamedTuple):
    """A topic-partition."""

    topic: str
    number: int


class Message(Protocol):
    """One record as it lies in the log."""

    @property
    def offset(self) -> int:
        """Its offset."""
        ...

    @property
    def key(self) -> bytes | None:
        """Its key."""
        ...

    @property
    def value(self) -> bytes | None:
        """Its payload; None for a tombstone."""
        ...


class FeedbackLog(Protocol):
    """What the inbox reads. Used by one thread; calls may block for some seconds and raise when the log is away."""

    def partitions(self, topic: str) -> Sequence[int]:
        """Partitions of a topic; none where there is no such topic."""
        ...

    def assign(self, offsets: dict[Place, int]) -> None:
        """Read these and no others, each from its offset."""
        ...

    def first(self, places: Iterable[Place]) -> dict[Place, int]:
        """Offset of the oldest record of each that is still there."""
        ...

    def ends(self, places: Iterable[Place]) -> dict[Place, int]:
        """Offset that the next record of each will get."""
        ...

    def seek(self, place: Place, offset: int) -> None:
        """Go on reading there, also where it was paused."""
        ...

    def pause(self, place: Place) -> None:
        """Read nothing of it."""
        ...

    def resume(self, place: Place) -> None:
        """Read it again."""
        ...

    def position(self, place: Place) -> int | None:
        """Offset that is read next; None where that is not known yet."""
        ...

    def read(self, timeout_s: float, max_records: int) -> Iterable[tuple[Place, Sequence[Message]]]:
        """What has come, in the order of each partition; waits `timeout_s` for something."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class LogInbox:
    """Implements ports.Inbox over a FeedbackLog."""

    def __init__(
        self,
        open_log: Callable[[], FeedbackLog],
        servers: str,
        topic_prefix: str = "",
        devices: Collection[str] = (),
    ) -> None:
        """`open_log` may raise: the broker is not there yet. `servers` is for sentences.

        Claims on `devices` are heard.
        """
        own = [device.encode() for device in devices]
        self._claimed = frozenset([*own, *(KNOCK + device for device in own)])
        self._claims = False
        self._open = open_log
        self._servers = servers
        self._prefix = topic_prefix
        self.problem = ""
        self._queue: queue.Queue[Feedback | str] = queue.Queue(maxsize=64)
        self._chunks = threading.Semaphore(8)  # of half a MiB each: what the queue may hold of a file
        self._wanted: frozenset[bytes] = frozenset()
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-inbox", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether the feedback that was there at the start has been queued."""
        return self._ready.is_set()

    @property
    def hears_claims(self) -> bool:
        """Whether the broker has a topic for claims, and somebody's are wanted."""
        return self._claims

    def poll(self) -> list[Feedback | str]:
        """What has come."""
        found: list[Feedback | str] = []
        with contextlib.suppress(queue.Empty):
            while len(found) < 64:
                item = self._queue.get_nowait()
                if not isinstance(item, str) and hasattr(item, "total_bytes"):
                    self._chunks.release()
                found.append(item)
        return found

    def want(self, files: Collection[bytes]) -> None:
        """Which files' chunks are read; the thread goes back to the beginning of their topic for new ones."""
        if self._wanted != frozenset(files):
            self._wanted = frozenset(files)

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join(10.0)

    # -- in the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        attempt = 0
        while not self._stop.is_set():
            source = None
            try:
                source = self._open()
                self._follow(source)
            except Exception:  # the broker is away or has no such topics yet; the outbox says so in a sentence
                self._stop.wait(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
                attempt += 1
            finally:
                if source is not None:
                    with contextlib.suppress(Exception):
                        source.close()

    def _follow(self, source: FeedbackLog) -> None:
        by_place: dict[Place, Topic] = {}
        wanted_topics = (*_HEARD, topics.ARTIFACTS, *((topics.CLAIMS,) if self._claimed else ()))
        for topic in wanted_topics:
            name = topic.named(self._prefix)
            numbers = source.partitions(name)
            if not numbers and topic is topics.CLAIMS:
                self._put(f"the broker has no topic {name}: two processes with one device id would not find each other")
                continue
            if not numbers:
                self.problem = f"the broker at {self._servers} has no topic {name}; `tidegate up` makes the topics"
                raise LookupError(name)
            by_place |= {Place(name, number): topic for number in numbers}
        files = [place for place, topic in by_place.items() if topic is topics.ARTIFACTS]
        state = [place for place in by_place if place not in files]
        self.problem = ""
        self._claims = any(topic is topics.CLAIMS for topic in by_place.values())
        source.assign(source.first(by_place))
        for place in files:
            source.pause(place)
        ends = source.ends(state)
        latest: dict[tuple[str, bytes | None], Feedback | str] = {}
        reading: frozenset[bytes] = frozenset()
        caught_up = False
        while not self._stop.is_set():
            wanted = self._wanted
            if wanted != reading:
                starts = source.first(files) if wanted - reading else {}
                for place in files:
                    if place in starts:
                        source.seek(place, starts[place])
                    (source.resume if wanted else source.pause)(place)
                reading = wanted
            for place, messages in source.read(POLL_S, MAX_POLL):
                topic = by_place[place]
                for message in messages:
                    if topic is topics.CLAIMS and message.key not in self._claimed:
                        continue
                    if message.value is None or (topic is topics.ARTIFACTS and not _is_of(message.key, wanted)):
                        continue
                    item = _decoded(message, topic)
                    if caught_up or topic is topics.ARTIFACTS:
                        self._put(item)
                    else:  # as if the log were compacted already: only the last word on each key counts
                        latest.pop((topic.name, message.key), None)
                        latest[topic.name, message.key] = item
            if not caught_up and all((source.position(place) or 0) >= end for place, end in ends.items()):
                for item in latest.values():
                    self._put(item)
                latest.clear()
                caught_up = True
                self._ready.set()

    def _put(self, item: Feedback | str) -> None:
        if not isinstance(item, str) and hasattr(item, "total_bytes"):
            while not self._chunks.acquire(timeout=0.1):
                if self._stop.is_set():
                    return
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                return


def _is_of(key: bytes | None, files: frozenset[bytes]) -> bool:
    """Whether a chunk's key, `sha256:index`, is of one of these files: told without decoding half a MiB."""
    try:
        return key is not None and bytes.fromhex(key[:64].decode()) in files
    except ValueError:
        return False


def _decoded(message: Message, topic: Topic) -> Feedback | str:
    try:
        feedback: Feedback = decode(message.value or b"", topic.record)
        return feedback
    except DecodeError as wrong:
        return f"a record of {topic.name} at offset {message.offset} cannot be read and is passed over: {wrong}"
