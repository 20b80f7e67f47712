"""What the user asks of an import: everything that is not said is found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Options of `tidegate import`. None and empty mean: find it."""

    time: tuple[str, ...] = ()  # columns, joined by a space
    time_format: str | None = None
    timezone: str = "UTC"
    step_us: float | None = None  # instead of a time column; need not be whole
    start_us: int = 946_684_800_000_000  # 2000-01-01: the first row, where the file has no times
    device: str | None = None
    device_column: str | None = None
    cohort: str | None = None  # None: the device
    label: str | None = None
    no_label: bool = False
    normal: frozenset[str] = frozenset()  # labels that mean that all is well, in lower case
    channels: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    units: dict[str, str] = field(default_factory=dict)  # channel or column to unit
    encoding: str | None = None
    separator: str | None = None
    decimal: str | None = None
    header: bool | None = None
    skip_lines: int | None = None
    missing: tuple[str, ...] = ()
    drop_untimed: bool = False
