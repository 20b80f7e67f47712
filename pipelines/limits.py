"""When too much of what comes in is refused, the job stops, rather than pour a whole topic into the dead letters."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from schemas.errors import ConfigError, TooManyFailed


@dataclass(frozen=True, slots=True)
class FailureLimit:
    """At most `ratio` of any `window` records in a row may be refused. 1: no limit."""

    ratio: float = 1.0
    window: int = 10_000

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio <= 1.0 or self.window < 1:
            raise ConfigError(
                "the limit of failed records needs a ratio in (0, 1] and a window of at least one record",
                ratio=self.ratio,
                window=self.window,
            )


class FailureMeter:
    """Counts the latest `window` records, to the chunk. Pure; not thread-safe."""

    def __init__(self, limit: FailureLimit) -> None:
        self._limit = limit
        self._chunks: deque[tuple[int, int]] = deque()
        self._records = self._failed = 0

    def count(self, records: int, failed: int, newest: str) -> None:
        """So many records came, and so many of them are refused; `newest`: the last reason.

        Raises TooManyFailed: together with those before, these are too many. They are not counted then, so that the
            same chunk, tried again, is refused again.
        """
        if self._limit.ratio >= 1.0:
            return
        allowed = self._limit.ratio * self._limit.window
        while self._chunks and self._records + records > self._limit.window:
            gone, gone_failed = self._chunks.popleft()
            self._records -= gone
            self._failed -= gone_failed
        if failed and self._failed + failed > allowed:
            raise TooManyFailed(
                f"{self._failed + failed} of the last {self._records + records} records were refused, "
                f"more than --max_failed_ratio {self._limit.ratio:g} of {self._limit.window} allows",
                fix="nothing behind them was answered; mend what writes them, or raise the ratio to have them put away",
                newest=newest,
            )
        self._chunks.append((records, failed))
        self._records += records
        self._failed += failed


#: Step -> its meter, and why it stopped the job: what outlives a DoFn and is seen from the job's side of the process.
_METERS: dict[str, FailureMeter] = {}
_STOPPED: dict[str, TooManyFailed] = {}


def count(step: str, limit: FailureLimit, records: int, failed: int, newest: str) -> None:
    """FailureMeter.count for a step of this process, which is remembered as stopped by it. Raises TooManyFailed."""
    meter = _METERS.setdefault(step, FailureMeter(limit))
    try:
        meter.count(records, failed, newest)
    except TooManyFailed as stopped:
        _STOPPED[step] = stopped
        raise


def take_stopped() -> TooManyFailed | None:
    """Why a step of this process has stopped its job, told once; None where none has."""
    return _STOPPED.popitem()[1] if _STOPPED else None
