"""What the feedback topics say, inside a worker: heavy models, manifests, and thresholds in force.

Neither Prism nor portable Flink can carry models in side inputs (wrong windows on one, a crash loop on the other), so
each process has one watcher that follows the compacted topics and swaps whole Scorers by reference. A DoFn takes one
reference per batch: a batch never mixes two models, and every decision carries the hash of the one it used.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from pipelines.io.onnx import OnnxRuntime
from schemas import topics
from schemas.artifacts import Assembler
from schemas.codec import decode
from schemas.errors import DecodeError, ModelError, TidegateError, UnavailableError
from schemas.manifest import Manifest, Package, check_file, load_package, parse_manifest
from schemas.records import ArtifactChunk, ModelUpdate, ThresholdUpdate
from schemas.scoring import Scorer

log = logging.getLogger(__name__)


class Shelf(Protocol):
    """Where a DoFn finds what is in force now."""

    def heavy(self, model_name: str) -> Scorer | None:
        """Heavy model of that name, or None where none is published."""
        ...

    def thresholds(self, target: str) -> ThresholdUpdate | None:
        """Latest update for a device or cohort, whoever issued it."""
        ...


class FolderShelf:
    """Models from package folders, for batch replay: nothing changes, and there is no feedback to follow.

    Raises ModelError: a folder is no package, or its heavy model does not work here.
    """

    def __init__(self, folders: list[str]) -> None:
        self._scorers: dict[str, Scorer] = {}
        for folder in folders:
            package = load_package(_reader(folder), ("heavy",))
            self._scorers[package.manifest.name] = _scorer(package)

    def heavy(self, model_name: str) -> Scorer | None:
        """See Shelf."""
        return self._scorers.get(model_name)

    def thresholds(self, target: str) -> ThresholdUpdate | None:
        """Nothing is ever in force but the package's defaults."""
        return None


def _reader(folder: str) -> Callable[[str], bytes]:
    return lambda name: (Path(folder) / name).read_bytes()


def _scorer(package: Package) -> Scorer:
    return Scorer(package, "heavy", OnnxRuntime(package.files[package.manifest.heavy.file]))


class Shelves:
    """The pure part of the watcher: messages in, models and thresholds out. Never raises for what a topic holds."""

    def __init__(self, load: Callable[[Package], Scorer] = _scorer) -> None:
        self._load = load
        self._files = Assembler()
        self._scorers: dict[str, Scorer] = {}
        self._waiting: dict[str, tuple[ModelUpdate, Manifest]] = {}
        self._thresholds: dict[str, ThresholdUpdate] = {}
        self.refused: list[str] = []

    def heavy(self, model_name: str) -> Scorer | None:
        """See Shelf."""
        return self._scorers.get(model_name)

    def thresholds(self, target: str) -> ThresholdUpdate | None:
        """See Shelf."""
        return self._thresholds.get(target)

    def take(self, topic: str, payload: bytes) -> None:
        """One message of a feedback topic (name without prefix)."""
        try:
            if topic == topics.ARTIFACTS.name:
                refusal = self._files.add(decode(payload, ArtifactChunk))
                if refusal:
                    raise ModelError(refusal)
            elif topic == topics.MODELS.name:
                update = decode(payload, ModelUpdate)
                self._waiting[update.model_name] = update, parse_manifest(update.manifest)
            else:
                change = decode(payload, ThresholdUpdate)
                known = self._thresholds.get(change.target)
                if known is None or change.version > known.version:
                    self._thresholds[change.target] = change
            self._load_waiting()
        except (DecodeError, ModelError) as refusal:
            self._refuse(topic, refusal)

    def _load_waiting(self) -> None:
        loaded = []
        for name, (update, manifest) in list(self._waiting.items()):
            data = self._files.get(bytes.fromhex(manifest.heavy.sha256))
            if data is None:
                continue
            del self._waiting[name]
            try:
                check_file(manifest.heavy, data)
                self._scorers[name] = self._load(Package(manifest, update.manifest, {manifest.heavy.file: data}))
                log.info("heavy model in force: %s version %d", name, manifest.version)
            except ModelError as refusal:
                self._refuse(topics.MODELS.name, refusal)
            loaded += [manifest.heavy, manifest.edge]
        for half in loaded:
            self._files.drop(bytes.fromhex(half.sha256))

    def _refuse(self, topic: str, refusal: TidegateError) -> None:
        log.warning("refused a message of %s, what was in force stays: %s", topic, refusal)
        self.refused = [*self.refused[-99:], f"{topic}: {refusal}"]


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """What a watcher connects to. Travels to workers inside DoFns."""

    bootstrap_servers: str
    topic_prefix: str = ""
    ready_timeout_s: float = 60.0


class Watcher:
    """Follows the feedback topics in a thread of its own; one per process and settings."""

    def __init__(self, settings: WatchSettings) -> None:
        self._settings = settings
        self._shelves = Shelves()
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="feedback-watcher", daemon=True)
        self._thread.start()

    def wait_ready(self) -> Shelf:
        """The shelf, once everything that was published before now has been read.

        Raises UnavailableError: the broker or the topics did not answer in time.
        """
        if not self._ready.wait(self._settings.ready_timeout_s):
            raise UnavailableError(
                "the feedback topics could not be read",
                bootstrap_servers=self._settings.bootstrap_servers,
                waited_s=self._settings.ready_timeout_s,
                fix="is the broker up and are the topics created? `tidegate status` tells",
            )
        return self._shelves

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        self._thread.join(timeout=10)

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow_once()
            except KafkaError as cause:  # the client reconnects by itself; what gets here is worth a new client
                log.warning("feedback watcher lost the broker (%s); trying again", cause)
                self._stop.wait(1.0)

    def _follow_once(self) -> None:
        consumer = KafkaConsumer(
            bootstrap_servers=self._settings.bootstrap_servers,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        try:
            names = {
                t.named(self._settings.topic_prefix): t.name
                for t in (topics.ARTIFACTS, topics.MODELS, topics.THRESHOLDS)
            }
            partitions = self._partitions(consumer, list(names))
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            ends = consumer.end_offsets(partitions)
            while not self._stop.is_set():
                for partition, messages in consumer.poll(timeout_ms=200).items():
                    for message in messages:
                        if message.value is not None:
                            self._shelves.take(names[partition.topic], message.value)
                if not self._ready.is_set() and all(consumer.position(p) >= ends[p] for p in partitions):
                    self._ready.set()
        finally:
            consumer.close()

    def _partitions(self, consumer: KafkaConsumer, names: list[str]) -> list[TopicPartition]:
        while not self._stop.is_set():
            found = {name: consumer.partitions_for_topic(name) for name in names}
            if all(found.values()):
                return [TopicPartition(name, p) for name in names for p in sorted(found[name])]
            time.sleep(0.2)
        return []


_WATCHERS: dict[WatchSettings, Watcher] = {}
_LOCK = threading.Lock()


def watcher(settings: WatchSettings) -> Watcher:
    """The watcher of this process for these settings; started on first use."""
    with _LOCK:
        if settings not in _WATCHERS:
            _WATCHERS[settings] = Watcher(settings)
        return _WATCHERS[settings]
