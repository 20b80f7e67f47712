"""What is in a recording, counted while it passes by: its rate, gaps, jumps back, repeats, missing cells, labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from schemas.records import Floats, Times

#: A step above this many usual ones is a gap: no window of a model reaches across it.
GAP_STEPS = 5
#: Different steps that are told apart; more are rounded to three digits.
MAX_STEPS = 4096
#: Times of so many rows back are known when one comes again.
RECENT_ROWS = 4_096


@dataclass(slots=True)
class DeviceSurvey:
    """The rows of one device so far. Times and steps in µs; `first_back` is the row of the file, from 1."""

    rows: int = 0
    first_time: int = 0
    last_time: int = 0
    newest: int = 0
    oldest: int = 0
    back: int = 0
    largest_back: int = 0
    first_back: tuple[str, int] | None = None
    behind: int = 0
    repeated: int = 0
    labelled: int = 0
    segments: int = 0
    unclear: int = 0
    _steps: Counter[int] = field(default_factory=Counter)
    _recent: Times = field(default_factory=lambda: np.zeros(0, np.int64))
    _largest: int = 0
    _flag: int = 0

    def add(
        self, times: Times, labels: npt.NDArray[np.uint8] | None, file: str, row_numbers: npt.NDArray[np.int64]
    ) -> None:
        """Count rows. `row_numbers` int64[n]: where they are in the file, from 1."""
        if not len(times):
            return
        if not self.rows:
            self.first_time = self.newest = self.oldest = int(times[0])
            steps = np.diff(times)
            at = row_numbers[1:]
        else:
            steps = np.diff(times, prepend=self.last_time)
            at = row_numbers
        newest = np.maximum.accumulate(np.maximum(times, self.newest))
        before = np.concatenate([[self.newest], newest[:-1]])
        late = times < before
        self._count_repeats(times, before)
        backwards = steps < 0
        if backwards.any():
            if self.first_back is None:
                self.first_back = (file, int(at[int(np.argmax(backwards))]))
            self.back += int(backwards.sum())
            self.largest_back = max(self.largest_back, -int(steps.min()))
            self.behind += int(late.sum())
        elif late.any():
            self.behind += int(late.sum())
        if labels is not None:
            self.labelled += int(labels.sum())
            self.segments += int((np.diff(labels.astype(np.int8), prepend=np.int8(self._flag)) == 1).sum())
            self._flag = int(labels[-1])
        values, counts = np.unique(steps[steps > 0], return_counts=True)
        self._steps.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        self._largest = max(self._largest, int(values[-1]) if len(values) else 0)
        if len(self._steps) > MAX_STEPS:
            self._coarser()
        self.rows += len(times)
        self.last_time, self.newest = int(times[-1]), int(newest[-1])
        self.oldest = min(self.oldest, int(times.min()))

    def _count_repeats(self, times: Times, before: Times) -> None:
        """Rows whose time stood in one before them: the row just before, or one of the last RECENT_ROWS."""
        known = np.concatenate([self._recent, times])
        if (times <= before).any():
            _, first, at = np.unique(known, return_index=True, return_inverse=True)
            again = first[at] < np.arange(len(known))
            self.repeated += int(again[len(self._recent) :].sum())
        self._recent = known[-RECENT_ROWS:].copy()

    def _coarser(self) -> None:
        rounded: Counter[int] = Counter()
        for step, count in self._steps.items():
            rounded[int(float(f"{step:.3g}"))] += count
        self._steps = rounded

    @property
    def step_us(self) -> int:
        """The usual step: the median of those that go forward; 0 where there is none."""
        total, seen = sum(self._steps.values()), 0
        for step in sorted(self._steps):
            seen += self._steps[step]
            if 2 * seen >= total:
                return step
        return 0

    @property
    def gaps(self) -> tuple[int, int]:
        """How many steps are gaps, and the largest of them."""
        least = GAP_STEPS * self.step_us
        count = sum(count for step, count in self._steps.items() if step > least)
        return count, self._largest if count else 0

    @property
    def steady(self) -> float:
        """Share of the forward steps within a tenth of the usual one."""
        total, usual = sum(self._steps.values()), self.step_us
        near = sum(count for step, count in self._steps.items() if abs(step - usual) <= usual / 10)
        return near / total if total else 0.0

    def as_json(self, device_id: str) -> dict[str, object]:
        """For the report."""
        gaps, largest = self.gaps
        return {
            "device_id": device_id,
            "rows": self.rows,
            "first_time_us": self.first_time,
            "last_time_us": self.last_time,
            "oldest_us": self.oldest,
            "newest_us": self.newest,
            "step_us": self.step_us,
            "rate_hz": round(1e6 / self.step_us, 6) if self.step_us else None,
            "steady_share": round(self.steady, 4),
            "gaps": gaps,
            "largest_gap_us": largest,
            "jumps_back": self.back,
            "largest_jump_back_us": self.largest_back,
            "first_jump_back": None
            if self.first_back is None
            else {"file": self.first_back[0], "row": self.first_back[1]},
            "rows_behind": self.behind,
            "repeated_times": self.repeated,
            "anomalous_rows": self.labelled,
            "anomalous_segments": self.segments,
            "unclear_local_times": self.unclear,
        }


class ChannelSurvey:
    """Cells of all channels, over all devices."""

    def __init__(self, channels: int) -> None:
        self.missing = np.zeros(channels, np.int64)
        self.infinite = np.zeros(channels, np.int64)
        self.low = np.full(channels, np.inf)
        self.high = np.full(channels, -np.inf)
        self.rows = 0

    def add(self, values: Floats) -> None:
        """Count cells of float32[n, c]."""
        if not len(values):
            return
        self.rows += len(values)
        low, high = values.min(axis=0), values.max(axis=0)  # NaN or infinite where the slower way is needed
        if np.isfinite(low).all() and np.isfinite(high).all():
            self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
            return
        self.missing += np.isnan(values).sum(axis=0)
        self.infinite += np.isinf(values).sum(axis=0)
        fine = np.isfinite(values)
        self.low = np.minimum(self.low, np.where(fine, values, np.inf).min(axis=0))
        self.high = np.maximum(self.high, np.where(fine, values, -np.inf).max(axis=0))
