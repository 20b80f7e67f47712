"""A half of a package over recordings: the scores the edge would give, and how long a window takes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.model import recording
from deploy.model.levels import scored
from deploy.model.pack import Which
from edge_filters.io.onnx import OnnxRuntime
from schemas.errors import ConfigError
from schemas.manifest import Levels, Manifest, Package
from schemas.scoring import Scorer

#: Windows that are timed one by one.
_TIMED = 1_000
#: Channels of a device that are drawn.
DRAWN = 8


@dataclass(slots=True)
class Trace:
    """One device: per window its last event time (us), its score, and the least and largest value of each channel."""

    ends_us: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    envelope: list[npt.NDArray[np.float32]] = field(default_factory=list)  # [2, channels]


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it. Times in microseconds; `one_us` are windows by themselves, sorted."""

    package: Package
    which: Which
    traces: dict[str, Trace]
    batched_windows_per_s: float
    one_us: list[float]
    load_ms: float

    @property
    def manifest(self) -> Manifest:
        """The package's manifest."""
        return self.package.manifest

    def limits(self, device_id: str) -> Levels:
        """Levels of a device; for the heavy half its threshold, three times."""
        threshold = self.manifest.heavy.threshold
        if self.which == "heavy" and threshold is not None:
            return Levels(escalate_at=threshold, raise_at=threshold, clear_at=threshold)
        return self.manifest.levels_of(device_id)

    def as_json(self) -> dict[str, Any]:
        """For programs; scores as quantiles."""
        one = np.array(self.one_us)
        return {
            "model": self.manifest.name,
            "version": self.manifest.version,
            "sha256": self.package.sha256.hex(),
            "half": self.which,
            "devices": {device: self._device(device, trace) for device, trace in self.traces.items()},
            "timing": {
                "load_ms": round(self.load_ms, 1),
                "window_us_p50": round(float(np.quantile(one, 0.5)), 1),
                "window_us_p99": round(float(np.quantile(one, 0.99)), 1),
                "windows_timed": len(one),
                "batched_windows_per_s": round(self.batched_windows_per_s),
                "batched_readings_per_s": round(self.batched_windows_per_s * self.manifest.window_readings),
            },
        }

    def _device(self, device_id: str, trace: Trace) -> dict[str, Any]:
        scores = np.array(trace.scores)
        limits = self.limits(device_id)
        quantiles = np.quantile(scores, [0.0, 0.05, 0.5, 0.95, 1.0])
        return {
            "windows": len(scores),
            "scores": dict(zip(("min", "p5", "median", "p95", "max"), map(float, quantiles), strict=True)),
            "escalated": int(np.count_nonzero(scores >= limits.escalate_at)),
            "raised": int(np.count_nonzero(scores >= limits.raise_at)),
        }


def attempt(package: Package, which: Which, paths: Sequence[Path]) -> Trial:
    """Score recordings, then some windows again, one at a time, for the time it takes.

    Raises: ModelError: the model does not fit, or fails. ConfigError: the recording has other channels, or no window.
    """
    manifest = package.manifest
    started = time.perf_counter()
    scorer = Scorer(package, which, OnnxRuntime(package.files[getattr(manifest, which).file]))
    load_ms = (time.perf_counter() - started) * 1e3
    traces: dict[str, Trace] = {}
    windows, seconds = 0, 0.0
    for path in paths:
        started = time.perf_counter()
        for devices, spans, scores in scored(path, manifest, scorer):
            seconds += time.perf_counter() - started
            windows += len(devices)
            for device, end, score in zip(devices, spans[:, 1].tolist(), scores.tolist(), strict=True):
                trace = traces.setdefault(device, Trace())
                trace.ends_us.append(end)
                trace.scores.append(score)
            started = time.perf_counter()
    if not windows:
        raise ConfigError(
            "the recordings hold no whole window",
            window_readings=manifest.window_readings,
            files=[str(path) for path in paths],
        )
    for device, low_high in _envelopes(paths, manifest):
        traces[device].envelope.append(low_high)
    return Trial(package, which, traces, windows / max(seconds, 1e-9), _one_by_one(scorer, paths, manifest), load_ms)


def _envelopes(paths: Sequence[Path], manifest: Manifest) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    for path in paths:
        for device, window in recording.windows(path, manifest.window_readings, manifest.channels):
            yield device, np.stack([window.values.min(axis=0), window.values.max(axis=0)])[:, :DRAWN]


def _one_by_one(scorer: Scorer, paths: Sequence[Path], manifest: Manifest) -> list[float]:
    scorer.forget()
    took: list[float] = []
    for path in paths:
        for device, window in recording.windows(path, manifest.window_readings, manifest.channels):
            span = np.array([[window.times[0], window.times[-1]]], np.int64)
            started = time.perf_counter_ns()
            scorer.score(window.values[None], [device], span)
            took.append((time.perf_counter_ns() - started) / 1e3)
            if len(took) == _TIMED:
                return sorted(took)
    return sorted(took)
