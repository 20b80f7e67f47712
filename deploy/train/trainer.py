"""`train`: recordings of normal operation in, a verified model package out.

Only the normal recordings are learned from, and no label, row number or time of them ever reaches a model. Labelled
recordings, where given, are scored with the finished models and fill `evaluation`. The same recordings, options and
library versions give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto
from threadpoolctl import threadpool_limits

from deploy.train.evaluate import Evaluation, Judged, evaluate
from deploy.train.graph import to_bytes
from deploy.train.models import EDGE_STATISTICS, HeavySize, fit_edge, fit_heavy
from deploy.train.windows import Series, cut_windows, held_out, read_series, rounded, scaling_of, window_starts
from pipelines.io.onnx import OnnxRuntime
from schemas.errors import ConfigError
from schemas.features import standardise
from schemas.manifest import (
    MANIFEST_FILE,
    Bounds,
    Half,
    Levels,
    Manifest,
    Package,
    Scaling,
    SelfTest,
    load_package,
)
from schemas.records import Floats
from schemas.scoring import Scorer, Scores

REPORT_FILE = "report.json"
SELF_TEST_WINDOWS = 4
#: Fewer windows than this make no covariance and no threshold.
LEAST_WINDOWS = 40

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """What a package is made with.

    Attributes:
        window_readings: readings of a window.
        normal_share: latest share of each normal recording to learn from, in (0, 1].
        escalate_rate: share of held-out normal windows that the edge passes on: its false alarms.
        raise_rate, clear_rate: the same for the level at which its alarm is raised, and below which it is cleared.
        heavy_rate: share of held-out normal windows that the heavy model would call anomalous.
        heavy: size of the heavy model.
    """

    window_readings: int = 16
    normal_share: float = 1.0
    escalate_rate: float = 0.05
    raise_rate: float = 0.005
    clear_rate: float = 0.15
    heavy_rate: float = 0.01
    heavy: HeavySize = HeavySize()

    def __post_init__(self) -> None:
        if not 0.0 < self.normal_share <= 1.0:
            raise ConfigError("normal_share must be in (0, 1]", got=self.normal_share)
        if not 0.0 < self.raise_rate <= self.escalate_rate <= self.clear_rate < 1.0 or not 0.0 < self.heavy_rate < 1.0:
            raise ConfigError(
                "rates must satisfy 0 < raise_rate <= escalate_rate <= clear_rate < 1, and 0 < heavy_rate < 1",
                raise_rate=self.raise_rate,
                escalate_rate=self.escalate_rate,
                clear_rate=self.clear_rate,
                heavy_rate=self.heavy_rate,
            )
        if self.window_readings < 2:
            raise ConfigError("a window needs at least two readings", window_readings=self.window_readings)


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What came out. `evaluation` is None where no labelled recording was given."""

    folder: Path
    manifest: Manifest
    sha256: str
    evaluation: Evaluation | None

    def as_json(self) -> dict[str, Any]:
        """As it stands in report.json beside the package."""
        return {
            "model": self.manifest.name,
            "version": self.manifest.version,
            "manifest_sha256": self.sha256,
            "bytes": {half.file: half.bytes for half in (self.manifest.edge, self.manifest.heavy)},
            "lineage": self.manifest.lineage,
            "evaluation": self.evaluation.as_json() if self.evaluation else None,
        }


@dataclass(frozen=True, slots=True)
class _Learned:
    """Standardised windows of one device, float32[n, readings, channels]; `checked` are held out, raw units."""

    device_id: str
    scaling: Scaling
    fitting: Floats
    checked: Floats


def train(
    normal: Sequence[Path],
    out_dir: Path,
    *,
    name: str,
    cohort: str,
    seed: int,
    version: int = 1,
    live: Sequence[Path] = (),
    options: TrainingOptions | None = None,
    progress: Progress = lambda _: None,
) -> TrainingReport:
    """Make one package for the devices of a cohort, write it to `out_dir` and verify what was written.

    Args:
        normal: one recording of normal operation per device; all with the same channels and of the cohort.
        out_dir: gets manifest.json, edge.onnx, heavy.onnx and report.json; made where it is missing.
        live: labelled recordings to evaluate with; they change nothing but `evaluation`.
        progress: called with a line of text at each step.

    Raises:
        ConfigError: recordings that do not belong together or are too short.
        DecodeError: a recording is damaged.
        ModelError: the package that was written does not pass its own checks.
    """
    options = options or TrainingOptions()
    progress(f"reading {len(normal)} recordings")
    series = [_latest(read_series(path), options.normal_share) for path in normal]
    _check_together(series, cohort)
    with threadpool_limits(1):  # sums over threads come in any order: one thread keeps the last bit
        learned = _learn_scaling(series, options.window_readings)
        default, devices = learned
        windows = np.concatenate([device.fitting for device in devices])
        progress(f"fitting the edge model on {len(windows)} windows of {len(devices)} devices")
        edge = fit_edge(windows)
        progress("fitting the heavy model")
        heavy = fit_heavy(windows, options.heavy, seed)
    package = _package(series, default, devices, edge, heavy, options, name, cohort, version, seed)
    evaluation = None
    if live:
        progress(f"evaluating on {len(live)} labelled recordings")
        evaluation = evaluate(package.manifest, _judge(package, [read_series(path) for path in live]), seed)
        package = _with(package, evaluation=evaluation.flat())
    _write(package, out_dir)
    written = load_package(lambda file: (out_dir / file).read_bytes(), ("edge", "heavy"))
    for which in ("edge", "heavy"):
        _scorer(written, which)
    report = TrainingReport(out_dir, written.manifest, written.sha256.hex(), evaluation)
    (out_dir / REPORT_FILE).write_text(json.dumps(report.as_json(), indent=2, sort_keys=True) + "\n")
    progress(f"wrote {name} version {version} to {out_dir}")
    return report


def _latest(series: Series, share: float) -> Series:
    first = len(series.times) - max(1, round(len(series.times) * share))
    return replace(series, times=series.times[first:], values=series.values[first:], labels=None)


def _check_together(series: Sequence[Series], cohort: str) -> None:
    if not series:
        raise ConfigError("there is nothing to learn from", fix="give at least one recording of normal operation")
    for item in series:
        if item.channels != series[0].channels:
            raise ConfigError(
                "the recordings have different channels",
                device=item.device_id,
                got=list(item.channels),
                want=list(series[0].channels),
                fix="train devices with other channels as another cohort",
            )
        if item.cohort != cohort:
            raise ConfigError("a recording is of another cohort", device=item.device_id, got=item.cohort, want=cohort)
    names = [item.device_id for item in series]
    if len(set(names)) != len(names):
        raise ConfigError("a device has two recordings", devices=names, fix="give one normal recording per device")


def _learn_scaling(series: Sequence[Series], readings: int) -> tuple[Scaling, list[_Learned]]:
    stride = max(1, readings // 4)
    cuts = []
    for item in series:
        starts = window_starts(item, readings, stride)
        fitting, checked = held_out(starts, readings, len(item.times))
        if min(fitting.sum(), checked.sum()) < LEAST_WINDOWS // 4 or fitting.sum() < LEAST_WINDOWS:
            raise ConfigError(
                "the recording is too short to learn from",
                device=item.device_id,
                readings=len(item.times),
                windows=int(fitting.sum()),
                need=LEAST_WINDOWS,
                fix=f"about {LEAST_WINDOWS * readings} gapless readings of normal operation, or smaller windows",
            )
        cuts.append((item, starts[fitting], starts[checked]))
    rows = [item.values[np.unique(starts[:, None] + np.arange(readings))] for item, starts, _ in cuts]
    default, own = scaling_of(rows)
    return default, [
        _Learned(
            item.device_id,
            scaling,
            _standardised(cut_windows(item.values, fitting, readings), scaling),
            cut_windows(item.values, checked, readings),
        )
        for (item, fitting, checked), scaling in zip(cuts, own, strict=True)
    ]


def _standardised(windows: Floats, scaling: Scaling) -> Floats:
    return standardise(windows, np.array(scaling.centre, np.float32), np.array(scaling.scale, np.float32))


def _package(
    series: Sequence[Series],
    default: Scaling,
    devices: Sequence[_Learned],
    edge: ModelProto,
    heavy: ModelProto,
    options: TrainingOptions,
    name: str,
    cohort: str,
    version: int,
    seed: int,
) -> Package:
    files = {"edge.onnx": to_bytes(edge), "heavy.onnx": to_bytes(heavy)}
    windows = _self_test_windows(devices)
    # thresholds are read off the finished models, so a first manifest carries placeholders for them
    draft = Manifest(
        name=name,
        version=version,
        cohort=cohort,
        channels=list(series[0].channels),
        window_readings=options.window_readings,
        scaling=default,
        device_scaling={device.device_id: device.scaling for device in devices},
        levels=Levels(escalate_at=0.0, raise_at=0.0, clear_at=0.0),
        bounds=Bounds(low=0.0, high=0.0),
        edge=_half("edge.onnx", files["edge.onnx"], "features", list(EDGE_STATISTICS), windows),
        heavy=_half("heavy.onnx", files["heavy.onnx"], "window", [], windows).model_copy(update={"threshold": 0.0}),
        lineage=_lineage(series, options, seed),
    )
    package = Package(draft, b"", files)
    edge_scorer, heavy_scorer = _Untested(package, "edge"), _Untested(package, "heavy")
    of_edge = {d.device_id: edge_scorer.score(d.checked, [d.device_id] * len(d.checked)) for d in devices}
    of_heavy = np.concatenate([heavy_scorer.score(d.checked, [d.device_id] * len(d.checked)) for d in devices])
    levels, device_levels, bounds = _levels(of_edge, options)
    (threshold,) = rounded(np.quantile(of_heavy, [1.0 - options.heavy_rate]))
    tests = np.array(windows, np.float32)
    changed = {
        "levels": levels,
        "device_levels": device_levels,
        "bounds": bounds,
        "edge": _tested(draft.edge, edge_scorer, tests),
        "heavy": _tested(draft.heavy, heavy_scorer, tests).model_copy(update={"threshold": threshold}),
    }
    return _with(package, **changed)


class _Untested(Scorer):
    """A scorer of a model that has no self-test yet: it makes the answers that the self-test will ask for."""

    def __init__(self, package: Package, which: Literal["edge", "heavy"]) -> None:
        super().__init__(package, which, OnnxRuntime(package.files[getattr(package.manifest, which).file]))

    def _check_answers(self) -> None:
        """Nothing to hold the answers against."""


def _scorer(package: Package, which: Literal["edge", "heavy"]) -> Scorer:
    return Scorer(package, which, OnnxRuntime(package.files[getattr(package.manifest, which).file]))


def _half(
    file: str, data: bytes, feed: Literal["features", "window"], statistics: list[str], windows: list[list[list[float]]]
) -> Half:
    return Half(
        file=file,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        input="x",
        feed=feed,
        statistics=statistics,
        output="score",
        self_test=SelfTest(windows=windows, scores=[0.0] * len(windows)),
    )


def _tested(half: Half, scorer: Scorer, windows: Floats) -> Half:
    """The half with a self-test: the scores that it gives here and now under the default scaling."""
    scores = scorer.score(windows, [""] * len(windows))
    return half.model_copy(update={"self_test": half.self_test.model_copy(update={"scores": rounded(scores)})})


def _self_test_windows(devices: Sequence[_Learned]) -> list[list[list[float]]]:
    """Real windows: the first held-out one of up to SELF_TEST_WINDOWS devices, evenly taken."""
    chosen = np.unique(np.linspace(0, len(devices) - 1, SELF_TEST_WINDOWS).astype(int))
    return [[[float(str(v)) for v in row] for row in devices[at].checked[0]] for at in chosen.tolist()]


def _levels(scores: dict[str, Scores], options: TrainingOptions) -> tuple[Levels, dict[str, Levels], Bounds]:
    """Levels of the cohort and of each device as quantiles of held-out scores, and the envelope for feedback.

    The envelope reaches from the lowest median of a device to as far above the highest `raise_at` as that is above
    the median: feedback can neither escalate the ordinary half of all windows nor silence a device.
    """
    rates = (options.escalate_rate, options.raise_rate, options.clear_rate)

    def of(values: npt.NDArray[np.float64]) -> Levels:
        escalate_at, raise_at, clear_at = rounded(np.quantile(values, [1.0 - rate for rate in rates]))
        return Levels(escalate_at=escalate_at, raise_at=raise_at, clear_at=clear_at)

    together = of(np.concatenate(list(scores.values())))
    each = {device: of(values) for device, values in scores.items()}
    low = min(float(np.median(values)) for values in scores.values())
    top = max(level.raise_at for level in [together, *each.values()])
    low, high = rounded(np.array([low, top + (top - low)]))
    return together, each, Bounds(low=min(low, together.escalate_at), high=high)


def _lineage(series: Sequence[Series], options: TrainingOptions, seed: int) -> dict[str, str]:
    """What the package was made of and with; no date, so that making it again gives the same bytes."""
    lineage = {f"data.{item.device_id}": f"sha256:{item.sha256}" for item in series}
    lineage |= {f"library.{name}": metadata.version(name) for name in ("numpy", "onnx", "scikit-learn")}
    return lineage | {
        "seed": str(seed),
        "normal_share": str(options.normal_share),
        "escalate_rate": str(options.escalate_rate),
        "raise_rate": str(options.raise_rate),
        "clear_rate": str(options.clear_rate),
        "heavy_rate": str(options.heavy_rate),
        "heavy": f"{options.heavy.trees} trees, {options.heavy.components} components",
    }


def _judge(package: Package, live: Sequence[Series]) -> list[Judged]:
    manifest = package.manifest
    edge, heavy = _scorer(package, "edge"), _scorer(package, "heavy")
    judged = []
    for item in live:
        if item.labels is None or item.channels != tuple(manifest.channels):
            raise ConfigError(
                "a recording cannot be evaluated with",
                device=item.device_id,
                labelled=item.labels is not None,
                channels=list(item.channels),
                fix="it needs labels, and the channels that the model was trained on",
            )
        starts = window_starts(item, manifest.window_readings, manifest.window_readings)
        windows = cut_windows(item.values, starts, manifest.window_readings)
        anomalous = cut_windows(item.labels, starts, manifest.window_readings).any(axis=1)
        who = [item.device_id] * len(windows)
        judged.append(Judged(item.device_id, anomalous, edge.score(windows, who), heavy.score(windows, who)))
    return judged


def _with(package: Package, **changed: object) -> Package:
    """The package with other manifest fields, validated again. Keys are sorted: the bytes are its identity."""
    raw = package.manifest.model_dump(mode="json") | {
        key: value.model_dump(mode="json") if hasattr(value, "model_dump") else _plain(value)
        for key, value in changed.items()
    }
    data = (json.dumps(raw, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()
    return Package(Manifest.model_validate_json(data), data, package.files)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def _write(package: Package, out_dir: Path) -> None:
    """The manifest last: a folder without one is not a package yet."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        (out_dir / MANIFEST_FILE).unlink(missing_ok=True)
        for name, data in package.files.items():
            (out_dir / name).write_bytes(data)
        (out_dir / MANIFEST_FILE).write_bytes(package.manifest_bytes)
    except OSError as cause:
        raise ConfigError("the package cannot be written", folder=str(out_dir), cause=str(cause)) from None
