"""From what the recordings hold to what is fitted on: choices, scaling, windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from deploy.text import duration
from deploy.train.choices import LEAST_READINGS, MAX_WINDOW_NUMBERS, stride_for, window_for
from deploy.train.cutter import Cutter
from deploy.train.packing import Learned, TrainingOptions
from deploy.train.reading import Device, Say, Survey, batches
from deploy.train.remarks import missing
from deploy.train.scoring import Part, Scored
from deploy.train.windows import Sample, held_out, part_of, scaling_of
from schemas.errors import ConfigError
from schemas.features import standardise
from schemas.manifest import MAX_MANIFEST_BYTES, Scaling
from schemas.records import Floats

#: Fewer windows than this make no covariance and no threshold.
LEAST_WINDOWS = 40
#: What a device and a channel of one take in a manifest, at the least.
_BYTES_OF_DEVICE, _BYTES_OF_CHANNEL = 250, 12
#: Numbers that the scalings of all devices are read off.
_SAMPLE_NUMBERS = 4_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """Windows that were chosen and what they gave. `window_us`: usual length of a window in event time."""

    readings: int
    stride: int
    window_us: float
    scaling: Scaling
    learned: list[Learned]

    def lineage(self, options: TrainingOptions) -> dict[str, str]:
        """What of it belongs into a manifest."""
        stated = options.false_alarms.text if options.false_alarms else "none stated"
        return {"fit_stride": str(self.stride), "false_alarms": stated}


def check_together(found: Survey, cohort: str | None, one_each: bool) -> str:
    """The cohort of all recordings. Raises ConfigError: they do not belong into one package."""
    devices = list(found.devices.values())
    for item in devices:
        if item.channels != devices[0].channels:
            raise ConfigError(
                "the recordings have different channels",
                device=item.device_id,
                got=list(item.channels),
                want=list(devices[0].channels),
                fix="train devices with other channels as another cohort",
            )
        if item.cohort != (cohort or devices[0].cohort):
            raise ConfigError(
                "a recording is of another cohort",
                device=item.device_id,
                got=item.cohort,
                want=cohort or devices[0].cohort,
                fix="one package is for one cohort: train the others by themselves",
            )
        if one_each and len(item.files) > 1:
            raise ConfigError(
                "a device has two recordings", device=item.device_id, fix="give one normal recording per device"
            )
        if not item.readings:
            raise ConfigError(
                "no row of the recording is complete",
                device=item.device_id,
                rows=item.incomplete,
                missing=missing(item),
                fix="leave such channels out with `tidegate import --exclude`, as an edge leaves out such rows",
            )
    return cohort or devices[0].cohort


def learn(
    found: Survey, parts: dict[str, Part], options: TrainingOptions, note: Callable[[str], None], say: Say
) -> Plan:
    """Choose windows, and take them to fit on from the recordings.

    Raises ConfigError: there are too few of them, or they would be too wide for a manifest.
    """
    devices = list(found.devices.values())
    channels = len(devices[0].channels)
    check_size(len(devices) * (_BYTES_OF_DEVICE + _BYTES_OF_CHANNEL * channels), len(devices), channels)
    rows = {name: part.middle - part.first for name, part in parts.items()}
    step_us = float(np.median([device.step_us for device in devices]))
    chosen = window_for(step_us, min(rows.values()), channels)
    readings, why = chosen.readings, chosen.why
    if options.window_readings is not None:
        readings, why = options.window_readings, "as asked for"
        if readings * channels > MAX_WINDOW_NUMBERS:
            raise ConfigError(
                "a window has too many numbers for the self-test in the manifest",
                window_readings=readings,
                channels=channels,
                max_numbers=MAX_WINDOW_NUMBERS,
                fix=f"at most {MAX_WINDOW_NUMBERS // channels} readings with so many channels",
            )
    while True:
        stride = stride_for(readings, channels, list(rows.values()))
        takers = _take(found, parts, readings, stride, options.mixed, say)
        short = [taker for taker in takers.values() if not taker.enough]
        if not short:
            break
        if options.window_readings is not None or readings // 2 < LEAST_READINGS:
            raise _too_short(short[0], found.devices[short[0].device_id], readings)
        readings //= 2
        why = "fewer than usual, because gaps and the length of the recordings leave too few longer ones"
    window_us = readings * step_us
    note(
        f"windows of {readings} readings ({duration(window_us)} at one reading every {duration(step_us)}): {why}"
        if step_us
        else f"windows of {readings} readings: {why}"
    )
    taken = sum(taker.count for taker in takers.values())
    note(
        f"one window every {stride} readings to fit on, {taken:,} in all"
        + (", evenly taken because the recordings are long" if stride > max(1, readings // 4) else "")
        + "; a quarter of what is learned from is held out for thresholds"
    )
    if left := sum(taker.left_out for taker in takers.values()):
        note(f"{left:,} windows with a labelled anomaly are left out: models and thresholds come from the others")
    default, own = scaling_of([taker.sample for taker in takers.values()])
    learned = [taker.learned(scaling) for taker, scaling in zip(takers.values(), own, strict=True)]
    return Plan(readings, stride, window_us, default, learned)


@dataclass(slots=True)
class _Taker:
    """What is taken from one device."""

    device_id: str
    sample: Sample
    windows: list[Floats] = field(default_factory=list)
    example: Floats | None = None
    count: int = 0
    checked: int = 0
    left_out: int = 0

    @property
    def enough(self) -> bool:
        return self.count >= LEAST_WINDOWS and self.checked >= LEAST_WINDOWS // 4 and self.sample.count > 0

    def learned(self, scaling: Scaling) -> Learned:
        centre, scale = np.array(scaling.centre, np.float32), np.array(scaling.scale, np.float32)
        fitting = np.concatenate([standardise(windows, centre, scale) for windows in self.windows])
        self.windows.clear()
        assert self.example is not None
        return Learned(self.device_id, scaling, fitting, self.example)


def _take(
    found: Survey, parts: dict[str, Part], readings: int, stride: int, leave_out: bool, say: Say
) -> dict[str, _Taker]:
    numbers = sum(part.middle - part.first for part in parts.values())
    numbers *= max(len(device.channels) for device in found.devices.values())
    every = max(1, -(-numbers // _SAMPLE_NUMBERS))
    takers = {name: _Taker(name, Sample(every)) for name in parts}
    cutters = {
        name: Cutter(readings, stride, found.devices[name].max_gap_us, part.first, part.middle)
        for name, part in parts.items()
    }
    # held-out windows are only counted here: as densely as they will be scored
    counters = {
        name: Cutter(readings, readings, found.devices[name].max_gap_us, part.first, part.middle)
        for name, part in parts.items()
    }
    for batch in batches(found, "learning", say):
        part, taker = parts[batch.device_id], takers[batch.device_id]
        total = part.middle - part.first
        number = np.arange(batch.first, batch.first + len(batch.values)) - part.first
        mine = (number >= 0) & (number < total) & (part_of(number, total) % 4 != 3)
        if leave_out:
            mine &= ~batch.labels
        taker.sample.add(batch.values[mine])
        cut = cutters[batch.device_id].take(batch)
        fitting, _ = held_out(cut.starts - part.first, readings, total)
        if leave_out:
            taker.left_out += int(np.count_nonzero(fitting & cut.labelled))
            fitting = fitting & ~cut.labelled
        taker.count += int(np.count_nonzero(fitting))
        if fitting.any():
            taker.windows.append(cut.windows[fitting])
        dense = cut if stride <= readings else counters[batch.device_id].take(batch)
        _, checked = held_out(dense.starts - part.first, readings, total)
        if leave_out:
            taker.left_out += int(np.count_nonzero(checked & dense.labelled))
            checked = checked & ~dense.labelled
        taker.checked += int(np.count_nonzero(checked))
        if taker.example is None and checked.any():
            taker.example = dense.windows[checked][0].copy()
    return takers


def _too_short(taker: _Taker, device: Device, readings: int) -> ConfigError:
    return ConfigError(
        "the recording is too short to learn from",
        device=device.device_id,
        readings=device.readings,
        windows=taker.count,
        need=LEAST_WINDOWS,
        held_out=taker.checked,
        need_held_out=LEAST_WINDOWS // 4,
        labelled_windows_left_out=taker.left_out,
        fix=f"about {LEAST_WINDOWS * readings} gapless readings of normal operation, or smaller windows",
    )


def check_size(manifest_bytes: int, devices: int, channels: int) -> None:
    """Raises ConfigError: the manifest is, or will be, larger than one may be."""
    if manifest_bytes > MAX_MANIFEST_BYTES:
        raise ConfigError(
            "the manifest would be too large for so many devices and channels",
            bytes=manifest_bytes,
            max_bytes=MAX_MANIFEST_BYTES,
            devices=devices,
            channels=channels,
            fix="train fewer devices in one package, or with fewer channels",
        )


def check_scored(scored: Scored, parts: dict[str, Part]) -> None:
    """Raises ConfigError: a device has no held-out window, so nothing can be said about its thresholds."""
    for name in parts:
        if not len(scored.edge[name]):
            raise ConfigError("no window is left to read thresholds off", device=name, fix="record more, or fewer gaps")
