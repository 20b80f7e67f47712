"""Rows of a batch to their devices: held until they are worth the trouble, then timed, counted and written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.importing import times as moments
from deploy.importing.recording import BLOCK_READINGS, RecordingWriter
from deploy.importing.survey import ChannelSurvey, DeviceSurvey
from deploy.importing.wanted import Wanted
from schemas.errors import ConfigError
from schemas.records import Floats, Times

#: Each holds rows that wait for their block.
MAX_DEVICES = 10_000
#: Cells that wait here, over all devices.
MAX_HELD_CELLS = 4 << 20


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows in file order. `stamps` None: the times are made from the rate.

    `values` float32[n, c]; `labels` uint8[n] or None; `numbers` int64[n]: where they are in the file, from 1.
    """

    stamps: moments.Moments | None
    values: Floats
    labels: npt.NDArray[np.uint8] | None
    numbers: npt.NDArray[np.int64]

    def take(self, which: Any) -> Rows:
        """Those at an index, a mask or a slice."""
        stamps = self.stamps
        if stamps is not None:
            stamps = moments.Moments(stamps.times[which], stamps.zoned[which], stamps.missing[which])
        labels = None if self.labels is None else self.labels[which]
        return Rows(stamps, self.values[which], labels, self.numbers[which])

    def copy(self, low: int, high: int) -> Rows:
        """Those from `low` up to `high`, which do not keep the others in memory."""
        part, stamps = slice(low, high), self.stamps
        if stamps is not None:
            stamps = moments.Moments(stamps.times[part].copy(), stamps.zoned[part].copy(), stamps.missing[part].copy())
        labels = None if self.labels is None else self.labels[part].copy()
        return Rows(stamps, self.values[part].copy(), labels, self.numbers[part].copy())

    def __len__(self) -> int:
        return len(self.values)


def _joined(parts: list[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    stamps = [part.stamps for part in parts if part.stamps is not None]
    labels = [part.labels for part in parts if part.labels is not None]
    return Rows(
        moments.Moments(
            np.concatenate([stamp.times for stamp in stamps]),
            np.concatenate([stamp.zoned for stamp in stamps]),
            np.concatenate([stamp.missing for stamp in stamps]),
        )
        if stamps
        else None,
        np.concatenate([part.values for part in parts]),
        np.concatenate(labels) if labels else None,
        np.concatenate([part.numbers for part in parts]),
    )


class Gatherer:
    """What becomes of rows: UTC, survey, recording. Rows of one device keep their order; devices are independent."""

    def __init__(self, wanted: Wanted, devices: dict[str, DeviceSurvey], channels: ChannelSurvey) -> None:
        """`devices` and `channels` are counted into."""
        self._wanted, self._devices, self._channels = wanted, devices, channels
        self._held: dict[str, list[Rows]] = {}
        self._sizes: dict[str, int] = {}
        self._cells = 0
        self.writer: RecordingWriter | None = None

    def add(self, device_id: str, rows: Rows, file: str) -> None:
        """Many rows of one device. Raises ConfigError: too many devices, or times past all time."""
        self._flush_one(device_id, file)
        self._process(device_id, rows, file)

    def hold(self, device_id: str, rows: Rows, file: str) -> None:
        """A few rows of one of many devices. Raises ConfigError: see add."""
        if device_id not in self._held:
            self._open(device_id)
            self._held[device_id], self._sizes[device_id] = [], 0
        self._held[device_id].append(rows)
        self._sizes[device_id] += len(rows)
        self._cells += rows.values.size
        if self._sizes[device_id] >= BLOCK_READINGS:
            self._flush_one(device_id, file)
        elif self._cells > MAX_HELD_CELLS:
            self.flush(file)

    def flush(self, file: str) -> None:
        """Let nothing wait any longer: the file ends."""
        for device_id in self._held:
            self._flush_one(device_id, file)

    def _flush_one(self, device_id: str, file: str) -> None:
        parts = self._held.get(device_id)
        if parts:
            rows = _joined(parts)
            self._held[device_id], self._sizes[device_id] = [], 0
            self._cells -= rows.values.size
            self._process(device_id, rows, file)

    def _open(self, device_id: str) -> DeviceSurvey:
        survey = self._devices.get(device_id)
        if survey is None:
            if len(self._devices) >= MAX_DEVICES:
                raise ConfigError(
                    "too many devices",
                    most=MAX_DEVICES,
                    fix="is the --device-column the right one? Import the devices in parts otherwise",
                )
            survey = self._devices[device_id] = DeviceSurvey()
        return survey

    def _process(self, device_id: str, rows: Rows, file: str) -> None:
        survey = self._open(device_id)
        if not len(rows):
            return
        times = self._times(rows, survey)
        survey.add(times, rows.labels, file, rows.numbers)
        self._channels.add(rows.values)
        if self.writer is not None:
            self.writer.add(device_id, times, rows.values, rows.labels)

    def _times(self, rows: Rows, survey: DeviceSurvey) -> Times:
        if rows.stamps is not None:
            times, unclear = moments.to_utc(
                rows.stamps, self._wanted.timezone, survey.last_time if survey.rows else None
            )
            survey.unclear += unclear
            return times
        since = np.rint((survey.rows + np.arange(len(rows))) * (self._wanted.step_us or 1.0))
        if self._wanted.start_us + since[-1] > moments.LAST_US:
            raise ConfigError("the times made from the rate pass the year 9999", fix="correct --rate or --start")
        return np.asarray(self._wanted.start_us + since.astype(np.int64), np.int64)
