"""Times, durations and foreign words as every command shows them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = (("d", 86_400e6), ("h", 3_600e6), ("min", 60e6), ("s", 1e6), ("ms", 1e3))


def utc(at_us: int) -> str:
    """A time to the millisecond; whatever a device's clock said.

    >>> utc(1_000_000)
    '1970-01-01T00:00:01.000Z'
    >>> utc(1 << 62)
    '4611686018427387904us'
    """
    try:
        return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{at_us}us"


def duration(us: float) -> str:
    """Microseconds in the unit that people would use: a larger one from two of it on.

    >>> duration(4_800_000_000), duration(640_000), duration(-90_000_000), duration(250), duration(0)
    ('80 min', '640 ms', '-90 s', '250 us', '0 s')
    """
    for unit, size in _UNITS:
        if abs(us) >= (1 if unit in ("ms", "s") else 2) * size - 1e-6:
            return f"{us / size:.3g} {unit}"
    return f"{us:.3g} us" if us else "0 s"


def safe(words: str) -> str:
    r"""Text with everything escaped that is not printable, so that nothing from a record steers a terminal.

    >>> safe("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
