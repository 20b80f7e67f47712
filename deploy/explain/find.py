"""Where the records of one event are looked for: in recordings, or in the topics of a broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from deploy import records
from deploy.explain.trace import Trace
from deploy.recording.files import Found, Stamp, found_in, recorded_files
from schemas import topics
from schemas.codec import decode
from schemas.errors import CheckFailed, DecodeError
from schemas.ids import Identity

#: Searched on a broker, the event's own topics first. Model files say nothing about an event.
SEARCHED = (
    topics.EVENTS,
    topics.SAMPLES,
    topics.DECISIONS,
    topics.DEAD_LETTERS,
    topics.THRESHOLDS,
    topics.MODELS,
    topics.STATUS,
    topics.AGGREGATES,
)


def in_recordings(event_id: str, paths: Sequence[Path], progress: Callable[[int], None] = lambda _: None) -> Trace:
    """The trace from files and folders.

    Raises: DecodeError: no event id, or nothing could be read for damage. ConfigError: nothing is recorded there.
    CheckFailed: no record of the event.
    """
    trace = Trace(Identity.parse(event_id))
    damaged: list[str] = []
    for path in (file for each in paths for file in recorded_files(each)):
        try:
            for found in found_in(path):
                trace.searched[found.topic] += 1
                trace.take(found)
                progress(1)
        except DecodeError as wrong:
            damaged.append(str(wrong))
    _check(trace, " ".join(map(str, paths)), damaged)
    return trace


def in_topics(
    event_id: str,
    bootstrap_servers: str,
    prefix: str = "",
    since_us: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Trace:
    """The trace from a broker. Only records that can be about the event are decoded.

    Args:
        since_us: look at what was stamped then or later, microseconds since 1970; compacted topics are read whole.

    Raises: DecodeError: no event id. UnavailableError: no broker or topics. CheckFailed: no record of the event.
    """
    trace = Trace(Identity.parse(event_id))
    for topic in SEARCHED:
        reading = records.messages(
            bootstrap_servers, [topic.named(prefix)], since_us=None if topic.compacted else since_us
        )
        for message in reading:
            progress(1)
            payload = message.value
            if payload is None or not trace.wants(topic.name, payload):
                continue
            try:
                record = decode(payload, topic.record)
            except DecodeError:
                trace.unreadable += 1
                continue
            trace.take(Found(topic.name, record, Stamp(message.partition, message.offset, message.timestamp)))
    _check(trace, bootstrap_servers, [])
    return trace


def _check(trace: Trace, where: str, damaged: Sequence[str]) -> None:
    if trace.is_found:
        return
    epoch = trace.device_seqs.get(trace.identity.boot_epoch)
    device = trace.identity.device_id
    if epoch is not None and epoch[0] < trace.identity.seq < epoch[1]:
        fix = (
            "events before and after it are there: its window was answered at the edge and not drawn for the audit "
            "sample, so nothing of it travelled but a share of an aggregate"
        )
    elif trace.device_seqs:
        known = "; ".join(
            f"{device}:{b}:{low} to {device}:{b}:{high}" for b, (low, high) in sorted(trace.device_seqs.items())
        )
        fix = f"of that device there are {known}"
    else:
        fix = "there is nothing of that device; topics forget after their retention, so look into a recording with --in"
    raise CheckFailed(
        "no record of that event",
        event=trace.identity.event_id,
        where=where,
        searched=", ".join(f"{topic}: {count}" for topic, count in trace.searched.items()) or "nothing",
        **({"damaged": list(damaged)} if damaged else {}),
        fix=fix,
    )
