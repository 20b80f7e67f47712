"""What one source shares inside a process: its feed, its ledger, its committer, its stop flag.

Beam builds and drops DoFn instances as it likes; what must outlive them sits here, in a registry by the flow's name.
A name belongs to one run of one pipeline, so that a second run in the same process never meets the first one's state.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field

from pipelines.io.answers import Answers
from pipelines.io.committer import Committer, Ledger
from pipelines.io.feed import Feed
from pipelines.io.feed_config import FeedConfig
from pipelines.io.ledger import LedgerCore
from schemas.errors import ConfigError, TidegateError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowConfig:
    """One source: what it reads, and whether and on whose word its offsets are committed.

    name:      unique per run.
    branches:  names of the branches that answer for every chunk; empty = nothing is committed (a runner with
               checkpoints of its own keeps the offsets).
    lanes:     window lane -> allowed lateness, us.
    exact:     topics whose positions are committed in the transactions that write what answers them.
    """

    name: str
    feed: FeedConfig
    branches: tuple[str, ...] = ()
    lanes: dict[str, int] = field(default_factory=dict)
    exact: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.exact and not self.commits:
            raise ConfigError("positions can only be committed with their answers by a source that commits its own")

    @property
    def transactional_id(self) -> str:
        """The one name under which answers of this group to these topics are written."""
        return f"{self.feed.group_id}.{'+'.join(self.exact)}.answers"

    @property
    def commits(self) -> bool:
        """Whether this flow commits its own offsets."""
        return bool(self.branches or self.lanes) and self.feed.group_id is not None


class Flow:
    """The process-wide part of one source."""

    def __init__(self, config: FlowConfig) -> None:
        self.config = config
        self.ledger: Ledger | None = None
        self.answers: Answers | None = None
        self._committer: Committer | None = None
        if config.commits:
            self.ledger = Ledger(LedgerCore(config.branches, config.lanes, config.exact))
            self._committer = Committer(config.feed, self.ledger)
        if config.exact and self.ledger is not None:
            name, feed = config.transactional_id, config.feed
            self.answers = Answers(self.ledger, lambda: feed.transactions(name), feed.reader, config.exact, name)
        self.feed = Feed(config.feed, gate=self.answers)
        self._stopping = threading.Event()
        self.feed.start()
        if self.answers is not None:
            self.answers.start()
        if self._committer is not None:
            self._committer.start()

    @property
    def stopping(self) -> bool:
        """Whether the source hands out nothing more."""
        return self._stopping.is_set()

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Hand out nothing more, wait until everything handed out is answered for, and commit. True when all was.

        Open windows are not waited for: their records are read again by the next run.
        """
        self._stopping.set()
        deadline_s = time.monotonic() + timeout_s
        done = True
        if self.ledger is not None and self._committer is not None:
            while (left := self.ledger.in_flight()) and time.monotonic() < deadline_s:
                time.sleep(0.01)
            done = left == 0
            if not done:
                log.warning("stopped with %d chunks unanswered; the next run reads them again", left)
            if self.answers is not None:
                done = self.answers.close(max(1.0, deadline_s - time.monotonic())) and done
            done = self._committer.close(max(1.0, deadline_s - time.monotonic())) and done
        self.feed.close()
        return done

    def abandon(self) -> None:
        """Stop reading and committing at once: the pipeline failed, what it had not committed is read again."""
        self._stopping.set()
        if self.answers is not None:
            self.answers.abandon()
        if self._committer is not None:
            self._committer.abandon()
        self.feed.close()


_FLOWS: dict[str, Flow] = {}
_LOCK = threading.Lock()


def flow(config: FlowConfig) -> Flow:
    """The flow of this name in this process, started by whoever asks first."""
    found = _FLOWS.get(config.name)
    if found is None:
        with _LOCK:
            found = _FLOWS.get(config.name)
            if found is None:
                found = _FLOWS[config.name] = Flow(config)
    return found


def find(name: str) -> Flow | None:
    """The flow of this name, when this process has it."""
    return _FLOWS.get(name)


def failure(name: str) -> TidegateError | None:
    """Why the answers of this flow cannot be written any more; None while they can."""
    found = _FLOWS.get(name)
    return None if found is None or found.answers is None else found.answers.failure


def stop(name: str, timeout_s: float = 10.0) -> bool:
    """Stop a flow in good order and forget it. True when everything handed out was answered for and committed."""
    found = _FLOWS.get(name)
    done = found is None or found.stop(timeout_s)
    with _LOCK:
        _FLOWS.pop(name, None)
    return done


def abandon(name: str) -> None:
    """Drop a flow whose pipeline failed."""
    with _LOCK:
        found = _FLOWS.pop(name, None)
    if found is not None:
        found.abandon()
