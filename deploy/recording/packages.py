"""Model packages out of a recording: `feedback.models` names them, `feedback.artifacts` has their files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from deploy.recording.files import found_in
from schemas import topics
from schemas.artifacts import Assembler
from schemas.errors import ConfigError, ModelError
from schemas.manifest import MANIFEST_FILE, Manifest, check_file, parse_manifest
from schemas.records import ArtifactChunk, ModelUpdate, Record


def packages_in(folder: Path, out: Path) -> list[Path]:
    """Write every package that was published while a folder was recorded, and can be put together, below `out`.

    Raises: ConfigError: there is none. DecodeError: damage.
    """
    updates: dict[bytes, tuple[Manifest, bytes]] = {}
    for found in _records(folder, topics.MODELS):
        if isinstance(found, ModelUpdate) and hashlib.sha256(found.manifest).digest() == found.manifest_sha256:
            try:
                updates[found.manifest_sha256] = parse_manifest(found.manifest), found.manifest
            except ModelError:
                continue  # a live pipeline refused it, too
    wanted = {half.sha256 for manifest, _ in updates.values() for half in (manifest.edge, manifest.heavy)}
    files: dict[str, bytes] = {}
    assembler = Assembler()
    for found in _records(folder, topics.ARTIFACTS):
        if isinstance(found, ArtifactChunk) and found.sha256.hex() in wanted and found.sha256.hex() not in files:
            assembler.add(found)
            data = assembler.get(found.sha256)
            if data is not None:
                files[found.sha256.hex()] = data
                assembler.drop(found.sha256)
    written = []
    for sha256, (manifest, data) in updates.items():
        halves = (manifest.edge, manifest.heavy)
        if any(half.file != Path(half.file).name or half.file in ("..", MANIFEST_FILE) for half in halves):
            continue  # names from outside do not choose where files are written
        try:
            for half in halves:
                check_file(half, files[half.sha256])
        except (KeyError, ModelError):
            continue
        package = out / sha256.hex()
        package.mkdir(parents=True)
        (package / MANIFEST_FILE).write_bytes(data)
        for half in halves:
            (package / half.file).write_bytes(files[half.sha256])
        written.append(package)
    if not written:
        raise ConfigError(
            "the recording holds no model package",
            folder=str(folder),
            fix="name packages with --models, or record feedback.models and feedback.artifacts, too",
        )
    return written


def _records(folder: Path, topic: topics.Topic) -> Iterator[Record]:
    path = folder / f"{topic.name}.avro"
    if path.exists():
        yield from (found.record for found in found_in(path))
