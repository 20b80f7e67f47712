"""Bad input is data: a Failure says what was refused, where it came from and why, and carries it as it came."""

from __future__ import annotations

from pipelines.io.chunk import Chunk, Outgoing, Record
from schemas.codec import HEADER_BYTES, MAX_BYTES, encode
from schemas.errors import TidegateError
from schemas.records import Failure

#: Room for the other fields of a Failure within its own limit.
MAX_PAYLOAD_BYTES = MAX_BYTES[Failure] - HEADER_BYTES - 4096
MAX_KEY_BYTES = 1024
MAX_PROBLEM_BYTES = 2000


def failure(chunk: Chunk, record: Record, stage: str, cause: TidegateError, failed_at: int) -> Failure:
    """Dead letter of one record. `failed_at` in microseconds; `reason` is the error family's name."""
    value = record.value or b""
    cut = f" (payload cut from {len(value)} bytes)" if len(value) > MAX_PAYLOAD_BYTES else ""
    return Failure(
        source=chunk.topic,
        partition=chunk.partition,
        offset=record.offset,
        key=None if record.key is None else record.key[:MAX_KEY_BYTES],
        payload=value[:MAX_PAYLOAD_BYTES],
        stage=stage,
        reason=type(cause).__name__,
        problem=str(cause).encode(errors="replace")[:MAX_PROBLEM_BYTES].decode(errors="ignore") + cut,
        failed_at=failed_at,
    )


def outgoing(failed: Failure) -> Outgoing:
    """As it goes to the dead letter topic: keyed by its source."""
    return Outgoing(failed.source.encode(), encode(failed))
