"""ONNX files to a package: understood, tried, scaled, given thresholds and self-tests, checked as an edge checks it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from deploy.model import recording
from deploy.model.facts import read_facts
from deploy.model.guard import in_time
from deploy.model.levels import Asked, thresholds
from deploy.model.said import Around, Said, Understood
from deploy.model.settle import half_of, probe, settle
from deploy.model.understand import understand
from deploy.model.words import plain
from edge_filters.io.onnx import OnnxRuntime
from edge_filters.updates import MAX_EDGE_MODEL_BYTES
from schemas.errors import ConfigError, ModelError
from schemas.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    MAX_MODEL_BYTES,
    Bounds,
    Half,
    Levels,
    Manifest,
    Package,
    Scaling,
    SelfTest,
)
from schemas.records import Floats
from schemas.scoring import Scorer

Which = Literal["edge", "heavy"]
HALVES: tuple[Which, Which] = ("edge", "heavy")
#: Windows of a self-test, and how many numbers they are at most where one alone is not more: so that the manifest stays
#: far below its limit. A larger window is written with fewer digits, and there is an end to that as well.
SELF_TEST_WINDOWS = 4
_SELF_TEST_NUMBERS = 4_000
_WINDOW_NUMBERS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be packed.

    Attributes:
        files: the edge model and the heavy model; one file is both.
        said: what the user said of each half.
        scale_from: recordings to read scaling off; none: raw units.
        asked: where thresholds come from.
    """

    files: tuple[Path, ...]
    said: dict[Which, Said]
    name: str
    cohort: str | None = None
    version: int = 1
    window_readings: int | None = None
    channels: tuple[str, ...] | None = None
    scale_from: tuple[Path, ...] = ()
    asked: Asked = field(default_factory=Asked)


@dataclass(slots=True)
class Packed:
    """A package, what was understood of each half, and sentences about how it was made."""

    package: Package
    understood: dict[Which, Understood]
    notes: list[str] = field(default_factory=list)


def read_model(path: Path) -> bytes:
    """Bytes of a model file. Raises ConfigError: there is none. ModelError: it is too large, or no ONNX file."""
    try:
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise ModelError("the model is too large", file=str(path), bytes=size, max_bytes=MAX_MODEL_BYTES)
        data = path.read_bytes()
    except OSError as cause:
        raise ConfigError("the model cannot be read", file=str(path), cause=cause.strerror) from None
    try:
        facts = read_facts(data)
    except ModelError as wrong:
        raise ModelError(wrong.problem, fix=wrong.fix, file=str(path), **wrong.where) from None
    if facts.external_data:
        raise ModelError(
            "the model keeps its weights in another file, and a package's model is one file",
            file=str(path),
            fix="save it with onnx.save_model(onnx.load(path), out, save_as_external_data=False)",
        )
    return data


def load(path: Path, data: bytes) -> OnnxRuntime:
    """The model on the runtime. Raises ModelError: it does not take it, with its reason and what to change."""
    try:
        return OnnxRuntime(data)
    except ModelError as wrong:
        cause = str(wrong.where.get("cause", ""))
        raise ModelError(
            "onnxruntime does not take the model", file=str(path), cause=cause, fix=_advice(cause)
        ) from None


def _advice(cause: str) -> str:
    if "opset" in cause.lower() and "support" in cause.lower():
        return "export it for an older opset (17 is safe), or install a newer onnxruntime"
    if "not a registered function/op" in cause or "Could not find an implementation" in cause or "domain" in cause:
        return "export it with standard operators only: onnxruntime's CPU build has no such operator or element type"
    if "ShapeInferenceError" in cause or "Type Error" in cause:
        return "its graph contradicts itself: export it again, and try onnx.checker.check_model(path, full_check=True)"
    return "export it again; `tidegate model inspect` shows what the file says of itself"


def pack(order: Order) -> Packed:
    """Make a package.

    Raises:
        ConfigError: something must be said that was not, or does not fit.
        ModelError: a model cannot run here.
        DecodeError: a recording is damaged.
    """
    paths = dict(zip(HALVES, (order.files[0], order.files[-1]), strict=True))
    data = {which: read_model(path) for which, path in paths.items()}
    with in_time(str(paths["edge"])):
        runtimes = {which: load(paths[which], data[which]) for which in HALVES}
    recordings = order.scale_from or order.asked.recordings
    shape = recording.shape_of([*order.scale_from, *order.asked.recordings]) if recordings else None
    around = Around(
        order.window_readings,
        order.channels or (shape.channels if shape else None),
        shape.rate_hz if shape else None,
    )
    understood = {}
    for which in HALVES:  # what the edge model tells of the window holds for the heavy one
        got = understood[which] = understand(runtimes[which].inputs, runtimes[which].outputs, order.said[which], around)
        _no_questions(got, paths[which])
        around = Around(got.window_readings, around.channels, around.rate_hz)
        if around.channels is None and got.channels is not None:
            around = Around(got.window_readings, tuple(f"c{i}" for i in range(got.channels)), None)
        got.channels = len(around.channels or ())
        with in_time(str(paths[which])):
            settle(runtimes[which], got)
        _no_questions(got, paths[which])
    assert around.channels is not None
    assert around.window_readings is not None
    return _made(order, around.channels, around.window_readings, data, understood, shape)


def _no_questions(got: Understood, path: Path) -> None:
    if got.open:
        raise ConfigError(
            "the model does not tell everything about itself", file=str(path), fix=plain(" | ".join(got.open), 2_000)
        )


def _made(
    order: Order,
    channels: tuple[str, ...],
    window_readings: int,
    data: dict[Which, bytes],
    understood: dict[Which, Understood],
    shape: recording.Shape | None,
) -> Packed:
    notes: list[str] = []
    wide = len(channels)
    if order.scale_from:
        scaling = recording.scaling_from(order.scale_from)
    else:
        scaling = Scaling(centre=[0.0] * wide, scale=[1.0] * wide)
        notes.append("no --scale-from: the models take the units of the sensor")
    names = {"edge": "edge.onnx", "heavy": "edge.onnx" if data["edge"] == data["heavy"] else "heavy.onnx"}
    if data["edge"] == data["heavy"]:
        names = {"edge": "model.onnx", "heavy": "model.onnx"}
    if len(data["edge"]) > MAX_EDGE_MODEL_BYTES:
        notes.append(
            f"the edge model has {len(data['edge']):,} bytes: an edge can start with it, "
            f"but takes no update above {MAX_EDGE_MODEL_BYTES:,} over the air"
        )
    files = {names[which]: data[which] for which in HALVES}
    halves = {which: _half(understood[which].fields, names[which], data[which], f"{which} model") for which in HALVES}
    draft = _manifest(
        name=order.name,
        version=order.version,
        cohort=order.cohort or (shape.cohort if shape else "") or order.name,
        channels=list(channels),
        window_readings=window_readings,
        scaling=scaling,
        levels=Levels(escalate_at=0.0, raise_at=0.0, clear_at=0.0),
        bounds=Bounds(low=0.0, high=0.0),
        **{which: _with_windows(half, window_readings, wide) for which, half in halves.items()},
        lineage=_lineage(order),
    )
    package = Package(draft, b"", files)
    scorers = {which: Untested(package, which) for which in HALVES}
    windows = _self_test_windows(order, draft)
    levels, bounds, threshold = thresholds(order.asked, draft, scorers, notes)
    changed: dict[str, Any] = {"levels": levels, "bounds": bounds}
    for which in HALVES:
        scorers[which].forget()
        scores = scorers[which].score(windows, [""] * len(windows))
        test = SelfTest(windows=_as_short(windows), scores=recording.rounded(scores))
        changed[which] = getattr(draft, which).model_copy(
            update={"self_test": test, "threshold": threshold if which == "heavy" else None}
        )
    package = _with(package, changed)
    if draft.heavy.remembers and not draft.heavy.frame_readings:
        notes.append(
            "the heavy model starts anew with every window: a longer --window with --frame N lets it look back"
        )
    for which in HALVES:  # as an edge and a pipeline will take it, self-test and all
        Scorer(package, which, OnnxRuntime(package.files[getattr(package.manifest, which).file]))
    return Packed(package, understood, notes)


class Untested(Scorer):
    """A scorer of a model that has no self-test yet: it makes the answers that the self-test will ask for."""

    def __init__(self, package: Package, which: Which) -> None:
        super().__init__(package, which, OnnxRuntime(package.files[getattr(package.manifest, which).file]))

    def _check_answers(self) -> None:
        """Nothing to hold the answers against."""


def _half(fields: dict[str, Any], file: str, data: bytes, who: str) -> Half:
    try:
        return half_of(fields, file, data, hashlib.sha256(data).hexdigest())
    except ValidationError as wrong:
        raise ConfigError(f"the {who} cannot be fed like this: {_problems(wrong)}") from None


def _with_windows(half: Half, readings: int, channels: int) -> Half:
    test = SelfTest(windows=[[[0.0] * channels] * readings], scores=[0.0])
    return half.model_copy(update={"self_test": test, "threshold": 0.0})


def _manifest(**fields: Any) -> Manifest:
    try:
        return Manifest(**fields)
    except ValidationError as wrong:
        raise ConfigError(f"no package can be made like this: {_problems(wrong)}") from None


def _problems(wrong: ValidationError) -> str:
    return "; ".join(f"{e['msg']} at $.{'.'.join(map(str, e['loc']))}" for e in wrong.errors()[:5])


def _self_test_windows(order: Order, manifest: Manifest) -> Floats:
    """Windows that follow each other on one device, where there is a recording; else made-up ones in its units."""
    readings, wide = manifest.window_readings, len(manifest.channels)
    if readings * wide > _WINDOW_NUMBERS:
        raise ConfigError(
            "the window is too large for a package: its self-test would not fit into the manifest",
            numbers=readings * wide,
            max_numbers=_WINDOW_NUMBERS,
            fix="use a shorter --window, with --frame where the model looks at a part of it at a time",
        )
    count = int(np.clip(_SELF_TEST_NUMBERS // (readings * wide), 1, SELF_TEST_WINDOWS))
    found: list[Floats] = []
    for path in (order.asked.recordings or order.scale_from)[:1]:
        device = None
        for device_id, window in recording.windows(path, readings, manifest.channels):
            device = device or device_id
            if device_id == device:
                found.append(window.values)
            if len(found) == count:
                break
    if not found:
        made = probe(readings, wide, count)[-count:] if count > 1 else probe(readings, wide, 2)[1:]
        raw = made * np.array(manifest.scaling.scale) + np.array(manifest.scaling.centre)
        found = list(np.asarray(raw, np.float32))
    stacked = np.stack(found)
    short = recording.rounded(stacked, 6 if stacked.size <= _SELF_TEST_NUMBERS else 3)
    return np.array(short, np.float32).reshape(stacked.shape)


def _as_short(windows: Floats) -> list[list[list[float]]]:
    """The same float32 numbers in as few digits as tell them apart."""
    return [[[float(str(value)) for value in row] for row in window] for window in windows]


def _lineage(order: Order) -> dict[str, str]:
    """What the package was made of; no date, so that making it again gives the same bytes."""
    lineage = {"packed_from": ", ".join(dict.fromkeys(path.name for path in order.files))}
    for what, paths in (("scaling", order.scale_from), ("levels", order.asked.recordings)):
        lineage |= {f"{what}.{at}": f"sha256:{recording.sha256_of(path)}" for at, path in enumerate(paths)}
    if order.asked.recordings:
        lineage |= {"share": str(order.asked.share), "heavy_share": str(order.asked.heavy_share)}
    return lineage


def _with(package: Package, changed: dict[str, Any]) -> Package:
    """The package with other manifest fields, validated again. Keys are sorted: the bytes are its identity."""
    raw = package.manifest.model_copy(update=changed).model_dump(mode="json")
    data = (json.dumps(raw, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()
    if len(data) > MAX_MANIFEST_BYTES:
        data = (json.dumps(raw, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n").encode()
    if len(data) > MAX_MANIFEST_BYTES:
        raise ConfigError("the manifest is too large", bytes=len(data), max_bytes=MAX_MANIFEST_BYTES, fix="--window N")
    try:
        return Package(Manifest.model_validate_json(data), data, package.files)
    except ValidationError as wrong:
        raise ConfigError(f"no package can be made like this: {_problems(wrong)}") from None


def write(package: Package, folder: Path) -> None:
    """The manifest last: a folder without one is not a package yet. Raises ConfigError: it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST_FILE).unlink(missing_ok=True)
        for name, data in package.files.items():
            (folder / name).write_bytes(data)
        (folder / MANIFEST_FILE).write_bytes(package.manifest_bytes)
    except OSError as cause:
        raise ConfigError("the package cannot be written", folder=str(folder), cause=str(cause)) from None
