"""Topics of a broker, or a folder of recorded ones, into a book.

The order matters where devices are at work: statuses are read first, so whatever they call acknowledged is in the
topics that are read after them, and what they call dropped is named in the gap markers that are read after those;
decisions are read last.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deploy import records
from deploy.cluster import reach, unreachable
from deploy.ledger.book import LANES, Book, Place
from deploy.recording.files import found_in, recorded_files, topic_of
from deploy.records import Line
from schemas import topics
from schemas.errors import ConfigError

_ORDER = ([topics.STATUS.name], list(LANES), [topics.GAPS.name], [topics.DECISIONS.name, topics.DEAD_LETTERS.name])
#: What speaks of all that came before it, so that it is read from its beginning.
_WHOLE = (topics.STATUS.name, topics.GAPS.name)
_ALL = [name for names in _ORDER for name in names]


def from_broker(
    bootstrap_servers: str,
    prefix: str,
    *,
    since_us: int | None = None,
    decisions: bool = True,
    device: str = "",
    group: str = "",
    progress: Callable[[int], None] = lambda _: None,
) -> Book:
    """Read what is in the topics now. `since_us`: only what came then or later; statuses and gap markers are read
    from their start. `group`: the pipeline's; its positions are read before the decisions, so what lies before them is
    decided there.

    Raises UnavailableError: no broker, or no such topic.
    """
    book = Book()
    book.checks_decisions = decisions
    cut = set(_ALL) if since_us is not None else _begun(bootstrap_servers, prefix)
    book.cut |= cut - set(_WHOLE)
    for names in _ORDER:
        wanted = [name for name in names if decisions or name != topics.DECISIONS.name]
        since = None if names[0] in _WHOLE else since_us
        for message in records.messages(bootstrap_servers, [prefix + name for name in wanted], since_us=since):
            progress(1)
            line = Line.of(message)
            place = Place(line.topic.removeprefix(prefix), line.partition, line.offset, line.stamped_ms)
            if line.problem is not None:
                book.take_unreadable(place, line.payload or b"", line.problem)
            elif line.record is not None and _of(line.record, device):
                book.take(place, line.record)
        if decisions and group and names == list(LANES):
            book.committed = _committed(bootstrap_servers, prefix, group)
    return book


def from_folder(folder: Path, *, decisions: bool = True, device: str = "") -> Book:
    """Read a folder of recorded topics. Decisions are looked at where they were recorded, too.

    Raises ConfigError: nothing is recorded there. DecodeError: a file is damaged.
    """
    if not folder.is_dir():
        raise ConfigError("not a folder of recorded topics", folder=str(folder), fix="make one with `tidegate record`")
    files = {topic_of(path): path for path in recorded_files(folder) if topic_of(path) in _ALL}
    if not files.keys() & set(LANES):
        raise ConfigError("no topic of a device is recorded here", folder=str(folder), wants=", ".join(LANES))
    book = Book()
    book.checks_decisions = decisions and topics.DECISIONS.name in files
    for name in _ALL:
        if name not in files or (name == topics.DECISIONS.name and not decisions):
            continue
        for found in found_in(files[name]):
            stamp = found.stamp
            place = Place(name) if stamp is None else Place(name, stamp.partition, stamp.offset, stamp.stamped_ms)
            if _of(found.record, device):
                book.take(place, found.record)
    book.missing |= set(LANES) - files.keys()
    return book


def _of(record: object, device: str) -> bool:
    return not device or getattr(record, "device_id", device) == device


def _committed(bootstrap_servers: str, prefix: str, group: str) -> dict[tuple[str, int], int]:
    """Positions of a group in the topic of events; empty where it has none."""
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError

    name = topics.EVENTS.named(prefix)
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=bootstrap_servers.split(","),
            group_id=group,
            enable_auto_commit=False,
            bootstrap_timeout_ms=10_000,
        )
    except KafkaError as cause:
        raise unreachable(bootstrap_servers, cause) from cause
    try:
        numbers = sorted(consumer.partitions_for_topic(name) or ())
        found = {number: consumer.committed(TopicPartition(name, number)) for number in numbers}
        return {(topics.EVENTS.name, number): at for number, at in found.items() if at is not None}
    except KafkaError as cause:
        raise unreachable(bootstrap_servers, cause) from cause
    finally:
        consumer.close()


def _begun(bootstrap_servers: str, prefix: str) -> set[str]:
    """Topics whose first records are gone: retention has taken them."""
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError

    reach(bootstrap_servers, timeout_s=10.0)
    try:
        consumer = KafkaConsumer(bootstrap_servers=bootstrap_servers.split(","), bootstrap_timeout_ms=10_000)
    except KafkaError as cause:
        raise unreachable(bootstrap_servers, cause) from cause
    try:
        partitions = [
            TopicPartition(prefix + name, number)
            for name in _ALL
            for number in consumer.partitions_for_topic(prefix + name) or ()
        ]
        begins = consumer.beginning_offsets(partitions) if partitions else {}
        return {partition.topic.removeprefix(prefix) for partition, offset in begins.items() if offset}
    except KafkaError as cause:
        raise unreachable(bootstrap_servers, cause) from cause
    finally:
        consumer.close()
