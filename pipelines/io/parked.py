"""What starts the shards of a source and never ends: a splittable DoFn that emits one key per shard and then sleeps.

Its watermark stops short of the end of time. A stage whose input has ended drops its timers, and the loop of a shard
(loop.py) lives on one.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

#: Watermark of the parked DoFn: far in the future, yet short of the end of time, where a stage drops its timers.
FAR = Timestamp(250_000_000_000)
PARKED_S = 366 * 24 * 3600


class _Parking(OffsetRestrictionTracker):
    """A range that is never finished, so that the stage's watermark stays where the estimator puts it."""

    def is_bounded(self) -> bool:
        return False


class _RangeCoder(beam.coders.Coder):
    """An offset range as two numbers: a restriction is kept in checkpoints, where nothing pickled belongs."""

    def encode(self, value: OffsetRange) -> bytes:
        return struct.pack(">qq", value.start, value.stop)

    def decode(self, encoded: bytes) -> OffsetRange:
        return OffsetRange(*struct.unpack(">qq", encoded))

    def is_deterministic(self) -> bool:
        return True


class _Park(RestrictionProvider):
    def initial_restriction(self, element: bytes) -> OffsetRange:
        return OffsetRange(0, 2**62)

    def create_tracker(self, restriction: OffsetRange) -> _Parking:
        return _Parking(restriction)

    def restriction_size(self, element: bytes, restriction: OffsetRange) -> int:
        return 1

    def restriction_coder(self) -> _RangeCoder:
        return _RangeCoder()

    def split(self, element: bytes, restriction: OffsetRange) -> Iterator[OffsetRange]:
        yield restriction

    def truncate(self, element: bytes, restriction: OffsetRange) -> None:
        return None


class Park(beam.DoFn):
    """Emits (shard, b"") once, then parks for a year at a time with its watermark far ahead."""

    def __init__(self, shards: int) -> None:
        self._shards = shards

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: bytes,
        tracker: Any = beam.DoFn.RestrictionParam(_Park()),  # noqa: B008  # Beam reads it so
        estimator: Any = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider()),  # noqa: B008  # so
    ) -> Iterator[TimestampedValue]:
        """One element per shard on the first call; later calls only park again."""
        start = tracker.current_restriction().start
        wake_ms = time.time_ns() // 1_000_000 + PARKED_S * 1000
        if not tracker.try_claim(wake_ms - 1):
            return
        if start == 0:
            for shard in range(self._shards):
                yield TimestampedValue((b"%d" % shard, b""), Timestamp(0))
        estimator.set_watermark(FAR)
        tracker.defer_remainder(Duration(PARKED_S))
