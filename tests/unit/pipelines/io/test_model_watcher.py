"""The watcher of models on a real broker."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import KafkaProducer

from deploy.broker import Broker
from pipelines.io.models import Watcher, WatchSettings, watcher
from pipelines.publish import publish, read_package
from schemas import topics
from schemas.codec import encode
from schemas.errors import UnavailableError
from tests.doubles import one_event
from tests.doubles.tiny_model import write_package
from tests.wait import until


@pytest.fixture
def watch() -> Iterator[Callable[..., Watcher]]:
    """Watchers that are closed after the test."""
    started: list[Watcher] = []

    def start(*settings: Any, **more: Any) -> Watcher:
        started.append(Watcher(WatchSettings(*settings, **more)))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.mark.kafka
def test_a_watcher_is_ready_only_when_all_that_was_published_is_read_and_then_follows(
    broker: Broker, catalogue: str, tmp_path: Path, watch: Callable[..., Watcher]
) -> None:
    servers = broker.bootstrap_servers
    for version in (1, 2, 3):
        publish(read_package(str(write_package(tmp_path / f"{version}", version=version))), servers, catalogue)
    with KafkaProducer(bootstrap_servers=servers) as producer:
        for version in range(1, 500):
            name = topics.THRESHOLDS.named(catalogue)
            producer.send(name, key=b"pump-1", value=encode(one_event.thresholds(version)))
        producer.send(topics.MODELS.named(catalogue), key=b"junk", value=b"junk")
        producer.send(topics.MODELS.named(catalogue), key=b"gone", value=None)
        producer.flush()
        shelf = watch(servers, catalogue).wait_ready()
        scorer, update = shelf.heavy("tiny"), shelf.thresholds("pump-1")
        assert scorer is not None
        assert scorer.manifest.version == 3
        assert update is not None
        assert update.version == 499

        publish(read_package(str(write_package(tmp_path / "4", version=4, heavy_gain=2.0))), servers, catalogue)
        newer = until(lambda: (s := shelf.heavy("tiny")) is not scorer and s, "the swap to version 4")
        assert newer.manifest.version == 4
        assert newer.score(np.full((1, 8, 2), 3.0, np.float32), ["x"]).tolist() == pytest.approx([6.0])
        assert scorer.manifest.version == 3  # who holds the old one keeps it whole


@pytest.mark.kafka
def test_a_watcher_outlives_the_broker(
    broker: Broker, catalogue: str, tmp_path: Path, watch: Callable[..., Watcher]
) -> None:
    servers = broker.bootstrap_servers
    publish(read_package(str(write_package(tmp_path / "1"))), servers, catalogue)
    shelf = watch(servers, catalogue).wait_ready()
    broker.stop()
    assert shelf.heavy("tiny") is not None
    broker.start()
    publish(read_package(str(write_package(tmp_path / "2", version=2))), servers, catalogue)
    until(lambda: (s := shelf.heavy("tiny")) and s.manifest.version == 2, "version 2 after the outage", within_s=60)


@pytest.mark.kafka
def test_missing_topics_are_named(broker: Broker, topic_prefix: str, watch: Callable[..., Watcher]) -> None:
    with pytest.raises(UnavailableError, match=rf"no topic .*{topic_prefix}feedback.artifacts"):
        watch(broker.bootstrap_servers, topic_prefix, ready_timeout_s=3.0).wait_ready()


def test_a_broker_that_is_down_at_start_is_a_sentence_after_the_timeout(watch: Callable[..., Watcher]) -> None:
    with socket.socket() as taken:  # bound but not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        servers = f"127.0.0.1:{taken.getsockname()[1]}"
        started_s = time.monotonic()
        with pytest.raises(UnavailableError) as raised:
            watch(servers, ready_timeout_s=1.0).wait_ready()
    assert time.monotonic() - started_s >= 1.0
    assert raised.value.problem == "the feedback topics could not be read"
    assert raised.value.where["bootstrap_servers"] == servers
    assert raised.value.fix == "is the broker up and are the topics created? `tidegate status` tells"


def test_one_process_has_one_watcher_for_the_same_settings() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        settings = WatchSettings(f"127.0.0.1:{taken.getsockname()[1]}")
        first = watcher(settings)
        assert watcher(WatchSettings(settings.bootstrap_servers)) is first
        first.close()
