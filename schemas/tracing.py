"""Which trace a record belongs to: W3C Trace Context, derived from the event id. Pure.

Nothing about a trace is stored or passed along. The trace id is a hash of the event id, which every record of an
event's life carries anyway, so each process writes the same `traceparent` without having seen the one before: through
the spool, over a restart, in a replay. A hop's span id is a hash too, and so is its parent's. What comes in under that
header from elsewhere is never needed and so cannot mislead: it is not even looked at.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

HEADER = "traceparent"
_FORM = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_MAX_BYTES = 512


class Hop(StrEnum):
    """Where on its way an event is; the hop before it is the parent of its span."""

    EDGE = "edge"
    DECISION = "decision"
    FEEDBACK = "feedback"


_MASKS = {hop: int.from_bytes(hashlib.blake2b(hop.value.encode(), digest_size=8).digest(), "big") for hop in Hop}


class TraceParent(NamedTuple):
    """Identity of a span, and of the trace it is part of, in lower-case hex."""

    trace_id: str
    span_id: str
    sampled: bool = True

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def header(self) -> tuple[str, bytes]:
        """As a Kafka header."""
        return HEADER, str(self).encode()


def trace_of(event_id: str, hop: Hop) -> TraceParent:
    """The span of an event at one hop: the same wherever and whenever it is asked for.

    >>> str(trace_of("pump-7:3:1042", Hop.EDGE))
    '00-4b29217032f0c976ed5a8f769ca14973-4568b3a99a9efe3c-01'
    """
    return TraceParent(*_ids(event_id, hop))


def headers_of(event_id: str, hop: Hop) -> tuple[tuple[str, bytes], ...]:
    """Kafka headers of a record of an event. On the path of every decision, so without a detour over TraceParent."""
    trace_id, span_id = _ids(event_id, hop)
    return ((HEADER, f"00-{trace_id}-{span_id}-01".encode()),)


def _ids(event_id: str, hop: Hop) -> tuple[str, str]:
    """One hash gives the trace id and a number; a mask per hop makes a span id of that."""
    digest = hashlib.blake2b(event_id.encode(), digest_size=24, person=b"trace").hexdigest()
    return digest[:32], f"{int(digest[32:], 16) ^ _MASKS[hop]:016x}"


def feedback_trace(evidence: Sequence[str]) -> TraceParent | None:
    """The trace that a threshold update belongs to: that of its newest evidence. None: it has none.

    An update is the fruit of many events. It continues the trace of the last one, which tipped it, and is linked to
    the others by their event ids in its `evidence`, from which `trace_of` gives their traces.
    """
    return trace_of(evidence[-1], Hop.FEEDBACK) if evidence else None


def parse(header: bytes) -> TraceParent | None:
    """What a `traceparent` says; None where it is malformed, which W3C says to ignore. Never raises.

    >>> parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    TraceParent(trace_id='4bf92f3577b34da6a3ce929d0e0e4736', span_id='00f067aa0ba902b7', sampled=True)
    >>> parse(b"00-00000000000000000000000000000000-00f067aa0ba902b7-01") is None
    True
    """
    match = _FORM.fullmatch(header) if len(header) <= _MAX_BYTES else None
    if match is None:
        return None
    version, trace, span, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and more is not None) or not int(trace, 16) or not int(span, 16):
        return None
    return TraceParent(trace.decode(), span.decode(), bool(int(flags, 16) & 1))
