"""A model package that needs no training: how far a window's channels are from their centre, in scales.

Edge score: the largest |mean| over the channels, after standardising. Heavy score: the largest of |mean|, |min|, |max|.
Both halves run the same few bytes of ONNX, which take any number of channels. It is a place to start from: it knows
nothing of how channels hang together, and a trained package takes its place without any other change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schemas.features import extract, standardise
from schemas.manifest import MANIFEST_FILE

NAME = "starter"
MODEL_FILE = "deviation.onnx"
#: In scales; the heavy half looks at single readings, which stray further than means do.
LEVELS = {"escalate_at": 3.0, "raise_at": 4.0, "clear_at": 2.0}
BOUNDS = {"low": 1.0, "high": 50.0}
HEAVY_THRESHOLD = 5.0
#: A manifest holds four self-test windows, and may not be large: readings times channels of a window, at most.
MAX_WINDOW_VALUES = 2000
_STATISTICS = {"edge": ["mean"], "heavy": ["mean", "min", "max"]}


def model_bytes() -> bytes:
    """ONNX: x float32[batch, features] -> score float32[batch, 1], the largest absolute feature."""
    return (Path(__file__).parent / MODEL_FILE).read_bytes()


def window_for(channels: int, readings: int) -> int:
    """Readings in a window of that many channels, `readings` where they fit."""
    return max(1, min(readings, MAX_WINDOW_VALUES // channels))


def package_files(
    cohort: str, channels: Sequence[str], window_readings: int, centre: Sequence[float], scale: Sequence[float]
) -> dict[str, bytes]:
    """Files of the package by name. `centre` and `scale`: per channel, in its unit; no scale is 0."""
    model = model_bytes()
    centre32, scale32 = np.array(centre, np.float32), np.array(scale, np.float32)
    windows = np.stack([np.tile(centre32 + step * scale32, (window_readings, 1)) for step in (0.0, 2.0)])

    def half(which: str) -> dict[str, Any]:
        scores = np.abs(extract(standardise(windows, centre32, scale32), _STATISTICS[which])).max(axis=1)
        return {
            "file": MODEL_FILE,
            "sha256": hashlib.sha256(model).hexdigest(),
            "bytes": len(model),
            "input": "x",
            "feed": "features",
            "statistics": _STATISTICS[which],
            "output": "score",
            "self_test": {"windows": _short(windows), "scores": _short(scores)},
        }

    manifest = {
        "format": "tidegate-model/1",
        "name": NAME,
        "version": 1,
        "cohort": cohort,
        "channels": list(channels),
        "window_readings": window_readings,
        "scaling": {"centre": _short(centre32), "scale": _short(scale32)},
        "levels": LEVELS,
        "bounds": BOUNDS,
        "edge": half("edge"),
        "heavy": half("heavy") | {"threshold": HEAVY_THRESHOLD},
        "lineage": {"made_by": "tidegate init"},
    }
    return {MODEL_FILE: model, MANIFEST_FILE: json.dumps(manifest, ensure_ascii=False).encode()}


def _short(values: Any) -> Any:
    """Lists of the shortest decimals that are the same float32 values: a manifest must stay small."""
    return [_short(each) for each in values] if values.ndim else float(str(values))
