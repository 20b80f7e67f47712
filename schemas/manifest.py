"""A model package: one manifest that names, by hash, every file an edge model and its heavy model consist of.

On disk a package is a folder with `manifest.json` and the files beside it. On the wire the manifest travels in a
ModelUpdate and the files as ArtifactChunks. Its identity is the SHA-256 of the manifest's bytes: that covers models,
scaling, thresholds and self-tests together, so nothing of one package can be mixed with another.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from schemas.errors import ModelError

MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 200 * 1024
MAX_MODEL_BYTES = 256 * 1024 * 1024

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SelfTest(_Strict):
    """Windows with the scores that the model must give for them, so that a broken runtime is seen before it decides.

    `windows`: batch x readings x channels, raw units. `scores`: one per window, held against within `tolerance`.
    """

    windows: list[list[list[Finite]]] = Field(min_length=1, max_length=16)
    scores: list[Finite] = Field(min_length=1, max_length=16)
    tolerance: float = Field(default=1e-4, gt=0, le=0.1)


class Half(_Strict):
    """One ONNX file of a package and how to feed it."""

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(gt=0, le=MAX_MODEL_BYTES)
    input: str = Field(description="Name of the input tensor, float32[batch, features] or [batch, readings, channels].")
    feed: Literal["features", "window"]
    statistics: list[str] = Field(default=[], description="For features: names from schemas/features.py, in order.")
    output: str = Field(description="Name of the output tensor that holds one score per window; higher is worse.")
    threshold: Finite | None = Field(default=None, description="Heavy model: a score at or above it is an anomaly.")
    self_test: SelfTest

    @field_validator("file")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not _FILE_NAME.fullmatch(value) or value == MANIFEST_FILE:
            raise ValueError("a file of a package is a plain name beside the manifest")
        return value


class Scaling(_Strict):
    """Centre and scale per channel; scale is never 0."""

    centre: list[Finite]
    scale: list[Finite]


class Levels(_Strict):
    """Thresholds on the edge model's score; see schemas/records.ThresholdUpdate."""

    escalate_at: Finite
    raise_at: Finite
    clear_at: Finite

    @model_validator(mode="after")
    def _ordered(self) -> Levels:
        if not self.clear_at <= self.escalate_at <= self.raise_at:
            raise ValueError("levels must satisfy clear_at <= escalate_at <= raise_at")
        return self


class Bounds(_Strict):
    """Outside of these, feedback is refused: the safe envelope of escalate_at and raise_at."""

    low: Finite
    high: Finite


class Manifest(_Strict):
    """What a package is. Unknown keys are refused: they might be meant to matter."""

    format: Literal["tidegate-model/1"] = "tidegate-model/1"
    name: str
    version: int = Field(ge=1)
    cohort: str = Field(min_length=1, max_length=128)
    channels: list[str] = Field(min_length=1, max_length=1024)
    window_readings: int = Field(ge=1, le=65536)
    features_version: Literal[1] = 1
    scaling: Scaling = Field(description="For devices that have none of their own.")
    device_scaling: dict[str, Scaling] = {}
    levels: Levels
    device_levels: dict[str, Levels] = {}
    bounds: Bounds
    edge: Half
    heavy: Half
    lineage: dict[str, str] = {}
    evaluation: dict[str, Finite] = {}

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("a model name is made of letters, digits and ._-")
        return value

    @model_validator(mode="after")
    def _fits_itself(self) -> Manifest:
        wide = len(self.channels)
        for who, scaling in [("scaling", self.scaling), *self.device_scaling.items()]:
            if len(scaling.centre) != wide or len(scaling.scale) != wide or not all(scaling.scale):
                raise ValueError(f"{who}: centre and scale must have one entry per channel ({wide}), and no scale of 0")
        for half in (self.edge, self.heavy):
            shape = {(len(w), len(row)) for w in half.self_test.windows for row in w}
            if shape != {(self.window_readings, wide)} or len(half.self_test.windows) != len(half.self_test.scores):
                raise ValueError(
                    f"{half.file}: self-test windows must be {self.window_readings} x {wide}, with a score each"
                )
        if self.heavy.threshold is None:
            raise ValueError("heavy.threshold is missing")
        for who, levels in [("levels", self.levels), *self.device_levels.items()]:
            if not within(self.bounds, levels):
                raise ValueError(f"{who}: the levels lie outside of the bounds")
        return self

    def scaling_of(self, device_id: str) -> Scaling:
        """Scaling of a device: its own, else the package's."""
        return self.device_scaling.get(device_id, self.scaling)

    def levels_of(self, device_id: str) -> Levels:
        """Default thresholds of a device: its own, else the package's."""
        return self.device_levels.get(device_id, self.levels)


@dataclass(frozen=True, slots=True)
class Package:
    """A manifest with the bytes it was read from, and those files of it that this side needs, all verified."""

    manifest: Manifest
    manifest_bytes: bytes
    files: dict[str, bytes]

    @property
    def sha256(self) -> bytes:
        """Identity of the package, 32 bytes."""
        return hashlib.sha256(self.manifest_bytes).digest()


def parse_manifest(data: bytes) -> Manifest:
    """Manifest from its bytes. Raises ModelError: with every problem and its path."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ModelError("manifest is too large", bytes=len(data), max_bytes=MAX_MANIFEST_BYTES)
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as wrong:
        problems = "; ".join(f"{e['msg']} at $.{'.'.join(str(part) for part in e['loc'])}" for e in wrong.errors()[:10])
        raise ModelError(f"manifest is not valid: {problems}") from None


def load_package(read: Callable[[str], bytes], halves: tuple[Literal["edge", "heavy"], ...]) -> Package:
    """Read a manifest and the named halves, each verified against its hash.

    Args:    read: file name -> bytes; raises OSError where there is none.
    Raises:  ModelError: no manifest, a missing file, or a file that is not the one the manifest names.
    """
    try:
        manifest_bytes = read(MANIFEST_FILE)
    except OSError as cause:
        raise ModelError(
            f"no {MANIFEST_FILE} in the model folder",
            cause=str(cause),
            fix="a model package is a folder with a manifest",
        ) from None
    manifest = parse_manifest(manifest_bytes)
    files = {}
    for half in (getattr(manifest, name) for name in halves):
        try:
            data = read(half.file)
        except OSError as cause:
            raise ModelError("a file of the package is missing", file=half.file, cause=str(cause)) from None
        check_file(half, data)
        files[half.file] = data
    return Package(manifest, manifest_bytes, files)


def check_file(half: Half, data: bytes) -> None:
    """Raises ModelError: the bytes are not those that the manifest names."""
    got = hashlib.sha256(data).hexdigest()
    if len(data) != half.bytes or got != half.sha256:
        raise ModelError(
            "a file of the package is not the one its manifest names",
            file=half.file,
            want=half.sha256,
            got=got,
        )


def within(bounds: Bounds, levels: Levels) -> bool:
    """Whether thresholds lie in the safe envelope."""
    return all(math.isfinite(v) and bounds.low <= v <= bounds.high for v in (levels.escalate_at, levels.raise_at))
