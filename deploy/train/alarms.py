"""The false-alarm rate that a package is made for, and thresholds for rates that were hardly ever observed. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.errors import ConfigError

_EVERY_US = {"s": 1e6, "min": 60e6, "hour": 3_600e6, "h": 3_600e6, "day": 86_400e6, "d": 86_400e6, "week": 604_800e6}
_EVERY_US |= {"month": 30 * 86_400e6, "year": 365 * 86_400e6}
_RATE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(?:(%)|/\s*([a-z]+))?\s*")
#: The tail is fitted to this share of the highest scores.
_TAIL = 0.1
#: With fewer windows expected above it than this, a threshold is not read off but extrapolated.
_READ_OFF = 5.0


@dataclass(frozen=True, slots=True)
class FalseAlarms:
    """How many windows of normal operation may count as anomalies, per device: a share, or so many in a time.

    Attributes:
        text: as it was said.
        share: share of the windows, or
        per_us: windows a microsecond.
    """

    text: str
    share: float | None = None
    per_us: float | None = None

    @classmethod
    def parse(cls, text: str) -> FalseAlarms:
        """`1/day`, `0.5%` or `0.005`. Raises ConfigError: it is none of these, or not between none and half.

        >>> FalseAlarms.parse("1/day").of_windows(864e6), FalseAlarms.parse("0.5%").share
        (0.01, 0.005)
        """
        match = _RATE.fullmatch(text)
        if match is None or (match[3] and match[3] not in _EVERY_US):
            raise ConfigError(
                f"not a false-alarm rate: {text[:40]!r}",
                fix=f"write 1/day, 0.5% or 0.005; times are {', '.join(_EVERY_US)}",
            )
        number = float(match[1])
        if match[3]:
            if number <= 0:
                raise ConfigError(
                    f"no threshold gives no false alarm at all: {text!r}", fix="1/year is the least asked"
                )
            return cls(text.strip(), per_us=number / _EVERY_US[match[3]])
        share = number / 100 if match[2] else number
        if not 0 < share < 0.5:
            raise ConfigError(
                f"a false-alarm rate must be above 0 and below half of the windows: {text!r}",
                fix="write a share such as 0.005 or 0.5%, or a rate such as 1/day",
            )
        return cls(text.strip(), share=share)

    def of_windows(self, window_us: float) -> float:
        """The share of windows of that length, microseconds of event time. Raises ConfigError: more than half."""
        if self.share is not None:
            return self.share
        assert self.per_us is not None
        if window_us <= 0:
            raise ConfigError(
                "a rate in time needs recordings in which time goes forward",
                rate=self.text,
                fix="state the rate as a share of windows, such as 0.5%",
            )
        share = self.per_us * window_us
        if share >= 0.5:
            raise ConfigError(
                "the false-alarm rate is more than every second window",
                rate=self.text,
                windows_a_day=round(86_400e6 / window_us, 3),
                fix="state a lower rate, or a share of windows such as 0.5%",
            )
        return share


def threshold(scores: npt.NDArray[np.float64], rate: float) -> float:
    """The score that a share `rate` of windows like these reaches or exceeds.

    Read off as a quantile where at least five of the scores lie above it. Else the highest tenth of them is continued
    as an exponential tail (peaks over threshold; Pickands 1975), which for scores that are logarithms is a power law
    of the deviation: rather too high than too low.
    """
    if rate * len(scores) >= _READ_OFF:
        return float(np.quantile(scores, 1.0 - rate))
    share = max(_TAIL, min(1.0, _READ_OFF / len(scores)), rate)
    start = float(np.quantile(scores, 1.0 - share))
    above = scores[scores > start]
    excess = float(np.mean(above - start)) if len(above) else 0.0
    return max(start + excess * float(np.log(share / rate)), float(np.quantile(scores, 1.0 - rate)))


def read_off(windows: int, rate: float) -> bool:
    """Whether `threshold` reads it off."""
    return rate * windows >= _READ_OFF
