"""Recordings through both finished models in one pass: held-out windows for thresholds, later ones to evaluate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from deploy.train.cutter import Cutter
from deploy.train.evaluate import Judged, Picture
from deploy.train.packing import Untested
from deploy.train.reading import Batch, Device, Flags, Say, Survey, batches
from deploy.train.windows import held_out
from schemas.manifest import Package
from schemas.records import Floats
from schemas.scoring import Scores

Numbers = npt.NDArray[np.int64]

#: Windows in a call to a model, in numbers.
_CALL_NUMBERS = 1 << 18
#: Rows and channels of a device that are kept to be drawn, and devices that are.
PICTURE_ROWS, PICTURE_CHANNELS, PICTURE_DEVICES = 20_000, 8, 6


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a device: [first, middle) were learned from, [middle, last) are evaluated with."""

    first: int
    middle: int
    last: int


@dataclass(slots=True)
class _Gathered:
    edge: list[Scores] = field(default_factory=list)
    heavy: list[Scores] = field(default_factory=list)
    labelled: list[Flags] = field(default_factory=list)
    starts: list[Numbers] = field(default_factory=list)

    def judged(self, device: Device, picture: Picture | None) -> Judged:
        labels = np.concatenate(self.labelled) if device.labelled else None
        return Judged(device.device_id, labels, np.concatenate(self.edge), np.concatenate(self.heavy), picture)


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores by device: of held-out windows of normal operation, and of every later window."""

    edge: dict[str, Scores]
    heavy: dict[str, Scores]
    judged: list[Judged]


class Scoring:
    """Scores windows of a package that need not have thresholds yet."""

    def __init__(self, package: Package) -> None:
        self._edge, self._heavy = Untested(package, "edge"), Untested(package, "heavy")
        self._readings = package.manifest.window_readings
        self._calls = max(1, _CALL_NUMBERS // (self._readings * len(package.manifest.channels)))

    def run(self, found: Survey, parts: dict[str, Part], stride: int, leave_out: bool, say: Say) -> Scored:
        """Score what `parts` name.

        Args:
            found: the recordings.
            parts: by device.
            stride: rows from one held-out window to the next; evaluated ones do not overlap.
            leave_out: leave windows with a labelled row out of the held-out ones.
            say: told how far it is.
        """
        held = {
            name: Cutter(self._readings, stride, found.devices[name].max_gap_us, part.first, part.middle)
            for name, part in parts.items()
        }
        later = {
            name: Cutter(self._readings, self._readings, found.devices[name].max_gap_us, part.middle, part.last)
            for name, part in parts.items()
        }
        thresholds: dict[str, _Gathered] = {name: _Gathered() for name in parts}
        judged: dict[str, _Gathered] = {name: _Gathered() for name in parts}
        shown = sorted(parts, key=lambda name: -found.devices[name].anomalous)[:PICTURE_DEVICES]
        pictures = {name: _Drawing(parts[name].middle, parts[name].last) for name in shown}
        for batch in batches(found, "scoring", say):
            name = batch.device_id
            part = parts[name]
            if batch.first < part.middle:
                cut = held[name].take(batch)
                _, checked = held_out(cut.starts - part.first, self._readings, part.middle - part.first)
                if leave_out:
                    checked = checked & ~cut.labelled
                self._score(thresholds[name], name, cut.windows[checked], cut.labelled[checked])
            cut = later[name].take(batch)
            self._score(judged[name], name, cut.windows, cut.labelled)
            judged[name].starts.append(cut.starts - part.middle)
            if name in pictures:
                pictures[name].add(batch)
        drawn = {
            name: picture.done(found.devices[name].channels, judged[name].starts) for name, picture in pictures.items()
        }
        return Scored(
            {name: np.concatenate([np.zeros(0), *of.edge]) for name, of in thresholds.items()},
            {name: np.concatenate([np.zeros(0), *of.heavy]) for name, of in thresholds.items()},
            [of.judged(found.devices[name], drawn.get(name)) for name, of in judged.items() if of.edge],
        )

    def _score(self, to: _Gathered, device: str, windows: Floats, labelled: Flags) -> None:
        for at in self._slices(len(windows)):
            who = [device] * len(windows[at])
            to.edge.append(self._edge.score(windows[at], who))
            to.heavy.append(self._heavy.score(windows[at], who))
            to.labelled.append(labelled[at])

    def _slices(self, count: int) -> Iterator[slice]:
        return (slice(first, first + self._calls) for first in range(0, count, self._calls))


class _Drawing:
    """Every so many rows of a device, to be drawn."""

    def __init__(self, first: int, last: int) -> None:
        self._first, self._last = first, last
        self._every = max(1, -(-(last - first) // PICTURE_ROWS))
        self._values: list[Floats] = []
        self._labels: list[Flags] = []

    def add(self, batch: Batch) -> None:
        low, high = max(self._first - batch.first, 0), min(self._last - batch.first, len(batch.values))
        if low >= high:
            return
        low += -(batch.first + low - self._first) % self._every
        self._values.append(batch.values[low : high : self._every, :PICTURE_CHANNELS].copy())
        self._labels.append(batch.labels[low : high : self._every].copy())

    def done(self, channels: tuple[str, ...], starts: list[Numbers]) -> Picture | None:
        if not self._values:
            return None
        return Picture(
            channels[:PICTURE_CHANNELS],
            len(channels),
            np.concatenate(self._values),
            np.concatenate(self._labels),
            np.concatenate(starts) // self._every,
            self._every,
        )
