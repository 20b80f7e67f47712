"""Statistics of a cohort in one window, as they are merged on their way to a FleetWindow. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from schemas.errors import DecodeError
from schemas.records import EdgeAggregate, FleetWindow
from schemas.sketch import Sketch

#: Of all names in FleetWindow.devices, so that the window of a very large fleet still fits into a record.
MAX_DEVICES_BYTES = 96 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Merged aggregates of one cohort in one window.

    `records`: edge aggregates merged; `contributions`: how many chunk sums they came in, which is what the commit
    ledger counts.
    """

    cohort: str
    channels: tuple[str, ...]
    devices: frozenset[str]
    records: int
    contributions: int
    sketch: Sketch
    windows_scored: int
    windows_escalated: int
    score_max: float | None

    @classmethod
    def of(cls, aggregate: EdgeAggregate) -> Fleet:
        """One aggregate, as a contribution of its own. Raises ValueError: not a sketch."""
        return cls(
            cohort=aggregate.cohort,
            channels=tuple(aggregate.channels),
            devices=frozenset([aggregate.device_id]),
            records=1,
            contributions=1,
            sketch=Sketch.from_aggregate(aggregate),
            windows_scored=aggregate.windows_scored,
            windows_escalated=aggregate.windows_escalated,
            score_max=aggregate.score_max,
        )

    def merge(self, other: Fleet) -> Fleet:
        """Both together. Only defined for one cohort with one list of channels."""
        return Fleet(
            cohort=self.cohort,
            channels=self.channels,
            devices=self.devices | other.devices,
            records=self.records + other.records,
            contributions=self.contributions + other.contributions,
            sketch=self.sketch.merge(other.sketch),
            windows_scored=self.windows_scored + other.windows_scored,
            windows_escalated=self.windows_escalated + other.windows_escalated,
            score_max=max((s for s in (self.score_max, other.score_max) if s is not None), default=None),
        )

    @property
    def key(self) -> bytes:
        """Key of its window: cohort and channels, since only like channels can be added up."""
        return json.dumps([self.cohort, *self.channels], separators=(",", ":")).encode()

    def window(self, start: int, end: int) -> FleetWindow:
        """As it is published. Times in microseconds. The revision is the number of aggregates in it.

        Where the names of all devices would not fit into a record, the first of them are listed.
        """
        sketch = self.sketch
        filled = bool(sketch.readings)
        blank = [0.0] * len(self.channels)
        return FleetWindow(
            cohort=self.cohort,
            window_start=start,
            window_end=end,
            revision=self.records,
            devices=_fitting(sorted(self.devices)),
            channels=list(self.channels),
            readings=sketch.readings,
            invalid=sketch.invalid,
            mean=sketch.mean.tolist(),
            stddev=sketch.stddev.tolist(),
            min=sketch.min.tolist() if filled else blank,
            max=sketch.max.tolist() if filled else blank,
            p50=sketch.quantile(0.5).tolist() if filled else blank,
            p99=sketch.quantile(0.99).tolist() if filled else blank,
            windows_scored=self.windows_scored,
            windows_escalated=self.windows_escalated,
            score_max=self.score_max,
        )

    def to_bytes(self) -> bytes:
        """A line of JSON, then the statistics as arrays."""
        sketch = self.sketch
        head = {
            "cohort": self.cohort,
            "channels": self.channels,
            "devices": sorted(self.devices),
            "records": self.records,
            "contributions": self.contributions,
            "windows_scored": self.windows_scored,
            "windows_escalated": self.windows_escalated,
            "score_max": self.score_max,
            "readings": sketch.readings,
            "invalid": sketch.invalid,
        }
        arrays = (
            sketch.mean.astype("<f8"),
            sketch.m2.astype("<f8"),
            sketch.min.astype("<f4"),
            sketch.max.astype("<f4"),
            sketch.bins.astype("<i8"),
        )
        return json.dumps(head, separators=(",", ":")).encode() + b"\n" + b"".join(a.tobytes() for a in arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Fleet:
        """Inverse of to_bytes. Raises DecodeError."""
        try:
            line, _, body = data.partition(b"\n")
            head = json.loads(line)
            wide = len(head["channels"])
            mean, m2 = np.frombuffer(body, "<f8", 2 * wide).reshape(2, wide)
            low, high = np.frombuffer(body, "<f4", 2 * wide, 16 * wide).reshape(2, wide)
            bins = np.frombuffer(body, "<i8", offset=24 * wide).reshape(-1, 3)
            return cls(
                cohort=head["cohort"],
                channels=tuple(head["channels"]),
                devices=frozenset(head["devices"]),
                records=head["records"],
                contributions=head["contributions"],
                sketch=Sketch(head["readings"], head["invalid"], mean, m2, low, high, bins),
                windows_scored=head["windows_scored"],
                windows_escalated=head["windows_escalated"],
                score_max=head["score_max"],
            )
        except (ValueError, KeyError, TypeError) as cause:
            raise DecodeError("not the statistics of a fleet window") from cause


def _fitting(devices: list[str]) -> list[str]:
    total = 0
    for listed, device in enumerate(devices):
        total += len(device.encode()) + 2
        if total > MAX_DEVICES_BYTES:
            return devices[:listed]
    return devices


def add_up(parts: Iterable[Fleet]) -> Fleet:
    """Sum of the parts of one chunk, as one contribution."""
    total: Fleet | None = None
    for part in parts:
        total = part if total is None else total.merge(part)
    assert total is not None
    return Fleet(**{name: getattr(total, name) for name in Fleet.__slots__} | {"contributions": 1})
