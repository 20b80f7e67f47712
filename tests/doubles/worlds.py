"""Two logs for one contract: the one in memory, and the real broker through either library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, KafkaAdminClient
from kafka.structs import OffsetAndMetadata

from deploy.broker import Broker
from deploy.cluster import Cluster, TopicState
from pipelines.io.feed import Feed
from pipelines.io.feed_config import FeedConfig
from pipelines.io.partition import Partition
from pipelines.io.transport import LogReader
from schemas.librdkafka import Library
from tests.doubles.log import MemoryLog
from tests.wait import until


class InMemory:
    """The double, with the calls of `OnBroker`."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.create, self.write, self.commit = self.log.create, self.log.write, self.log.commit
        self.delete_before, self.add_partitions = self.log.delete_before, self.log.add_partitions
        self.compact, self.stop, self.start = self.log.compact, self.log.stop, self.log.start
        self.remake = self.create_compacted = self.log.create
        self.settings: dict[str, Any] = {}

    def feed(self, config: FeedConfig) -> Feed:
        return Feed(config, self.log.reader_for(config.group_id))

    def reader(self, topic: str) -> LogReader:
        return self.log.reader()

    def fill(self, topic: str, values: list[bytes], partitions: int) -> None:
        for number in range(partitions):
            for value in values:
                self.log.write(topic, value, partition=number)

    def transaction(self, topic: str, value: bytes) -> Callable[[], None]:
        self.log.begin(topic)
        self.log.write(topic, value)
        return lambda: self.log.commit_transaction(topic)

    def close(self) -> None:
        self.log.start()


class OnBroker:
    """The real broker, read through one library; always written to through kafka-python."""

    def __init__(self, broker: Broker, library: Library) -> None:
        self._broker, self._servers, self._library = broker, broker.bootstrap_servers, library
        self._open: list[Any] = []
        self.settings = {"client": {"metadata_max_age_ms": 300}}

    def feed(self, config: FeedConfig) -> Feed:
        return Feed(config)

    def reader(self, topic: str) -> LogReader:
        return FeedConfig(topics=(topic,), bootstrap_servers=self._servers, library=self._library).reader()

    def fill(self, topic: str, values: list[bytes], partitions: int) -> None:
        with KafkaProducer(bootstrap_servers=self._servers) as out:
            for number in range(partitions):
                for value in values:
                    out.send(topic, value, partition=number)
            out.flush()

    def create(self, topic: str, partitions: int = 1, config: dict[str, str] | None = None) -> None:
        with Cluster(self._servers) as cluster:
            cluster.create([TopicState(topic, partitions, config or {})])

    def remake(self, topic: str) -> None:
        with Cluster(self._servers) as cluster:
            cluster.delete([topic])
            until(lambda: not cluster.topics([topic]), "the topic is gone")
            cluster.create([TopicState(topic, 1)])

    def add_partitions(self, topic: str, partitions: int) -> None:
        with Cluster(self._servers) as cluster:
            cluster.add_partitions(topic, partitions)

    def write(self, topic: str, value: bytes | None, key: bytes | None = None, partition: int = 0) -> int:
        with KafkaProducer(bootstrap_servers=self._servers) as out:
            offset: int = out.send(topic, value, key=key, partition=partition).get(20).offset
            return offset

    def commit(self, group_id: str, partition: Partition, offset: int, note: str) -> None:
        consumer = KafkaConsumer(bootstrap_servers=self._servers, group_id=group_id)
        consumer.commit({TopicPartition(*partition): OffsetAndMetadata(offset, note, -1)})
        consumer.close()

    def delete_before(self, topic: str, offset: int) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self._servers)
        admin.delete_records({TopicPartition(topic, 0): offset})
        admin.close()

    def create_compacted(self, topic: str) -> None:
        """A topic that puts each record in a segment of its own; the last one is never compacted."""
        with Cluster(self._servers) as cluster:
            config = {"cleanup.policy": "compact", "segment.ms": "1", "min.cleanable.dirty.ratio": "0.0"}
            cluster.create([TopicState(topic, 1, config)])

    def compact(self, topic: str) -> None:
        """Make the broker's cleaner come by soon, and wait until it has been there."""
        admin = KafkaAdminClient(bootstrap_servers=self._servers)
        admin.alter_configs([ConfigResource("BROKER", "1", {"log.cleaner.backoff.ms": "100"})])
        admin.close()
        consumer = KafkaConsumer(bootstrap_servers=self._servers)
        tp = TopicPartition(topic, 0)
        consumer.assign([tp])

        def shrunk() -> bool:
            consumer.seek_to_beginning(tp)
            end, seen = consumer.end_offsets([tp])[tp], 0
            while consumer.position(tp) < end:
                seen += sum(map(len, consumer.poll(timeout_ms=200).values()))
            return bool(seen < end)

        until(shrunk, "the log is compacted", within_s=60)
        consumer.close()

    def transaction(self, topic: str, value: bytes) -> Callable[[], None]:
        out = KafkaProducer(bootstrap_servers=self._servers, transactional_id=topic)
        self._open.append(out)
        out.init_transactions()
        out.begin_transaction()
        out.send(topic, value, partition=0).get(20)
        return out.commit_transaction  # type: ignore[no-any-return]

    def stop(self) -> None:
        self._broker.kill()

    def start(self) -> None:
        self._broker.start()

    def close(self) -> None:
        self._broker.start()
        for producer in self._open:
            producer.close()


World = InMemory | OnBroker
