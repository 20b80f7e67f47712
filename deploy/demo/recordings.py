"""The recordings that ship with the product: which devices there are, and what is in their files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from schemas.container import read_header
from schemas.errors import ConfigError, DecodeError

DATA = Path(__file__).resolve().parent / "data"

#: Window of each cohort's models: a quarter of an hour of servers, two hours to a day of temperatures.
WINDOW_READINGS = {"servers": 16, "temperature": 24}

_DEVICES = (
    "machine-1-7",
    "machine-2-1",
    "machine-2-2",
    "machine-2-7",
    "machine-2-8",
    "machine-3-4",
    "machine-temperature",
    "ambient-temperature",
)


@dataclass(frozen=True, slots=True)
class Recording:
    """One file, as its header describes it. Times are µs since 1970-01-01 UTC, of the first and the last row."""

    path: Path
    readings: int
    labelled: int
    first_time: int
    last_time: int
    origin: str


@dataclass(frozen=True, slots=True)
class DemoDevice:
    """One device of the demo: `normal` is what its models are trained on, `live` is what it replays."""

    device_id: str
    cohort: str
    channels: tuple[str, ...]
    normal: Recording
    live: Recording


def demo_devices(folder: Path = DATA) -> list[DemoDevice]:
    """The eight devices, in a fixed order.

    Raises ConfigError: a recording is missing. DecodeError: one is damaged.
    """
    return [_device(folder, name) for name in _DEVICES]


def _device(folder: Path, name: str) -> DemoDevice:
    normal, about = _recording(folder / f"{name}.normal.avro")
    live, _ = _recording(folder / f"{name}.live.avro")
    return DemoDevice(about["device_id"], about["cohort"], tuple(json.loads(about["channels"])), normal, live)


def _recording(path: Path) -> tuple[Recording, dict[str, str]]:
    try:
        with path.open("rb") as file:
            about = read_header(file).metadata
    except OSError as cause:
        raise ConfigError(
            "a recording of the demo is missing",
            file=str(path),
            cause=cause.strerror,
            fix="it is part of the source tree: restore deploy/demo/data",
        ) from None
    except DecodeError as wrong:
        raise DecodeError(wrong.problem, fix=wrong.fix, **{"file": str(path), **wrong.where}) from wrong
    try:
        recording = Recording(
            path=path,
            readings=int(about["readings"]),
            labelled=int(about["labelled"]),
            first_time=int(about["first_time"]),
            last_time=int(about["last_time"]),
            origin=about["origin"],
        )
    except (KeyError, ValueError):
        raise DecodeError("the header of a recording lacks its description", file=str(path)) from None
    return recording, about
