"""The admin side of a Kafka cluster: is it there, which topics does it have, make them as the catalogue says.

The only module of deploy that uses kafka-python's admin client, which has no types of its own.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from schemas.errors import UnavailableError

#: Pause between two attempts to reach a broker that is starting.
_PAUSE_S = 0.05


@dataclass(frozen=True)
class TopicState:
    """A topic as the broker has it: `config` holds only what was set on the topic itself."""

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)


class Cluster:
    """An open admin connection; use it as a context manager.

    Args:
        bootstrap_servers: `host:port`, several separated by commas.
        timeout_s: for reaching the cluster.

    Raises: UnavailableError: nobody answers there.
    """

    def __init__(self, bootstrap_servers: str, *, timeout_s: float = 10.0) -> None:
        from kafka.admin import KafkaAdminClient
        from kafka.errors import KafkaError

        self.bootstrap_servers = bootstrap_servers
        reach(bootstrap_servers, timeout_s=timeout_s)
        try:
            self._admin: Any = KafkaAdminClient(
                bootstrap_servers=bootstrap_servers.split(","),
                client_id="tidegate",
                bootstrap_timeout_ms=int(timeout_s * 1000),
            )
        except (KafkaError, OSError, ValueError) as cause:
            raise unreachable(bootstrap_servers, cause) from cause

    def close(self) -> None:
        """Close the connection."""
        self._admin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def brokers(self) -> list[str]:
        """`host:port` of every broker that takes part."""
        return [f"{b['host']}:{b['port']}" for b in self._admin.describe_cluster()["brokers"] if not b.get("is_fenced")]

    def cluster_id(self) -> str:
        """The id that its storage was formatted with."""
        return str(self._admin.describe_cluster()["cluster_id"])

    def topics(self, names: Iterable[str] | None = None) -> dict[str, TopicState]:
        """The named topics that exist (all but Kafka's own when None), with partitions and their own configuration."""
        from kafka.admin import ConfigResource

        wanted = None if names is None else set(names)
        found = {
            t["name"]: len(t["partitions"])
            for t in self._admin.describe_topics()
            if not t["is_internal"] and (wanted is None or t["name"] in wanted)
        }
        if not found:
            return {}
        described = self._admin.describe_configs([ConfigResource("TOPIC", name) for name in found])
        configs = {name: {k: v["value"] for k, v in c.items()} for name, c in described["topic"].items()}
        return {name: TopicState(name, count, configs.get(name, {})) for name, count in found.items()}

    def records(self, topics: Iterable[TopicState]) -> dict[str, int]:
        """How many offsets each topic spans, from the first kept to the end; a compacted topic holds fewer records."""
        from kafka import TopicPartition
        from kafka.admin import OffsetSpec

        partitions = [TopicPartition(topic.name, number) for topic in topics for number in range(topic.partitions)]
        if not partitions:
            return {}
        first = self._admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
        end = self._admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
        out: dict[str, int] = {}
        for partition in partitions:
            out[partition.topic] = out.get(partition.topic, 0) + end[partition].offset - first[partition].offset
        return out

    def create(self, topics: Iterable[TopicState], *, timeout_s: float = 30.0) -> None:
        """Create topics and wait until each has a leader on every partition. A topic that exists is left as it is."""
        from kafka.errors import KafkaError, TopicAlreadyExistsError, for_code

        wanted = {t.name: t for t in topics}
        if not wanted:
            return
        made = self._admin.create_topics(
            {t.name: {"num_partitions": t.partitions, "configs": t.config} for t in wanted.values()}, raise_errors=False
        )
        for topic in made["topics"]:
            error: type[KafkaError] = for_code(topic["error_code"])
            if topic["error_code"] and error is not TopicAlreadyExistsError:
                raise UnavailableError(
                    f"the broker refused to create a topic: {topic.get('error_message') or error.__name__}",
                    topic=topic["name"],
                    broker=self.bootstrap_servers,
                )
        self._admin.wait_for_topics(list(wanted), timeout_ms=int(timeout_s * 1000))

    def delete(self, names: Iterable[str]) -> None:
        """Delete topics and what is in them; a topic that is not there is no error."""
        from kafka.errors import KafkaError, UnknownTopicOrPartitionError, for_code

        gone = self._admin.delete_topics(list(names), raise_errors=False)
        for topic in gone["topics"]:
            error: type[KafkaError] = for_code(topic["error_code"])
            if topic["error_code"] and error is not UnknownTopicOrPartitionError:
                raise UnavailableError(
                    "the broker refused to delete a topic", topic=topic["name"], error=error.__name__
                )

    def set_config(self, topic: str, config: Mapping[str, str]) -> None:
        """Set these keys of one topic; others stay."""
        from kafka.admin import ConfigResource

        self._admin.alter_configs([ConfigResource("TOPIC", topic, dict(config))])
        self._until_seen(topic, lambda now: config.items() <= now.config.items())

    def add_partitions(self, topic: str, partitions: int) -> None:
        """Grow a topic to `partitions`. Keys then move to other partitions."""
        self._admin.create_partitions({topic: partitions})
        self._until_seen(topic, lambda now: now.partitions == partitions)

    def _until_seen(self, topic: str, changed: Callable[[TopicState], bool], timeout_s: float = 10.0) -> None:
        """Wait for a change to show: the controller answers before the brokers have heard of it."""
        deadline = time.monotonic() + timeout_s
        while not changed(self.topics([topic])[topic]):
            if time.monotonic() > deadline:
                raise UnavailableError(f"a change was accepted and does not show after {timeout_s:g} s", topic=topic)
            time.sleep(_PAUSE_S)


def reach(bootstrap_servers: str, *, timeout_s: float) -> None:
    """Open and close one TCP connection: tells in milliseconds that nobody listens, where a client would keep trying.

    Raises: UnavailableError: no server of the list takes a connection.
    """
    cause: Exception | None = None
    for server in bootstrap_servers.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()
        except (OSError, ValueError, OverflowError) as error:
            cause = error
        else:
            return
    raise unreachable(bootstrap_servers, cause)


def unreachable(bootstrap_servers: str, cause: Exception | None) -> UnavailableError:
    """The sentence for a broker that does not answer."""
    return UnavailableError(
        f"no Kafka broker answers at {bootstrap_servers} ({cause})",
        fix="start one with `tidegate up`, or name yours with --bootstrap-servers or KAFKA_BOOTSTRAP_SERVERS",
    )


def wait_ready(
    bootstrap_servers: str, *, timeout_s: float, alive: Callable[[], bool] = lambda: True, cluster_id: str = ""
) -> None:
    """Wait until the broker answers a metadata request with itself in it; then topics can be made.

    Raises: UnavailableError: `alive()` turned false, `timeout_s` passed, or a broker of another cluster than
    `cluster_id` answers there.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        if not alive():
            raise UnavailableError("its process ended")
        left = deadline - time.monotonic()
        if left <= 0:
            raise UnavailableError(f"no answer within {timeout_s:g} s", broker=bootstrap_servers)
        try:
            reach(bootstrap_servers, timeout_s=min(left, 1.0))
            with Cluster(bootstrap_servers, timeout_s=min(left, 5.0)) as cluster:
                found = cluster.cluster_id() if cluster.brokers() else ""
        except UnavailableError:
            found = ""
        if found and found == (cluster_id or found):
            return
        if found:
            raise UnavailableError("another broker was faster to take its port", broker=bootstrap_servers)
        time.sleep(_PAUSE_S)
