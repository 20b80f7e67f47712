"""What the packages of tests have in common: the halves' hashes, the manifest around them, the files in a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from schemas.manifest import MANIFEST_FILE


def half(file: str, data: bytes, **fields: Any) -> dict[str, Any]:
    """A half of a manifest about a model's bytes."""
    return {"file": file, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "output": "score"} | fields


def files(
    models: Mapping[str, bytes],
    *,
    channels: Sequence[str],
    levels: Sequence[float],
    bounds: Sequence[float],
    **fields: Any,
) -> dict[str, bytes]:
    """Files of a package by name: `models` and a manifest that scales nothing.

    Args:
        models: ONNX by file name.
        channels: their names.
        levels: escalate_at, raise_at, clear_at.
        bounds: lowest and highest that feedback may set.
        fields: the others of a manifest, and what replaces these.
    """
    manifest = {
        "channels": list(channels),
        "scaling": {"centre": [0.0] * len(channels), "scale": [1.0] * len(channels)},
        "levels": dict(zip(("escalate_at", "raise_at", "clear_at"), levels, strict=True)),
        "bounds": dict(zip(("low", "high"), bounds, strict=True)),
    } | fields
    return {**models, MANIFEST_FILE: json.dumps(manifest).encode()}


def write(folder: Path, made: Mapping[str, bytes]) -> Path:
    """The package as a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return folder
