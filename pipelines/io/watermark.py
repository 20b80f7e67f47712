"""Watermark of one partition, as a pure rule over what was handed out.

    watermark = max(event time handed out) - disorder            while records come
    watermark = (moment at which the broker said "nothing unread") - idle - disorder     while none come

Both only ever raise it. It never runs ahead of records that wait in a buffer, because it is moved by handed-out
records alone, and the second line needs an answer of the broker that is younger than the last record. While the broker
is away, and for a grace time after, neither line is used: producers come back one after the other with what they
could not send, and none of it shall be late. Times are microseconds since 1970 UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.errors import ConfigError

#: Watermark of a partition of which nothing is known yet.
UNKNOWN_US = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WatermarkRule:
    """Parameters of the rule, all in microseconds.

    disorder_us: how far behind the newest record of its partition a record may be and still be on time.
    idle_us:     how long a record may take from its event to the broker on a partition that seems empty; None keeps
                 the watermark of an empty partition where it is (for logs that are filled with old event times).
    future_us:   how far ahead of the broker's clock an event time may be and still move the watermark.
    """

    disorder_us: int
    idle_us: int | None
    future_us: int

    def __post_init__(self) -> None:
        for name in ("disorder_us", "idle_us", "future_us"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError("a watermark rule needs times of zero or more", name=name, got=value)

    def plausible(self, event_us: int, append_time_ms: int, now_us: int) -> bool:
        """Whether an event time may move the watermark.

        A record cannot be older in the log than its event, so one that claims to be, beyond `future_us`, has a wrong
        clock. The broker's time is used, not ours, so that a replay decides the same; ours bounds the broker's.
        """
        return event_us <= min(append_time_ms * 1000, now_us) + self.future_us

    def after_records(self, watermark_us: int, event_us: Sequence[int]) -> int:
        """Watermark after plausible event times were handed out."""
        return max(watermark_us, max(event_us) - self.disorder_us) if event_us else watermark_us

    def after_silence(self, watermark_us: int, nothing_unread_at_us: int) -> int:
        """Watermark after the broker confirmed, when asked at that moment, that nothing was unread."""
        if self.idle_us is None:
            return watermark_us
        return max(watermark_us, nothing_unread_at_us - self.idle_us - self.disorder_us)
