"""What the shell needs from the world. Implementations are in io/; tests/contracts holds each to its port."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import numpy.typing as npt

from edge_filters.blocks import Block
from edge_filters.outgoing import FromDevice, Parcel, Priority
from schemas.records import ArtifactChunk, DeviceClaim, Floats, ModelUpdate, ThresholdUpdate

Feedback = ThresholdUpdate | ModelUpdate | ArtifactChunk | DeviceClaim


class Sensor(Protocol):
    """Readings of one device. Called from one thread; no call may block for longer than a few milliseconds.

    A sensor of your own is a function `(device_id, options) -> Sensor`, found by `kind = "module:name"` or by an entry
    point in the group `tidegate.sensors`. What it raises is reported, and it is read again a little later; it ends its
    stream with None from `due_s`. What a sensor of ours raises ends its device's stream; the others go on.
    """

    channels: Sequence[str]
    #: Whether nothing is lost when it is not read for a while, as with a recording that is read at full speed.
    can_wait: bool

    def start(self, monotonic_s: float, wall_us: int) -> None:
        """Begin to sense: the same moment on two clocks, time.monotonic and microseconds since 1970 UTC."""
        ...

    def due_s(self) -> float | None:
        """When, by time.monotonic, the next block is complete. None: there is no more."""
        ...

    def read(self) -> Block | None:
        """The next block, once it is due; None where it is not complete after all."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class SensorFactory(Protocol):
    """What an entry point names."""

    def __call__(self, device_id: str, options: Mapping[str, Any]) -> Sensor:
        """A sensor; `options` are the other keys of its table in the configuration."""
        ...


Feature = Callable[[Floats], npt.ArrayLike]
"""A statistic: standardised float32[batch, readings, channels], not to be written to, to float32[batch, channels]."""


class FeatureFactory(Protocol):
    """What an entry point in `tidegate.features` names."""

    def __call__(self, options: Mapping[str, Any]) -> Feature:
        """A statistic; `options` are the other keys of its table in the configuration."""
        ...


class Detector(Protocol):
    """Scores windows in place of the edge half of a package. Called from one thread, between sensing and sending."""

    def score(self, windows: Floats, devices: Sequence[str]) -> npt.ArrayLike:
        """One finite number per window; higher is worse, and the levels of the package say how much is too much.

        Args:
            windows: float32[batch, readings, channels] in the units of the sensor, finite; not to be written to.
            devices: the device of each window. Windows of one device come in order; after a failure in a batch, each
                window of it comes again alone.
        """
        ...


class DetectorFactory(Protocol):
    """What an entry point in `tidegate.detectors` names."""

    def __call__(self, channels: Sequence[str], window_readings: int, options: Mapping[str, Any]) -> Detector:
        """A detector for windows of that form; `options` are the other keys of its table in the configuration."""
        ...


class Sink(Protocol):
    """Where records go beside Kafka: a siren, a file, another system. Called from a thread of its own; may block."""

    def write(self, records: Sequence[FromDevice]) -> None:
        """Take records, in order. What it raises is reported, and the same records come again a little later."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class SinkFactory(Protocol):
    """What an entry point in `tidegate.sinks` names."""

    def __call__(self, options: Mapping[str, Any]) -> Sink:
        """A sink; `options` are the other keys of its table in the configuration."""
        ...


class Delivery(Enum):
    """What became of a parcel."""

    PENDING = "on its way"
    DELIVERED = "acknowledged"
    LOST = "not acknowledged; send it again"
    REFUSED = "refused for good; sending it again cannot help"


@dataclass(frozen=True, slots=True)
class Report:
    """Outcome of a parcel, with a sentence where it is not DELIVERED."""

    delivery: Delivery
    why: str = ""


class Outbox(Protocol):
    """Where parcels go. No call blocks."""

    @property
    def ready(self) -> bool:
        """Whether `send` may be called now."""
        ...

    @property
    def problem(self) -> str:
        """Why it is not ready, as a sentence; empty when all is well."""
        ...

    def send(self, parcel: Parcel) -> Any:
        """Hand a parcel over; returns a receipt. Parcels with one topic and key arrive in order."""
        ...

    def report(self, receipt: Any) -> Report:
        """What became of a parcel."""
        ...

    def restart(self) -> None:
        """Begin anew after a LOST parcel. Everything handed over before must have been reported on."""
        ...

    def close(self, timeout_s: float) -> None:
        """Let go. What is still on its way may be lost."""
        ...


class Inbox(Protocol):
    """Where feedback comes from. No call blocks."""

    @property
    def ready(self) -> bool:
        """Whether everything that was there at the start has been given out."""
        ...

    @property
    def problem(self) -> str:
        """Why feedback cannot be heard, as a sentence; empty when all is well."""
        ...

    @property
    def hears_claims(self) -> bool:
        """Whether claims come, too, once it is ready: an older broker may have no topic for them."""
        ...

    def poll(self) -> list[Feedback | str]:
        """What has come since the last call; a string is a sentence about something that could not be read."""
        ...

    def want(self, files: Collection[bytes]) -> None:
        """SHA-256 of the files whose chunks shall be given out; all others are left alone."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class Spool(Protocol):
    """Parcels that were not acknowledged yet, safe on disk. One lane per priority, each numbered from 0 in order."""

    @property
    def waiting_records(self) -> int:
        """Records of devices that wait for their acknowledgement, in all lanes; gap markers are none."""
        ...

    @property
    def waiting_bytes(self) -> int:
        """Bytes that they and gap markers take."""
        ...

    @property
    def fullness(self) -> float:
        """Share of the allowed bytes that is used, 0..1."""
        ...

    def append(self, parcels: Sequence[Parcel]) -> dict[Priority, int]:
        """Keep parcels, in order. Returns the number of the first one in each lane.

        A lane that is not in the answer found no room: its parcels are counted as dropped, and `problem` says why.

        Raises:
            SpoolError: the disk failed; nothing of these was kept.
        """
        ...

    @property
    def problem(self) -> str:
        """Why records find no room, as a sentence; empty while they do."""
        ...

    def first(self, priority: Priority) -> int:
        """Number of the oldest parcel of a lane that is not acknowledged; of the next one where there is none."""
        ...

    def end(self, priority: Priority) -> int:
        """Number that the next parcel of a lane will get."""
        ...

    def next(self, priority: Priority, number: int) -> int:
        """The first number from there on that something is kept under; damage leaves holes."""
        ...

    def read(self, priority: Priority, number: int, max_records: int, max_bytes: int) -> list[Parcel]:
        """Parcels from that number on, one after the other; none where it turns out to be damaged."""
        ...

    def ack(self, priority: Priority, parcels: Sequence[Parcel]) -> None:
        """The next so many parcels of a lane have arrived: forget them."""
        ...

    def take_dropped(self) -> dict[bytes, int]:
        """Parcels per key that were thrown out for want of room, or were damaged, since the last call."""
        ...

    def take_notices(self) -> list[str]:
        """Sentences about what happened since the last call."""
        ...

    def close(self) -> None:
        """Write everything out and let go."""
        ...


class Store(Protocol):
    """Small things that a process remembers over a restart. What was saved survives a power cut whole or not at all."""

    @property
    def is_new(self) -> bool:
        """Whether no start was ever counted here."""
        ...

    def next_boot_epoch(self, above: int = 0) -> int:
        """Count this start: one more than the last one and than `above`."""
        ...

    def load(self, name: str) -> bytes | None:
        """What was saved under a name."""
        ...

    def save(self, name: str, data: bytes) -> None:
        """Save under a name. Raises SpoolError: the disk failed."""
        ...
