"""What a feed reads, and with which consumer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kafka import KafkaConsumer, KafkaProducer

from pipelines.dedupe import Last
from pipelines.io.chunk import Resume
from pipelines.io.kafka_python import KafkaPythonReader, KafkaPythonTransactions
from pipelines.io.transport import ATTEMPT_S, LogReader, Transactions
from schemas.errors import ConfigError
from schemas.librdkafka import Library

#: Ours whatever the user sets, because the source stands on them.
FIXED = {
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
}
#: Ours unless the user sets them.
DEFAULTS = {
    "request_timeout_ms": 10_000,
    "bootstrap_timeout_ms": 5_000,
    "reconnect_backoff_max_ms": 1_000,
    "metadata_max_age_ms": 30_000,
    "fetch_max_bytes": 16 << 20,
    "metrics_enabled": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedConfig:
    """What a feed reads and how much it may hold.

    topics:             read together by one consumer; all of them must exist before anything is handed out.
    group_id:           names the committed offsets to start from; None starts at the beginning, without commits.
    client:             further settings of kafka-python's consumer (TLS, SASL, ...).
    library:            which client reads; offsets and transactions are kafka-python's in any case.
    start_deadline_s:   how long the broker and the topics may be missing at start; None waits for ever.
    buffer_bytes:       for all partitions together; a partition pauses when its share is full.
    memory_topic:       where earlier runs have kept what the dedupe knew; empty: nowhere.
    warm_up_records:    how many records before the committed offset are read again, for what they tell the dedupe,
                        where no earlier run has kept anything; `most_warm_up` in any case.
    outage_grace_s:     how long after an outage the watermarks still stand, for producers to come back with what they
                        could not send; as long as their longest pause between two attempts to connect.
    silence_after_s:    how long a partition must have brought nothing before the broker is asked about it.
    """

    topics: tuple[str, ...]
    bootstrap_servers: str
    group_id: str | None = None
    client: Mapping[str, Any] = field(default_factory=dict)
    start_deadline_s: float | None = None
    buffer_bytes: int = 64 << 20
    warm_up_records: int = 0
    most_warm_up: int = 200_000
    outage_grace_s: float = 5.0
    silence_after_s: float = 0.5
    library: Library = "kafka-python"
    memory_topic: str = ""

    def __post_init__(self) -> None:
        if not self.topics:
            raise ConfigError("a Kafka source needs at least one topic")
        if unknown := sorted(set(self.client) - set(KafkaConsumer.DEFAULT_CONFIG)):
            raise ConfigError("settings that kafka-python's consumer does not have", settings=unknown)
        if taken := sorted(set(self.client) & {*FIXED, "group_id", "bootstrap_servers"}):
            raise ConfigError("settings of the consumer that the source decides by itself", settings=taken)
        if self.library == "confluent":
            from pipelines.io.confluent import check

            check(self.client)

    def consumer(self, **extra: Any) -> KafkaConsumer:
        """A consumer with our settings. Raises KafkaError: the broker is not there."""
        mine = {"bootstrap_servers": self.bootstrap_servers, "group_id": self.group_id}
        return KafkaConsumer(**{**DEFAULTS, **self.client, **FIXED, **mine, **extra})

    def producer(self) -> KafkaProducer:
        """A producer for the memory topic. Raises KafkaError: the broker is not there."""
        client = {name: value for name, value in self.client.items() if name in KafkaProducer.DEFAULT_CONFIG}
        mine = {"bootstrap_servers": self.bootstrap_servers, "acks": "all", "allow_auto_create_topics": False}
        return KafkaProducer(**{"max_block_ms": 10_000, "metrics_enabled": False, **client, **mine})

    def reader(self, *, read_committed: bool = True) -> LogReader:
        """The log through the chosen library. One that sees open transactions, too, knows no committed offsets.

        Raises LogAway: the broker is not there. MissingToolError: the library is not installed.
        """
        if self.library == "confluent":
            from pipelines.io.confluent import ConfluentReader

            return ConfluentReader(
                self.bootstrap_servers,
                {**DEFAULTS, **self.client},
                self.consumer,
                queued_bytes=self.buffer_bytes // 4,
                read_committed=read_committed,
            )
        other = {} if read_committed else {"isolation_level": "read_uncommitted", "group_id": None}
        return KafkaPythonReader(lambda: self.consumer(**other))

    def transactions(self, transactional_id: str) -> Transactions:
        """Takes that name over, to write records and this group's offsets; with kafka-python in any case.

        Raises Trouble.
        """
        assert self.group_id is not None
        client = {name: value for name, value in self.client.items() if name in KafkaProducer.DEFAULT_CONFIG}
        return KafkaPythonTransactions(self.bootstrap_servers, transactional_id, self.group_id, client, ATTEMPT_S)


class Start(NamedTuple):
    """Where reading of a partition begins: at `offset`, as the commit of an earlier run in `resume` tells.

    Records from `offset` up to `live_from` are only for warming up the dedupe, which learns `known` before. `whole`:
    nobody whom it does not know then has sent anything before.
    """

    offset: int
    live_from: int
    resume: Resume
    whole: bool = False
    known: Mapping[str, Last] = {}
