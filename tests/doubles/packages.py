"""A package around any ONNX bytes and any fields of a half, checked and scored by the product's own code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from edge_filters.io.onnx import OnnxRuntime
from schemas.manifest import Manifest, Package
from schemas.scoring import Scorer


def package(
    data: bytes,
    *,
    window_readings: int = 4,
    channels: tuple[str, ...] = ("a",),
    of_half: Sequence[str] = (),
    **half: Any,
) -> Package:
    """Both halves are the same model; its self-test is made here, from what it gives for a rising window.

    `of_half`: the channels that go into its first input; none: all.
    """
    wide = len(channels)
    window = np.arange(window_readings * wide, dtype=np.float64).reshape(window_readings, wide)
    fields: dict[str, Any] = {
        "file": "model.onnx",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "input": "x",
        "feed": "window",
        "output": "score",
        "self_test": {"windows": [window.tolist()], "scores": [0.0]},
        "threshold": 1.0,
        "channels": list(of_half),
    } | half

    def made(scores: list[float]) -> Package:
        fields["self_test"]["scores"] = scores
        manifest = {
            "name": "odd",
            "version": 1,
            "cohort": "odd",
            "channels": list(channels),
            "window_readings": window_readings,
            "scaling": {"centre": [0.0] * wide, "scale": [1.0] * wide},
            "levels": {"escalate_at": 1.0, "raise_at": 2.0, "clear_at": 0.5},
            "bounds": {"low": -1e6, "high": 1e6},
            "edge": fields,
            "heavy": fields,
        }
        raw = json.dumps(manifest).encode()
        return Package(Manifest.model_validate_json(raw), raw, {"model.onnx": data})

    draft = made([0.0])
    scores = _Untested(draft, "edge", OnnxRuntime(data)).score(window[None].astype(np.float32), [""])
    return made(scores.tolist())


class _Untested(Scorer):
    def _check_answers(self) -> None:
        return


def scorer(made: Package, which: Literal["edge", "heavy"] = "edge") -> Scorer:
    """The scorer of a half, self-test and all."""
    return Scorer(made, which, OnnxRuntime(made.files["model.onnx"]))
