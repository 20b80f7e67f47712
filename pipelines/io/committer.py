"""The ledger under a lock, and the thread that carries its answer to the broker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from pipelines.io.chunk import Receipt, Resume, WindowAck
from pipelines.io.feed_config import FeedConfig
from pipelines.io.ledger import Commit, LedgerCore, Standing
from pipelines.io.partition import Partition

log = logging.getLogger(__name__)

COMMIT_EVERY_S = 0.2
#: How often a commit is renewed in which nothing but the closed horizon moved.
HORIZON_EVERY_S = 1.0
COMMIT_TIMEOUT_MS = 5_000


class Ledger:
    """LedgerCore for many threads; see there for what each call means."""

    def __init__(self, core: LedgerCore) -> None:
        self._core = core
        self._lock = threading.Lock()

    def begin(self, partition: Partition, offset: int, resume: Resume) -> None:
        """See LedgerCore.begin."""
        with self._lock:
            self._core.begin(partition, offset, resume)

    def register(self, partition: Partition, begin: int, end: int, watermark_us: int) -> None:
        """See LedgerCore.register."""
        with self._lock:
            self._core.register(partition, begin, end, watermark_us)

    def watermark(self, partition: Partition, watermark_us: int) -> None:
        """See LedgerCore.watermark."""
        with self._lock:
            self._core.watermark(partition, watermark_us)

    def acknowledge(self, branch: str, receipts: Iterable[Receipt]) -> None:
        """See LedgerCore.acknowledge."""
        with self._lock:
            for receipt in receipts:
                self._core.acknowledge(branch, receipt)

    def acknowledge_all(self, receipt: Receipt) -> None:
        """See LedgerCore.acknowledge_all."""
        with self._lock:
            self._core.acknowledge_all(receipt)

    def contribute(self, lane: str, receipt: Receipt, parts: Iterable[tuple[int, bytes, int]]) -> None:
        """Register all contributions of one chunk, (window end us, key, first offset) each, and answer for it."""
        partition = Partition(receipt.topic, receipt.partition)
        with self._lock:
            for window_end_us, key, offset in parts:
                self._core.contribute(lane, partition, window_end_us, key, offset)
            self._core.acknowledge(lane, receipt)

    def written(self, acks: Iterable[WindowAck]) -> None:
        """See LedgerCore.written."""
        with self._lock:
            for ack in acks:
                self._core.written(ack)

    def commits(self) -> dict[Partition, Commit]:
        """See LedgerCore.commits."""
        with self._lock:
            return self._core.commits()

    def answered(self) -> dict[Partition, Commit]:
        """See LedgerCore.answered."""
        with self._lock:
            return self._core.answered()

    def settled(self, offsets: Mapping[Partition, int]) -> None:
        """See LedgerCore.settled."""
        with self._lock:
            self._core.settled(offsets)

    def confirmed(self, commits: Mapping[Partition, Commit]) -> None:
        """See LedgerCore.confirmed."""
        with self._lock:
            self._core.confirmed(commits)

    def in_flight(self) -> int:
        """See LedgerCore.in_flight."""
        with self._lock:
            return self._core.in_flight()

    def standing(self) -> dict[Partition, Standing]:
        """See LedgerCore.standing."""
        with self._lock:
            return self._core.standing()

    def open_windows(self) -> dict[str, int]:
        """See LedgerCore.open_windows."""
        with self._lock:
            return self._core.open_windows()


class Committer:
    """Commits what changed, five times a second, with a consumer of its own that reads nothing."""

    def __init__(self, config: FeedConfig, ledger: Ledger) -> None:
        self._config = config
        self._ledger = ledger
        self._sent: dict[Partition, Commit] = {}
        self._sent_at_s = 0.0
        self._stop = threading.Event()
        self._last_words = True
        self._clean = False
        self._away = False
        self._consumer: KafkaConsumer | None = None
        self._thread = threading.Thread(target=self._run, name=f"commit-{config.group_id}", daemon=True)

    def start(self) -> None:
        """Start committing."""
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Commit once more and end. True when the broker has everything."""
        self._stop.set()
        self._thread.join(timeout_s)
        return self._clean

    def abandon(self) -> None:
        """End without another commit."""
        self._last_words = False
        self._stop.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        while not self._stop.wait(COMMIT_EVERY_S):
            self._commit()
        if self._last_words:
            self._clean = self._commit(last=True)
        if self._consumer is not None:
            self._consumer.close(autocommit=False, timeout_ms=1_000)

    def _commit(self, last: bool = False) -> bool:
        """Commit what changed. Partitions go together: a horizon is true for all of them or for none."""
        now_s, commits = time.monotonic(), self._ledger.commits()
        moved = any(not _same_position(c, self._sent.get(p)) for p, c in commits.items())
        due = last or now_s - self._sent_at_s >= HORIZON_EVERY_S
        if commits == self._sent or not (moved or due):
            return True
        try:
            if self._consumer is None:
                self._consumer = self._config.consumer()
            offsets = {TopicPartition(*p): OffsetAndMetadata(c.offset, str(c.note), -1) for p, c in commits.items()}
            self._consumer.commit(offsets, timeout_ms=COMMIT_TIMEOUT_MS)
        except (KafkaError, OSError) as error:
            if not self._away:
                log.warning("offsets cannot be committed, trying on: %s: %s", type(error).__name__, error)
            self._away = True
            return False
        if self._away:
            log.warning("offsets are committed again")
        self._away = False
        self._sent, self._sent_at_s = commits, now_s
        self._ledger.confirmed(commits)
        return True


def _same_position(commit: Commit, sent: Commit | None) -> bool:
    return sent is not None and (commit.offset, commit.note.position) == (sent.offset, sent.note.position)
