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
    '00-675a9b937a2a7fa152c157efb7ffe202-38e848286ae8b2b4-01'
    """
    name = event_id.encode()
    trace = hashlib.blake2b(name, digest_size=16, person=b"trace").hexdigest()
    span = hashlib.blake2b(name, digest_size=8, person=hop.value.encode()).hexdigest()
    return TraceParent(trace, span)


def headers_of(event_id: str, hop: Hop) -> tuple[tuple[str, bytes], ...]:
    """Kafka headers of a record of an event."""
    return (trace_of(event_id, hop).header(),)


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
