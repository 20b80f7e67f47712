"""What may be believed of a device's clock. Pure: times come in, nothing is asked.

A device may have any time: a day ahead, 1970 because it has no battery, a step back in the middle. Its event times are
kept as they are, since nobody knows better; what is decided here is which times are none at all, which are suspect,
and by how much a clock is ahead where that can be known. Times are microseconds since 1970 UTC.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from schemas.errors import DecodeError
from schemas.records import EdgeAggregate, EdgeEvent, SensorBlock

#: Years 1 to 9999: what is outside, such as nanoseconds, is no time, and runners cannot count with it.
FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
#: 2020-01-01. No process of this project has run before it, so one that decides earlier has a clock that was never set.
UNSET_BEFORE_US = 1_577_836_800_000_000
#: How far ahead of the broker's a clock may be without being suspect.
AHEAD_US = 2_000_000
#: A device whose quickest record took longer than this from its decision to the broker is behind, or its records come
#: out of a spool: one cannot be told from the other.
SLOW_US = 5_000_000
#: So far below zero a latency counts as zero: readings are stamped by their period, clocks are slewed.
JITTER_US = 100_000
#: A longer latency is no measurement.
MAX_LATENCY_US = 7 * 86_400 * 1_000_000
#: The estimate looks back so far, by the broker's clock, and no further than twice that.
_LOOK_BACK_US = 600 * 1_000_000
#: Devices that are remembered; the one heard longest ago goes first.
_MAX_DEVICES = 20_000

AHEAD, UNSET = "ahead", "unset"


def check_times(record: EdgeEvent | EdgeAggregate | SensorBlock) -> None:
    """Raises DecodeError: a record has a time of no year between 1 and 9999."""
    if isinstance(record, EdgeEvent):
        times = (record.sensed_from, record.sensed_to, record.decided_at)
    elif isinstance(record, EdgeAggregate):
        times = (record.window_start, record.window_end, record.window_end)
    elif record.event_times:
        times = (int(record.times.min()), int(record.times.max()), 0)
    else:
        return
    for at_us in times:
        if not FIRST_US <= at_us <= LAST_US:
            raise DecodeError(
                "its time is of no year between 1 and 9999",
                device_id=record.device_id,
                at_us=at_us,
                fix="event times are microseconds since 1970 UTC; the clock or the unit of the device is wrong",
            )


def latency_us(from_us: int, to_us: int, ahead_us: int | None = 0) -> int | None:
    """From a moment on a device's clock to one on ours; None where it is not known.

    `ahead_us`: how far the device's clock is ahead; None where that is not known.

    >>> latency_us(1_000, 3_500), latency_us(86_400_000_000, 5_000, 86_400_000_000), latency_us(9_000_000, 5_000)
    (2500, 5000, None)
    """
    if ahead_us is None:
        return None
    found = to_us - from_us + ahead_us
    return max(0, found) if -JITTER_US <= found <= MAX_LATENCY_US else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a device's clock. `ahead_us`: None where it is not known; `suspect`: AHEAD, UNSET or empty."""

    ahead_us: int | None
    suspect: str


_FINE = Verdict(0, "")


class _Minimum:
    """Smallest value of the last one to two spans of time, in constant memory."""

    __slots__ = ("before", "now", "since_us")

    def __init__(self, value: int, at_us: int) -> None:
        self.before: int | None = None
        self.now, self.since_us = value, at_us

    def take(self, value: int, at_us: int) -> int:
        if at_us - self.since_us > _LOOK_BACK_US:
            stale = at_us - self.since_us > 2 * _LOOK_BACK_US
            self.before, self.now, self.since_us = (None if stale else self.now), value, at_us
        elif value < self.now:
            self.now = value
        return self.now if self.before is None else min(self.before, self.now)


class Clocks:
    """The clocks of all devices, each estimated by a minimum filter.

    A record reaches the broker after it was decided, so `append time - decided_at` is its way plus how far the
    device's clock is behind. Its minimum over some minutes has the shortest way in it, which is milliseconds. Below
    zero, the clock is certainly ahead, by no less than that.
    """

    def __init__(self) -> None:
        self._devices: OrderedDict[str, _Minimum] = OrderedDict()

    def judge(self, device_id: str, decided_at_us: int, append_us: int) -> Verdict:
        """Take a record and say what is known of its device's clock."""
        took_us = append_us - decided_at_us
        seen = self._devices.get(device_id)
        if seen is None:
            self._devices[device_id] = seen = _Minimum(took_us, append_us)
            if len(self._devices) > _MAX_DEVICES:
                self._devices.popitem(last=False)
        else:
            self._devices.move_to_end(device_id)
        quickest_us = seen.take(took_us, append_us)
        if decided_at_us < UNSET_BEFORE_US:
            return Verdict(None, UNSET)
        suspect = AHEAD if took_us < -AHEAD_US else ""
        if 0 <= quickest_us <= SLOW_US:
            return _FINE
        if quickest_us > SLOW_US or took_us - quickest_us > SLOW_US:  # the second: the clock was set, or it waited
            return Verdict(None, suspect)
        return Verdict(-quickest_us, suspect)
