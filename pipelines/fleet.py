"""Statistics of a cohort in one window, as they are merged on their way to a FleetWindow. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.errors import DecodeError
from schemas.records import EdgeAggregate, FleetWindow
from schemas.sketch import Bins, Sketch

#: Of all names in FleetWindow.devices, so that the window of a very large fleet still fits into a record.
MAX_DEVICES_BYTES = 96 * 1024

#: A bin in the state of a window. What crosses a stage with every contribution is worth keeping small.
_BIN = np.dtype([("channel", "<u2"), ("bin", "<i2"), ("count", "<i8")])


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
    def of(cls, aggregate: EdgeAggregate, sketch: Sketch) -> Fleet:
        """One aggregate, as a contribution of its own; `sketch` is what its statistics were read as."""
        return cls(
            cohort=aggregate.cohort,
            channels=tuple(aggregate.channels),
            devices=frozenset([aggregate.device_id]),
            records=1,
            contributions=1,
            sketch=sketch,
            windows_scored=aggregate.windows_scored,
            windows_escalated=aggregate.windows_escalated,
            score_max=aggregate.score_max,
        )

    @classmethod
    def total(cls, parts: Sequence[Fleet], contributions: int) -> Fleet:
        """All parts together, as so many contributions. Only defined for one cohort with one list of channels."""
        return cls(
            cohort=parts[0].cohort,
            channels=parts[0].channels,
            devices=frozenset().union(*(part.devices for part in parts)),
            records=sum(part.records for part in parts),
            contributions=contributions,
            sketch=Sketch.total([part.sketch for part in parts]),
            windows_scored=sum(part.windows_scored for part in parts),
            windows_escalated=sum(part.windows_escalated for part in parts),
            score_max=max((part.score_max for part in parts if part.score_max is not None), default=None),
        )

    def merge(self, other: Fleet) -> Fleet:
        """Both together."""
        return Fleet.total([self, other], self.contributions + other.contributions)

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
            _narrow(sketch.bins),
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
            narrow = np.frombuffer(body, _BIN, offset=24 * wide)
            bins = np.stack([narrow["channel"], narrow["bin"], narrow["count"]], axis=1).astype(np.int64)
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
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as cause:
            raise DecodeError("not the statistics of a fleet window") from cause


def _narrow(bins: Bins) -> npt.NDArray[np.void]:
    out = np.empty(len(bins), _BIN)
    out["channel"], out["bin"], out["count"] = bins.T
    return out


def _fitting(devices: list[str]) -> list[str]:
    total = 0
    for listed, device in enumerate(devices):
        total += len(device.encode()) + 2
        if total > MAX_DEVICES_BYTES:
            return devices[:listed]
    return devices
