"""Fitted models to a package: thresholds read off the finished models, self-tests, lineage, and the files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto
from pydantic import ValidationError

from deploy.train.graph import to_bytes
from deploy.train.models import EDGE_STATISTICS, HeavySize
from deploy.train.windows import Series, rounded
from edge_filters.io.onnx import OnnxRuntime
from schemas.errors import ConfigError
from schemas.manifest import MANIFEST_FILE, Bounds, Half, Levels, Manifest, Package, Scaling, SelfTest
from schemas.records import Floats
from schemas.scoring import Scorer, Scores

#: Windows of a self-test, and how many numbers they may be: a manifest stays far below its limit.
SELF_TEST_WINDOWS = 4
_SELF_TEST_NUMBERS = 4_000
#: Scores are logarithms. Where normal operation never moves, all of its scores are the same number; thresholds stand
#: at least this far above the median, or the ordinary window would reach them.
LEAST_ABOVE = 0.01


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
    heavy_rate: float = 0.02
    heavy: HeavySize = field(default_factory=HeavySize)

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
class Learned:
    """Standardised windows of one device, float32[n, readings, channels]; `checked` are held out, raw units."""

    device_id: str
    scaling: Scaling
    fitting: Floats
    checked: Floats


def build(
    series: Sequence[Series],
    default: Scaling,
    devices: Sequence[Learned],
    edge: ModelProto,
    heavy: ModelProto,
    options: TrainingOptions,
    name: str,
    cohort: str,
    version: int,
    seed: int,
) -> Package:
    """The package of fitted models, without an evaluation. Raises ModelError: a model does not fit its own window."""
    files = {"edge.onnx": to_bytes(edge), "heavy.onnx": to_bytes(heavy)}
    windows = _self_test_windows(devices)
    # thresholds are read off the finished models, so a first manifest carries placeholders for them
    draft = _draft(
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
    threshold = max(float(np.quantile(of_heavy, 1.0 - options.heavy_rate)), float(np.median(of_heavy)) + LEAST_ABOVE)
    tests = np.array(windows, np.float32)
    changed = {
        "levels": levels,
        "device_levels": device_levels,
        "bounds": bounds,
        "edge": _tested(draft.edge, edge_scorer, tests),
        "heavy": _tested(draft.heavy, heavy_scorer, tests).model_copy(
            update={"threshold": rounded(np.array([threshold]))[0]}
        ),
    }
    return with_fields(package, **changed)


def _draft(**fields: Any) -> Manifest:
    try:
        return Manifest(**fields)
    except ValidationError as wrong:
        problems = "; ".join(f"{e['msg']} at $.{'.'.join(map(str, e['loc']))}" for e in wrong.errors())
        raise ConfigError(f"no package can be made like this: {problems}") from None


class _Untested(Scorer):
    """A scorer of a model that has no self-test yet: it makes the answers that the self-test will ask for."""

    def __init__(self, package: Package, which: Literal["edge", "heavy"]) -> None:
        super().__init__(package, which, OnnxRuntime(package.files[getattr(package.manifest, which).file]))

    def _check_answers(self) -> None:
        """Nothing to hold the answers against."""


def scorer(package: Package, which: Literal["edge", "heavy"]) -> Scorer:
    """Scorer of a half on a real runtime. Raises ModelError: it does not fit, or fails its self-test."""
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


def _self_test_windows(devices: Sequence[Learned]) -> list[list[list[float]]]:
    """Real windows: the first held-out one of up to SELF_TEST_WINDOWS devices, evenly taken."""
    fits = int(np.clip(_SELF_TEST_NUMBERS // devices[0].checked[0].size, 1, SELF_TEST_WINDOWS))
    chosen = np.unique(np.linspace(0, len(devices) - 1, fits).astype(int))
    return [[[float(str(v)) for v in row] for row in devices[at].checked[0]] for at in chosen.tolist()]


def _levels(scores: dict[str, Scores], options: TrainingOptions) -> tuple[Levels, dict[str, Levels], Bounds]:
    """Levels of the cohort and of each device as quantiles of held-out scores, and the envelope for feedback.

    The envelope reaches from the lowest median of a device to as far above the highest `raise_at` as that is above
    the median: feedback can neither escalate the ordinary half of all windows nor silence a device.
    """
    rates = (options.escalate_rate, options.raise_rate, options.clear_rate)

    def of(values: npt.NDArray[np.float64]) -> Levels:
        quantiles = np.quantile(values, [1.0 - rate for rate in rates])
        least = float(np.median(values)) + LEAST_ABOVE * np.array([1.0, 2.0, 0.5])
        escalate_at, raise_at, clear_at = rounded(np.maximum(quantiles, least))
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
        "heavy": f"{options.heavy.trees} trees, {options.heavy.components_for(len(series[0].channels))} components",
    }


def with_fields(package: Package, **changed: object) -> Package:
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


def write(package: Package, out_dir: Path) -> None:
    """The manifest last: a folder without one is not a package yet."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        (out_dir / MANIFEST_FILE).unlink(missing_ok=True)
        for name, data in package.files.items():
            (out_dir / name).write_bytes(data)
        (out_dir / MANIFEST_FILE).write_bytes(package.manifest_bytes)
    except OSError as cause:
        raise ConfigError("the package cannot be written", folder=str(out_dir), cause=str(cause)) from None
