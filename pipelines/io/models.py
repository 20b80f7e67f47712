"""What the feedback topics say, inside a worker: heavy models, manifests, and thresholds in force.

Neither Prism nor portable Flink can carry models in side inputs (wrong windows on one, a crash loop on the other), so
each process has one watcher that follows the compacted topics and swaps whole Scorers by reference. A DoFn takes one
reference per batch: a batch never mixes two models, and every decision carries the hash of the one it used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from pipelines.io.onnx import OnnxRuntime
from schemas import topics
from schemas.artifacts import Assembler
from schemas.codec import decode
from schemas.errors import DecodeError, ModelError, TidegateError, UnavailableError, UpdateRefused
from schemas.manifest import Levels, Manifest, Package, check_file, load_package, parse_manifest
from schemas.records import ArtifactChunk, ModelUpdate, ThresholdUpdate
from schemas.scoring import Scorer

log = logging.getLogger(__name__)

#: Versions of thresholds are microseconds or smaller; beyond this there would soon be no number left for a newer one.
MAX_VERSION = 2**62


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

    Raises ModelError: a folder is no package, its heavy model does not work here, or two have one name.
    """

    def __init__(self, folders: list[str]) -> None:
        self._scorers: dict[str, Scorer] = {}
        for folder in folders:
            scorer = read_heavy(folder)
            name = scorer.manifest.name
            if name in self._scorers:
                raise ModelError(
                    "two packages have the same model name", name=name, folder=folder, fix="give one of them"
                )
            self._scorers[name] = scorer

    def heavy(self, model_name: str) -> Scorer | None:
        """See Shelf."""
        return self._scorers.get(model_name)

    def thresholds(self, target: str) -> ThresholdUpdate | None:
        """Nothing is ever in force but the package's defaults."""
        return None


def read_heavy(folder: str) -> Scorer:
    """The heavy model of the package in a folder. Raises ModelError: there is none, or it does not work here."""
    return _scorer(load_package(_reader(folder), ("heavy",)))


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

    @property
    def in_force(self) -> int:
        """How many heavy models are in force."""
        return len(self._scorers)

    def take(self, topic: str, payload: bytes) -> None:
        """One message of a feedback topic (name without prefix)."""
        try:
            if topic == topics.ARTIFACTS.name:
                refusal = self._files.add(decode(payload, ArtifactChunk))
                if refusal:
                    raise ModelError(refusal)
            elif topic == topics.MODELS.name:
                update = decode(payload, ModelUpdate)
                manifest = _believed(update)
                if self._is_newer(update):
                    self._waiting[update.model_name] = update, manifest
            else:
                change = decode(payload, ThresholdUpdate)
                _check_thresholds(change)
                known = self._thresholds.get(change.target)
                if known is None or change.version > known.version:
                    self._thresholds[change.target] = change
            self._load_waiting()
        except (DecodeError, ModelError, UpdateRefused) as refusal:
            self._refuse(topic, refusal)

    def _is_newer(self, update: ModelUpdate) -> bool:
        """Whether an update replaces what is in force; False where it is what is in force. Raises UpdateRefused."""
        running = self._scorers.get(update.model_name)
        waiting = self._waiting.get(update.model_name)
        where: dict[str, Any] = {"model": update.model_name, "version": update.version}
        if running is not None:
            if update.manifest_sha256 == running.package.sha256:
                return False
            if update.version <= running.manifest.version:
                raise UpdateRefused(
                    "the model is not newer than the one in force", **where, have=running.manifest.version
                )
        if waiting is not None and update.version < waiting[0].version:
            raise UpdateRefused(
                "the model is older than one that waits for its files", **where, have=waiting[0].version
            )
        return True

    def _file(self, sha256: bytes) -> bytes | None:
        """A file from the topic, or from a package in force that has it in common."""
        found = self._files.get(sha256)
        if found is None:
            for scorer in self._scorers.values():
                if scorer.half.sha256 == sha256.hex():
                    return scorer.package.files[scorer.half.file]
        return found

    def _load_waiting(self) -> None:
        loaded = []
        for name, (update, manifest) in list(self._waiting.items()):
            data = self._file(bytes.fromhex(manifest.heavy.sha256))
            if data is None:
                continue
            del self._waiting[name]
            try:
                check_file(manifest.heavy, data)
                self._scorers[name] = self._load(Package(manifest, update.manifest, {manifest.heavy.file: data}))
                log.info("heavy model in force: %s version %d", name, manifest.version)
            except ModelError as refusal:
                self._refuse(topics.MODELS.name, refusal)
            loaded += [manifest.heavy.sha256, manifest.edge.sha256]
        wanted = {manifest.heavy.sha256 for _, manifest in self._waiting.values()}
        for sha256 in set(loaded) - wanted:
            self._files.drop(bytes.fromhex(sha256))

    def _refuse(self, topic: str, refusal: TidegateError) -> None:
        log.warning("refused a message of %s, what was in force stays: %s", topic, refusal)
        self.refused = [*self.refused[-99:], f"{topic}: {refusal}"]


def _believed(update: ModelUpdate) -> Manifest:
    """Manifest of an update. Raises UpdateRefused or ModelError: it is not what the update says."""
    where: dict[str, Any] = {"model": update.model_name, "version": update.version}
    got = hashlib.sha256(update.manifest).digest()
    if got != update.manifest_sha256:
        want = update.manifest_sha256.hex()
        raise UpdateRefused("the manifest is not the one that was announced", **where, want=want, got=got.hex())
    manifest = parse_manifest(update.manifest)
    if (manifest.name, manifest.version, manifest.cohort) != (update.model_name, update.version, update.cohort):
        says = f"{manifest.name} {manifest.version} for {manifest.cohort}"
        raise UpdateRefused("the manifest says something else than its update", **where, manifest=says)
    return manifest


def _check_thresholds(change: ThresholdUpdate) -> None:
    """Raises UpdateRefused: no edge would obey it, or none could obey a later one."""
    where: dict[str, Any] = {"target": change.target, "version": change.version}
    try:
        Levels(escalate_at=change.escalate_at, raise_at=change.raise_at, clear_at=change.clear_at)
    except ValueError:
        raise UpdateRefused(
            "thresholds must be finite and satisfy clear_at <= escalate_at <= raise_at",
            **where,
            clear_at=change.clear_at,
            escalate_at=change.escalate_at,
            raise_at=change.raise_at,
        ) from None
    if change.version > MAX_VERSION:
        raise UpdateRefused("the version leaves no room for newer ones", **where, max_version=MAX_VERSION)


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """What a watcher connects to. Travels to workers inside DoFns.

    `client`: JSON object of further settings of the Kafka client, such as security_protocol.
    """

    bootstrap_servers: str
    topic_prefix: str = ""
    ready_timeout_s: float = 60.0
    client: str = "{}"


class Watcher:
    """Follows the feedback topics in a thread of its own; one per process and settings."""

    def __init__(self, settings: WatchSettings) -> None:
        self._settings = settings
        self._shelves = Shelves()
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._problem = "no answer yet"
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
                cause=self._problem,
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
                self._problem = f"{type(cause).__name__}: {cause}"
                log.warning("feedback watcher lost the broker (%s); trying again", self._problem)
                self._stop.wait(1.0)
            except Exception as cause:  # the thread's boundary: without it a defect would look like a silent broker
                self._problem = f"{type(cause).__name__}: {cause}"
                log.exception("feedback watcher failed; starting again")
                self._stop.wait(1.0)

    def _follow_once(self) -> None:
        consumer = KafkaConsumer(
            **{"bootstrap_timeout_ms": 2_000} | json.loads(self._settings.client),  # short, so that `close` is, too
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

            def read_all(some: Iterable[TopicPartition]) -> bool:
                return all(consumer.position(p) >= ends[p] for p in some)

            # Updates first, and then the files: so that each file is used as soon as it is whole, and room is needed
            # for one of them instead of for everything that was ever published.
            files = [p for p in partitions if names[p.topic] == topics.ARTIFACTS.name]
            updates = [p for p in partitions if p not in files]
            consumer.pause(*files)
            while not self._stop.is_set():
                for partition, messages in consumer.poll(timeout_ms=200).items():
                    for message in messages:
                        if message.value is not None:
                            self._shelves.take(names[partition.topic], message.value)
                if consumer.paused() and read_all(updates):
                    consumer.resume(*files)
                if not self._ready.is_set() and read_all(partitions):
                    self._ready.set()
        finally:
            consumer.close()

    def _partitions(self, consumer: KafkaConsumer, names: list[str]) -> list[TopicPartition]:
        while not self._stop.is_set():
            found = {name: consumer.partitions_for_topic(name) for name in names}
            if all(found.values()):
                return [TopicPartition(name, p) for name in names for p in sorted(found[name])]
            self._problem = f"no topic {', '.join(name for name, known in found.items() if not known)}"
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
