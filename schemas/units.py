"""Durations and sizes as people write them: a number and its unit, never a bare number."""

from __future__ import annotations

import re

from schemas.errors import ConfigError

DURATIONS_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "min": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
SIZES_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def duration_us(text: str) -> int:
    """Microseconds of a duration. Raises ConfigError.

    >>> duration_us("250ms"), duration_us("1.5 h")
    (250000, 5400000000)
    """
    return _quantity(text, DURATIONS_US, "duration", "250ms")


def size_bytes(text: str) -> int:
    """Bytes of a size. Raises ConfigError.

    >>> size_bytes("64MiB")
    67108864
    """
    return _quantity(text, SIZES_BYTES, "size", "64MiB")


def _quantity(text: str, units: dict[str, int], what: str, example: str) -> int:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in units:
        missing = match is not None and not match[2]
        problem = f"missing unit in {what} {text!r}" if missing else f"not a {what}: {text!r}"
        raise ConfigError(problem, fix=f"write it like {example}; units are {', '.join(units)}")
    amount = float(match[1]) * units[match[2]]
    if amount > 2**62:
        raise ConfigError(f"{what} is too large: {text[:40]!r}", fix="the largest is 2^62 of the smallest unit")
    return round(amount)
