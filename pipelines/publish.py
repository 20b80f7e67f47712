"""Publish a model package: its files as chunks, then the update that names them. Edges and pipelines follow."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from pipelines.io.onnx import OnnxRuntime
from schemas import topics
from schemas.artifacts import chunk_key, cut
from schemas.codec import decode, encode
from schemas.errors import DecodeError, UnavailableError
from schemas.manifest import Package, load_package
from schemas.records import ModelUpdate
from schemas.scoring import Scorer

VALID_US = 7 * 24 * 3600 * 1_000_000
#: How long reading what was published may take.
READ_TIMEOUT_S = 30.0


def read_package(folder: str) -> Package:
    """A package with both halves, each tried on this machine. Raises ModelError."""
    package = load_package(lambda name: (Path(folder) / name).read_bytes(), ("edge", "heavy"))
    halves: tuple[Literal["edge"], Literal["heavy"]] = ("edge", "heavy")
    for which in halves:
        half = getattr(package.manifest, which)
        Scorer(package, which, OnnxRuntime(package.files[half.file]))
    return package


def publish(
    package: Package, bootstrap_servers: str, topic_prefix: str = "", client: Mapping[str, Any] | None = None
) -> ModelUpdate:
    """Send a package; returns the update once the broker has everything. Raises UnavailableError."""
    manifest = package.manifest
    now_us = time.time_ns() // 1000  # noqa: TID251  # a command: it stamps what it publishes
    update = ModelUpdate(
        model_name=manifest.name,
        version=manifest.version,
        cohort=manifest.cohort,
        manifest=package.manifest_bytes,
        manifest_sha256=hashlib.sha256(package.manifest_bytes).digest(),
        issued_at=now_us,
        expires_at=now_us + VALID_US,
    )
    try:
        producer = KafkaProducer(
            **{"bootstrap_timeout_ms": 10_000} | dict(client or {}),
            bootstrap_servers=bootstrap_servers,
            acks="all",
            enable_idempotence=True,
        )
        try:
            chunks = [chunk for data in package.files.values() for chunk in cut(data)]
            sent = [
                producer.send(topics.ARTIFACTS.named(topic_prefix), key=chunk_key(c), value=encode(c)) for c in chunks
            ]
            for future in sent:
                future.get(timeout=30)
            name = manifest.name.encode()
            producer.send(topics.MODELS.named(topic_prefix), key=name, value=encode(update)).get(timeout=30)
        finally:
            producer.close(timeout=10)
    except KafkaError as cause:
        raise UnavailableError(
            f"the model could not be published: {type(cause).__name__}: {cause}",
            bootstrap_servers=bootstrap_servers,
            fix="is the broker up and are the topics created? `tidegate status` tells",
        ) from cause
    return update


def published_version(
    model_name: str, bootstrap_servers: str, topic_prefix: str = "", client: Mapping[str, Any] | None = None
) -> int | None:
    """Newest version of a model that was published, as the topic has it; None where there is none.

    Raises UnavailableError: the broker or the topic is not there, or does not answer in time.
    """
    known = {name: value for name, value in (client or {}).items() if name in KafkaConsumer.DEFAULT_CONFIG}
    partition = TopicPartition(topics.MODELS.named(topic_prefix), 0)
    newest: int | None = None
    deadline_s = time.monotonic() + READ_TIMEOUT_S
    try:
        consumer = KafkaConsumer(**{"bootstrap_timeout_ms": 10_000} | known, bootstrap_servers=bootstrap_servers)
        try:
            if partition.topic not in consumer.topics():
                raise UnavailableError(
                    "the topic of the models is not there",
                    topic=partition.topic,
                    fix="make it with `tidegate topics apply`",
                )
            consumer.assign([partition])
            consumer.seek_to_beginning(partition)
            end = consumer.end_offsets([partition])[partition]
            while consumer.position(partition) < end:
                if time.monotonic() > deadline_s:
                    raise UnavailableError("the topic of the models cannot be read in time", topic=partition.topic)
                for message in consumer.poll(timeout_ms=500).get(partition, ()):
                    with contextlib.suppress(DecodeError):  # whoever reads it for its models says what is wrong with it
                        update = decode(message.value or b"", ModelUpdate)
                        if update.model_name == model_name:
                            newest = max(update.version, newest or 0)
        finally:
            consumer.close()
    except KafkaError as cause:
        raise UnavailableError(
            f"the published models could not be read: {type(cause).__name__}: {cause}",
            bootstrap_servers=bootstrap_servers,
        ) from cause
    return newest
