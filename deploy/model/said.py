"""What the user said of a model, what is known of its windows, and what was worked out. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from schemas.manifest import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the user said of one half; None and empty: nothing.

    Attributes:
        inputs: `NAME` or `NAME=channel,channel` per input that is made from the window.
        constants: `NAME=VALUE`, the value a number or a JSON list of numbers.
        states: `INPUT=OUTPUT`.
        score: `OUTPUT`, or `OUTPUT:PICK` where PICK is a class or a reduction.
        reset_after_us: gap in event time that makes a model forget, microseconds.
        unscaled: it takes the units of the sensor.
    """

    inputs: tuple[str, ...] = ()
    feed: Literal["window", "features"] | None = None
    statistics: tuple[str, ...] = ()
    layout: Layout | None = None
    constants: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    score: str | None = None
    flip: Literal["negate", "complement"] | None = None
    context_readings: int = 0
    frame_readings: int | None = None
    over_frames: Literal["max", "mean", "last"] = "max"
    reset_after_us: int | None = None
    unscaled: bool = False


@dataclass(frozen=True, slots=True)
class Around:
    """What is known of the window: its readings, its channels, and how many readings come in a second."""

    window_readings: int | None = None
    channels: tuple[str, ...] | None = None
    rate_hz: float | None = None


@dataclass(slots=True)
class Understood:
    """`fields` of a schemas/manifest.Half, as far as the tensors tell. `open`: questions that must be answered."""

    fields: dict[str, Any] = field(default_factory=dict)
    window_readings: int | None = None
    channels: int | None = None
    notes: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
