"""`train`: recordings of normal operation in, a verified model package out.

Only the normal recordings are learned from, and no label, row number or time of them ever reaches a model. Labelled
recordings, where given, are scored with the finished models and fill `evaluation`. The same recordings, options and
library versions give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from deploy.train.evaluate import Evaluation, Judged, evaluate
from deploy.train.models import fit_edge, fit_heavy
from deploy.train.packing import Learned, TrainingOptions, build, scorer, with_fields, write
from deploy.train.windows import Series, cut_windows, held_out, read_series, scaling_of, window_starts
from schemas.errors import ConfigError
from schemas.features import standardise
from schemas.manifest import Manifest, Package, Scaling, load_package
from schemas.records import Floats

REPORT_FILE = "report.json"
#: Fewer windows than this make no covariance and no threshold.
LEAST_WINDOWS = 40

Progress = Callable[[str], None]


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
        default, devices = _learn_scaling(series, options.window_readings)
        windows = np.concatenate([device.fitting for device in devices])
        progress(f"fitting the edge model on {len(windows)} windows of {len(devices)} devices")
        edge = fit_edge(windows)
        progress("fitting the heavy model")
        heavy = fit_heavy(windows, options.heavy, seed)
    package = build(series, default, devices, edge, heavy, options, name, cohort, version, seed)
    evaluation = None
    if live:
        progress(f"evaluating on {len(live)} labelled recordings")
        evaluation = evaluate(package.manifest, _judge(package, [read_series(path) for path in live]), seed)
        package = with_fields(package, evaluation=evaluation.flat())
    write(package, out_dir)
    written = load_package(lambda file: (out_dir / file).read_bytes(), ("edge", "heavy"))
    scorer(written, "edge")
    scorer(written, "heavy")
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


def _learn_scaling(series: Sequence[Series], readings: int) -> tuple[Scaling, list[Learned]]:
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
        Learned(
            item.device_id,
            scaling,
            _standardised(cut_windows(item.values, fitting, readings), scaling),
            cut_windows(item.values, checked, readings),
        )
        for (item, fitting, checked), scaling in zip(cuts, own, strict=True)
    ]


def _standardised(windows: Floats, scaling: Scaling) -> Floats:
    return standardise(windows, np.array(scaling.centre, np.float32), np.array(scaling.scale, np.float32))


def _judge(package: Package, live: Sequence[Series]) -> list[Judged]:
    manifest = package.manifest
    edge, heavy = scorer(package, "edge"), scorer(package, "heavy")
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
        anomalous = np.asarray(cut_windows(item.labels, starts, manifest.window_readings).any(axis=1))
        who = [item.device_id] * len(windows)
        judged.append(Judged(item.device_id, anomalous, edge.score(windows, who), heavy.score(windows, who)))
    return judged
