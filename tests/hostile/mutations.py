"""Inputs that are nearly right: a seed, changed in a few places."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from tests.hostile.avro import NUMBERS

_PIECES = [
    *NUMBERS.values(),
    b"\0" * 8,
    b"\xff" * 8,
    b"\x7f" + b"\xff" * 7,
    b"1e999",
    b"[[[[",
    b'"',
    b"\r\n",
    b"\x1b[2J",
]


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A seed with up to four changes: bytes overwritten, cut out, put in, doubled, or taken from another seed."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 40)))
        how = draw(st.integers(0, 5))
        if how == 0:
            data = data[:at] + draw(st.binary(max_size=8)) + data[end:]
        elif how == 1:
            data = data[:at] + draw(st.sampled_from(_PIECES)) + data[end:]
        elif how == 2:
            data = data[:at] + data[end:]
        elif how == 3:
            data = data[:at] + data[at:end] * draw(st.integers(2, 5)) + data[end:]
        elif how == 4:
            other = draw(st.sampled_from(seeds))
            begin = draw(st.integers(0, len(other)))
            data = data[:at] + other[begin : begin + 40] + data[end:]
        elif data:
            place = min(at, len(data) - 1)
            data = data[:place] + bytes([data[place] ^ 1 << draw(st.integers(0, 7))]) + data[place + 1 :]
    return data
