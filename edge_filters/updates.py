"""Model updates: what is believed, which files are still missing, when a candidate is ready. Pure, bounded memory.

Accepts or raises UpdateRefused, and then the model that runs stays. `Trust` is the one place that says whether an
update is genuine; everything else here is about whether it fits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from schemas.artifacts import Assembler
from schemas.errors import ModelError, UpdateRefused
from schemas.manifest import Manifest, Package, check_file, parse_manifest
from schemas.records import ArtifactChunk, ModelUpdate

#: Largest edge model that is taken over the air. A light model is kilobytes; a device has little memory.
MAX_EDGE_MODEL_BYTES = 32 * 1024 * 1024


class Trust(Protocol):
    """The verdict on an update."""

    def judge(self, update: ModelUpdate, now_us: int) -> None:
        """Raises UpdateRefused: the update must not be believed."""
        ...


class HashTrust:
    """Believes an update whose manifest has the announced SHA-256 and whose time is not over. No signatures yet."""

    def judge(self, update: ModelUpdate, now_us: int) -> None:
        """Raises UpdateRefused: the hash is another, or it is expired."""
        got = hashlib.sha256(update.manifest).digest()
        if got != update.manifest_sha256:
            raise UpdateRefused(
                "the manifest is not the one that was announced",
                model=update.model_name,
                version=update.version,
                want=update.manifest_sha256.hex(),
                got=got.hex(),
            )
        if now_us >= update.expires_at:
            raise UpdateRefused(
                "model update is expired",
                model=update.model_name,
                version=update.version,
                late_by_s=(now_us - update.expires_at) / 1e6,
            )


@dataclass(frozen=True, slots=True)
class Candidate:
    """An update with all its files: ready for the fit check and the self-test, which building a Scorer does."""

    update: ModelUpdate
    package: Package


class ModelUpdates:
    """Updates for the devices of one process that run the same package. One candidate at a time, the newest wins."""

    def __init__(self, current: Package, cohort: str, channels: Sequence[str], trust: Trust) -> None:
        self.current = current
        self._cohort = cohort
        self._channels = list(channels)
        self._trust = trust
        self._pending: tuple[ModelUpdate, Manifest] | None = None
        self._building: ModelUpdate | None = None
        self._files = Assembler(MAX_EDGE_MODEL_BYTES)

    def offer(self, update: ModelUpdate, now_us: int) -> bool:
        """Take an update. True: it is believed and fits, its file is wanted. False: not ours, or known already.

        Raises:
            UpdateRefused: it is for these devices and must not be applied.
        """
        running = self.current.manifest
        if update.model_name != running.name or update.cohort != self._cohort:
            return False
        if update.manifest_sha256 == self.current.sha256 or update in (self.pending, self._building):
            return False
        self._trust.judge(update, now_us)
        newest = max(u.version for u in (self.pending, self._building, running) if u is not None)
        where: dict[str, Any] = {"model": update.model_name, "version": update.version}
        if update.version <= newest:
            raise UpdateRefused("model is not newer than the one that runs or is on its way", **where, have=newest)
        try:
            manifest = parse_manifest(update.manifest)
        except ModelError as wrong:
            raise UpdateRefused(str(wrong), **where) from None
        if (manifest.name, manifest.version, manifest.cohort) != (update.model_name, update.version, update.cohort):
            raise UpdateRefused(
                "the manifest says something else than its update",
                **where,
                manifest=f"{manifest.name} {manifest.version} for {manifest.cohort}",
            )
        if manifest.channels != self._channels:
            raise UpdateRefused(
                "model does not fit the device: other channels", **where, want=self._channels, got=manifest.channels
            )
        if manifest.edge.bytes > MAX_EDGE_MODEL_BYTES:
            raise UpdateRefused(
                "model is too large for this device", **where, bytes=manifest.edge.bytes, max_bytes=MAX_EDGE_MODEL_BYTES
            )
        self._pending = update, manifest
        return True

    @property
    def wanted(self) -> bytes | None:
        """SHA-256 of the file that is still missing; None where nothing is."""
        if self._pending is None:
            return None
        sha256 = bytes.fromhex(self._pending[1].edge.sha256)
        return None if self._files.get(sha256) is not None else sha256

    def add(self, chunk: ArtifactChunk) -> None:
        """Take a chunk; those of files that nobody waits for are left alone.

        Raises:
            UpdateRefused: the chunks do not make the file; the update they are for is dropped.
        """
        if self._pending is None or chunk.sha256 != self.wanted:
            return
        if why := self._files.add(chunk):
            update = self._pending[0]
            self.drop()
            raise UpdateRefused(why, model=update.model_name, version=update.version, file=chunk.sha256.hex())

    def candidate(self) -> Candidate | None:
        """The update whose file is complete, once; `installed` or `failed` must follow.

        Raises:
            UpdateRefused: the file is not the one that the manifest names.
        """
        if self._pending is None or self.wanted is not None:
            return None
        update, manifest = self._pending
        data = self._files.get(bytes.fromhex(manifest.edge.sha256))
        assert data is not None
        self.drop()
        self._building = update
        try:
            check_file(manifest.edge, data)
        except ModelError as wrong:
            self.failed(update)
            raise UpdateRefused(str(wrong), model=update.model_name, version=update.version) from None
        return Candidate(update, Package(manifest, update.manifest, {manifest.edge.file: data}))

    def installed(self, package: Package) -> None:
        """The candidate runs now."""
        self.current, self._building = package, None

    def failed(self, update: ModelUpdate) -> None:
        """The candidate of this update did not pass its tests; what ran before still runs."""
        if self._building == update:
            self._building = None

    @property
    def pending(self) -> ModelUpdate | None:
        """The update that waits for its file."""
        return self._pending[0] if self._pending else None

    def drop(self) -> None:
        """Forget the pending update and its file."""
        if self._pending is not None:
            self._files.drop(bytes.fromhex(self._pending[1].edge.sha256))
        self._pending = None
