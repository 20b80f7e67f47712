"""What the trainer chooses where nothing is said: windows and strides, each with a sentence that says what and why.

Pure. Nothing is chosen by looking at labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Readings times channels of a window at most: a self-test with a window of it has to fit into the manifest.
MAX_WINDOW_NUMBERS = 4_000
#: Windows of a fit, and the numbers in them; longer recordings are taken with wider strides.
MAX_FIT_WINDOWS = 20_000
MAX_FIT_NUMBERS = 16_000_000
#: Readings of a window that is chosen; MOST only for signals that are so fast.
LEAST_READINGS, USUAL_READINGS, MOST_READINGS = 4, 16, 64
#: Rows per reading of a window: about eighty windows to fit on.
_ROWS_PER_READING = 32
_SECOND_US = 1_000_000
#: Windows to fit on and to hold out that the strides of a long fleet leave to each of its devices.
_LEAST_OF_EACH = 80


@dataclass(frozen=True, slots=True)
class Windows:
    """Readings of a window, and why so many."""

    readings: int
    why: str


def window_for(step_us: float, rows: int, channels: int) -> Windows:
    """Readings of a window: a power of two.

    Args:
        step_us: usual step between readings, microseconds; 0 where it is not known.
        rows: readings to learn from, of the device that has fewest.
        channels: how many there are.

    >>> window_for(10_000, 1_000_000, 1).readings, window_for(300_000_000, 20_000, 1).readings
    (64, 16)
    """
    wanted, why = (
        USUAL_READINGS,
        f"the default for signals of up to {USUAL_READINGS} readings a second",
    )
    while step_us and wanted < MOST_READINGS and wanted * step_us < _SECOND_US:
        wanted *= 2
        why = "a power of two that holds about a second of this signal"
        if wanted == MOST_READINGS:
            why = "the most that is chosen by default, because the signal is fast"
    readings = wanted
    while readings > LEAST_READINGS and readings * _ROWS_PER_READING > rows:
        readings //= 2
        why = f"fewer than usual, because there are only {rows:,} readings to learn from"
    while readings > LEAST_READINGS and readings * channels > MAX_WINDOW_NUMBERS:
        readings //= 2
        why = f"fewer than usual, because there are {channels} channels"
    return Windows(readings, why)


def stride_for(readings: int, channels: int, rows: Sequence[int]) -> int:
    """Rows from one window to the next when fitting, for so many rows of each device.

    As wide as the bounds ask for, but with enough windows left of the device that has fewest rows.
    """
    most = max(1, min(MAX_FIT_WINDOWS, MAX_FIT_NUMBERS // (readings * channels)))
    wide = min(-(-sum(rows) // most), min(rows) // _LEAST_OF_EACH)
    return max(1, readings // 4, wide)
