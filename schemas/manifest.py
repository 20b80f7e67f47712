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
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

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


Layout = Literal["rows", "channels", "flat", "flat-channels"]
DType = Literal[
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"
]
#: Numbers that a constant or one device's state may be made of.
MAX_STATE_NUMBERS = 1 << 20


class _Sparing(_Strict):
    """Writes what differs from its defaults in the fields that came later, so that older packages keep their bytes."""

    @model_serializer(mode="wrap")
    def _sparing(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        whole: dict[str, Any] = write(self)
        later = later_fields(self)
        return {key: value for key, value in whole.items() if key in _FIRST_FIELDS or key in later}


def later_fields(part: BaseModel) -> set[str]:
    """Fields that not every package has had from the beginning, as far as they are set to something."""
    return {
        name
        for name, field in type(part).model_fields.items()
        if name not in _FIRST_FIELDS and getattr(part, name) != field.get_default()
    }


#: Fields of a half that every package has had from the beginning; they are written whatever they hold.
_FIRST_FIELDS = frozenset(
    {"file", "sha256", "bytes", "input", "feed", "statistics", "output", "threshold", "self_test"}
)


class Feed(_Sparing):
    """One input tensor that is made from the window."""

    input: str = Field(description="Name of the input tensor, float32[batch, features] or [batch, readings, channels].")
    feed: Literal["features", "window"]
    statistics: list[str] = Field(default=[], description="For features: names from schemas/features.py, in order.")
    layout: Layout = Field(
        default="rows",
        description="For windows: rows is [batch, readings, channels], channels is [batch, channels, readings], flat "
        "and flat-channels are the same two as [batch, numbers].",
    )
    dtype: DType = Field(default="float32", description="Integers are rounded to even, and held within their range.")
    channels: list[str] = Field(default=[], description="Channels that go into it, in this order; none: all of them.")
    scaled: bool = Field(default=True, description="False: it takes the units of the sensor.")


class Constant(_Strict):
    """An input that is always the same, such as the sample rate. Shape [] is a scalar; values in row-major order."""

    input: str
    dtype: DType
    shape: list[Annotated[int, Field(ge=0)]] = Field(default=[], max_length=8)
    values: list[Finite] = Field(max_length=4096)

    @model_validator(mode="after")
    def _whole(self) -> Constant:
        if math.prod(self.shape) != len(self.values):
            raise ValueError(f"a constant of shape {self.shape} has {math.prod(self.shape)} values")
        return self


class State(_Strict):
    """What a model remembers: fed from its own output, zero at the start.

    `shape` is that of one device, with 1 for the batch; `batch_axis` is where the batch stands, None where it stands
    nowhere: then windows go in one by one.
    """

    input: str
    output: str
    dtype: DType = "float32"
    shape: list[Annotated[int, Field(ge=1)]] = Field(max_length=8)
    batch_axis: int | None = Field(default=None, ge=0, le=7)

    @model_validator(mode="after")
    def _bounded(self) -> State:
        if math.prod(self.shape) > MAX_STATE_NUMBERS:
            raise ValueError(f"a state may be made of {MAX_STATE_NUMBERS} numbers at most")
        if self.batch_axis is not None and (self.batch_axis >= len(self.shape) or self.shape[self.batch_axis] != 1):
            raise ValueError("a state's shape has 1 where its batch stands")
        return self


class Pick(_Strict):
    """Which number of the output tensor is the score. Exactly one of `label` and `reduce`, or none for the only one.

    `label`: an index into the numbers of a window, or a key where the output is a sequence of maps (ZipMap).
    `reduce`: over the numbers of a window; `error` is their mean squared distance from the input.
    `flip`: for models in which lower is worse: -x, or 1 - x.
    """

    label: int | str | None = None
    reduce: Literal["max", "mean", "min", "sum", "last", "error"] | None = None
    flip: Literal["negate", "complement"] | None = None

    @model_validator(mode="after")
    def _one(self) -> Pick:
        if self.label is not None and self.reduce is not None:
            raise ValueError("either a label or a reduction is the score")
        return self


class Half(Feed):
    """One ONNX file of a package and how to feed it."""

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(gt=0, le=MAX_MODEL_BYTES)
    output: str = Field(description="Name of the output tensor that holds one score per window; higher is worse.")
    threshold: Finite | None = Field(default=None, description="Heavy model: a score at or above it is an anomaly.")
    self_test: SelfTest
    also: list[Feed] = Field(default=[], max_length=64, description="Further inputs that are made from the window.")
    constants: list[Constant] = Field(default=[], max_length=64)
    states: list[State] = Field(default=[], max_length=64)
    pick: Pick = Pick()
    batch: int | None = Field(default=None, ge=1, le=4096, description="Windows in a call; none: any number of them.")
    batch_multiple: int = Field(
        default=16,
        ge=1,
        le=256,
        description="Without a batch: a call has a multiple of so many windows, the last one again where some are "
        "missing. A runtime works off what does not fill its registers in another way, so that the last bits of a "
        "score, and with them a decision, would depend on how many windows happened to go in together.",
    )
    frame_readings: int | None = Field(
        default=None, ge=1, le=65536, description="The window goes in by frames of so many readings, in order."
    )
    over_frames: Literal["max", "mean", "last"] = "max"
    context_readings: int = Field(
        default=0, ge=0, le=65536, description="Readings before the window, or frame, that are put in front of it."
    )
    reset_after_us: int = Field(
        default=0,
        ge=0,
        description="A window continues the one before where it starts at most so much later; else it starts anew.",
    )

    @field_validator("file")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not _FILE_NAME.fullmatch(value) or value == MANIFEST_FILE:
            raise ValueError("a file of a package is a plain name beside the manifest")
        return value

    @property
    def remembers(self) -> bool:
        """Whether the score of a window depends on what came before it."""
        return bool(self.states or self.context_readings)

    @model_validator(mode="after")
    def _fits_itself(self) -> Half:
        feeds = [self, *self.also]
        names = [*(f.input for f in feeds), *(c.input for c in self.constants), *(s.input for s in self.states)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"an input is fed twice: {', '.join(twice)}")
        if self.remembers and not self.reset_after_us:
            raise ValueError("a model that remembers needs reset_after_us, the gap that makes it start anew")
        if (self.frame_readings or self.context_readings) and any(f.feed != "window" for f in feeds):
            raise ValueError("frames and context are for models that are fed windows")
        if self.context_readings and any(f.scaled != self.scaled for f in feeds):
            raise ValueError("where there is context, all inputs are scaled, or none is")
        if self.batch not in (None, 1) and any(s.batch_axis is None for s in self.states):
            raise ValueError("a state without a batch needs batch 1")
        return self


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
            self._check_feeds(half)
        if self.heavy.threshold is None:
            raise ValueError("heavy.threshold is missing")
        for who, levels in [("levels", self.levels), *self.device_levels.items()]:
            if not within(self.bounds, levels):
                raise ValueError(f"{who}: the levels lie outside of the bounds")
        return self

    def _check_feeds(self, half: Half) -> None:
        for feed in (half, *half.also):
            unknown = [name for name in feed.channels if name not in self.channels]
            if unknown:
                raise ValueError(f"{half.file}: {feed.input} is fed from unknown channels: {', '.join(unknown)}")
        if half.frame_readings and self.window_readings % half.frame_readings:
            raise ValueError(f"{half.file}: a window of {self.window_readings} readings is no whole number of frames")
        if half.context_readings > (half.frame_readings or self.window_readings):
            raise ValueError(f"{half.file}: context_readings must not be longer than what it is put in front of")

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
