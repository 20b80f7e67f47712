"""Fitted models to a package: thresholds read off the finished models, self-tests, lineage, and the files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto
from pydantic import ValidationError

from deploy.train.alarms import FalseAlarms, threshold
from deploy.train.graph import to_bytes
from deploy.train.models import EDGE_STATISTICS, HeavySize
from deploy.train.reading import Device
from deploy.train.windows import rounded
from edge_filters.io.onnx import OnnxRuntime
from schemas.errors import ConfigError
from schemas.manifest import MANIFEST_FILE, Bounds, Half, Levels, Manifest, Package, Scaling, SelfTest
from schemas.records import Floats
from schemas.scoring import Scorer, Scores

#: Windows of a self-test, and how many numbers they may be: a manifest stays far below its limit.
SELF_TEST_WINDOWS = 4
_SELF_TEST_NUMBERS = 4_000
#: Another number whenever the same recordings and options would give another package.
TRAINER = "2"
#: Scores are logarithms. Where normal operation never moves, all of its scores are the same number; thresholds stand
#: at least this far above the median, or the ordinary window would reach them.
LEAST_ABOVE = 0.01


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares of windows of normal operation that reach each threshold."""

    escalate: float
    raise_: float
    clear: float
    heavy: float

    def lineage(self) -> dict[str, str]:
        """As a manifest carries them."""
        named = {"escalate": self.escalate, "raise": self.raise_, "clear": self.clear, "heavy": self.heavy}
        return {f"{name}_rate": f"{rate:.6g}" for name, rate in named.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """What a package is made with.

    Attributes:
        window_readings: readings of a window; None: chosen from the recordings.
        mixed: the recordings are not known to be of normal operation only: windows that are labelled as anomalous are
            neither fitted on nor do thresholds come from them. Then a device may be in several recordings.
        learn_share: earliest share of each device's readings to learn from, in (0, 1]; the rest is evaluated with.
        normal_share: latest share of that to learn from, in (0, 1].
        false_alarms: the rate of false alarms of the edge, and of the heavy model; None: `raise_rate`, `heavy_rate`.
        escalate_rate: share of held-out normal windows that the edge passes on: its false alarms.
        raise_rate, clear_rate: the same for the level at which its alarm is raised, and below which it is cleared.
        heavy_rate: share of held-out normal windows that the heavy model would call anomalous.
        heavy: size of the heavy model.
    """

    window_readings: int | None = None
    mixed: bool = False
    learn_share: float = 1.0
    normal_share: float = 1.0
    false_alarms: FalseAlarms | None = None
    escalate_rate: float = 0.05
    raise_rate: float = 0.005
    clear_rate: float = 0.15
    heavy_rate: float = 0.02
    heavy: HeavySize = field(default_factory=HeavySize)

    def __post_init__(self) -> None:
        for name in ("normal_share", "learn_share"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must be in (0, 1]", got=getattr(self, name))
        if not 0.0 < self.raise_rate <= self.escalate_rate <= self.clear_rate < 1.0 or not 0.0 < self.heavy_rate < 1.0:
            raise ConfigError(
                "rates must satisfy 0 < raise_rate <= escalate_rate <= clear_rate < 1, and 0 < heavy_rate < 1",
                raise_rate=self.raise_rate,
                escalate_rate=self.escalate_rate,
                clear_rate=self.clear_rate,
                heavy_rate=self.heavy_rate,
            )
        if self.window_readings is not None and self.window_readings < 2:
            raise ConfigError("a window needs at least two readings", window_readings=self.window_readings)

    def rates(self, window_us: float) -> Rates:
        """Shares of windows of that length, microseconds. Raises ConfigError: the false-alarm rate is none for them.

        A false-alarm rate holds for the edge's alarm and for the heavy model, each by itself; what both must agree on
        is rarer still. The edge passes on at least the share that it is allowed to, and clears above it.
        """
        if self.false_alarms is None:
            return Rates(self.escalate_rate, self.raise_rate, self.clear_rate, self.heavy_rate)
        share = self.false_alarms.of_windows(window_us)
        escalate = max(self.escalate_rate, share)
        return Rates(escalate, share, max(self.clear_rate, min(2 * escalate, (1 + escalate) / 2)), share)


@dataclass(frozen=True, slots=True)
class Learned:
    """Standardised windows of one device to fit on, float32[n, readings, channels], and one held-out window, raw."""

    device_id: str
    scaling: Scaling
    fitting: Floats
    example: Floats


def draft(
    devices: Sequence[Device],
    default: Scaling,
    learned: Sequence[Learned],
    edge: ModelProto,
    heavy: ModelProto,
    options: TrainingOptions,
    name: str,
    cohort: str,
    version: int,
    seed: int,
) -> Package:
    """The package of fitted models with placeholders for what is read off them.

    Raises ConfigError: no manifest can be made of it, as with a name that is none.
    """
    files = {"edge.onnx": to_bytes(edge), "heavy.onnx": to_bytes(heavy)}
    windows = _self_test_windows(learned)
    manifest = _draft(
        name=name,
        version=version,
        cohort=cohort,
        channels=list(devices[0].channels),
        window_readings=learned[0].example.shape[0],
        scaling=default,
        device_scaling={device.device_id: device.scaling for device in learned},
        levels=Levels(escalate_at=0.0, raise_at=0.0, clear_at=0.0),
        bounds=Bounds(low=0.0, high=0.0),
        edge=_half("edge.onnx", files["edge.onnx"], "features", list(EDGE_STATISTICS), windows),
        heavy=_half("heavy.onnx", files["heavy.onnx"], "window", [], windows).model_copy(update={"threshold": 0.0}),
        lineage=_lineage(devices, options, seed),
    )
    return Package(manifest, b"", files)


def finish(
    package: Package,
    of_edge: dict[str, Scores],
    of_heavy: dict[str, Scores],
    rates: Rates,
    stated: bool,
    lineage: dict[str, str],
) -> Package:
    """The package with thresholds and self-tests, without an evaluation.

    Args:
        of_edge, of_heavy: scores of held-out windows of normal operation by device.
        rates: shares of such windows.
        stated: whether they were asked for, and so are extrapolated where too few windows were seen.
        lineage: what to add to it.
    """
    quantile = threshold if stated else _quantile
    levels, device_levels, bounds = _levels(of_edge, rates, quantile)
    everything = np.concatenate(list(of_heavy.values()))
    confirm = max(quantile(everything, rates.heavy), float(np.median(everything)) + LEAST_ABOVE)
    draft = package.manifest
    tests = np.array(draft.edge.self_test.windows, np.float32)
    return with_fields(
        package,
        levels=levels,
        device_levels=device_levels,
        bounds=bounds,
        edge=_tested(draft.edge, Untested(package, "edge"), tests),
        heavy=_tested(draft.heavy, Untested(package, "heavy"), tests).model_copy(
            update={"threshold": rounded(np.array([confirm]))[0]}
        ),
        lineage=draft.lineage | lineage,
    )


def _quantile(scores: Scores, rate: float) -> float:
    return float(np.quantile(scores, 1.0 - rate))


def _draft(**fields: Any) -> Manifest:
    try:
        return Manifest(**fields)
    except ValidationError as wrong:
        problems = "; ".join(f"{e['msg']} at $.{'.'.join(map(str, e['loc']))}" for e in wrong.errors())
        raise ConfigError(f"no package can be made like this: {problems}") from None


class Untested(Scorer):
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
    fits = int(np.clip(_SELF_TEST_NUMBERS // devices[0].example.size, 1, SELF_TEST_WINDOWS))
    chosen = np.unique(np.linspace(0, len(devices) - 1, fits).astype(int))
    return [[[float(str(v)) for v in row] for row in devices[at].example] for at in chosen.tolist()]


def _levels(
    scores: dict[str, Scores], rates: Rates, quantile: Callable[[Scores, float], float]
) -> tuple[Levels, dict[str, Levels], Bounds]:
    """Levels of the cohort and of each device as quantiles of held-out scores, and the envelope for feedback.

    The envelope reaches from the lowest median of a device to as far above the highest `raise_at` as that is above
    the median: feedback can neither escalate the ordinary half of all windows nor silence a device.
    """

    def of(values: npt.NDArray[np.float64]) -> Levels:
        at = [quantile(values, rate) for rate in (rates.escalate, rates.raise_, rates.clear)]
        least = float(np.median(values)) + LEAST_ABOVE * np.array([1.0, 2.0, 0.5])
        escalate_at, raise_at, clear_at = rounded(np.maximum(at, least))
        return Levels(escalate_at=min(escalate_at, raise_at), raise_at=raise_at, clear_at=min(clear_at, escalate_at))

    together = of(np.concatenate(list(scores.values())))
    each = {device: of(values) for device, values in scores.items()}
    low = min(float(np.median(values)) for values in scores.values())
    top = max(level.raise_at for level in [together, *each.values()])
    low, high = rounded(np.array([low, top + (top - low)]))
    return together, each, Bounds(low=min(low, together.escalate_at), high=high)


def _lineage(devices: Sequence[Device], options: TrainingOptions, seed: int) -> dict[str, str]:
    """What the package was made of and with; no date, so that making it again gives the same bytes."""
    lineage = {f"data.{item.device_id}": " ".join(f"sha256:{file}" for file in item.files) for item in devices}
    lineage |= {f"library.{name}": metadata.version(name) for name in ("numpy", "onnx", "onnxruntime", "scikit-learn")}
    return lineage | {
        "trainer": TRAINER,
        "seed": str(seed),
        "normal_share": str(options.normal_share),
        "learn_share": str(options.learn_share),
        "left_out": "windows labelled as anomalous" if options.mixed else "nothing",
        "heavy": f"{options.heavy.trees} trees, {options.heavy.components_for(len(devices[0].channels))} components",
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
