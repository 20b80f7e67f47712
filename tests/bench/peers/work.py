"""The yardstick's work on a record, the same lines for every peer: decode, features, model, decision. Runs in the
peers' own environments, which have numpy, fastavro and onnxruntime but nothing else of ours.
"""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import fastavro
import numpy as np
import onnxruntime

from schemas.codec import BOOK, HEADER_BYTES
from schemas.features import extract, standardise
from schemas.records import Decision, EdgeEvent

READINGS, CHANNELS = 64, 8
STATISTICS = ["mean", "std", "min", "max"]
WINDOW_MS = 1_000
_EVENT, _DECISION = BOOK.newest(EdgeEvent), BOOK.newest(Decision)
_CENTRE, _SCALE = np.zeros(CHANNELS, np.float32), np.ones(CHANNELS, np.float32)


def decode(value: bytes) -> dict[str, Any]:
    """An EdgeEvent's fields, without any check."""
    event: Any = fastavro.schemaless_reader(io.BytesIO(value[HEADER_BYTES:]), _EVENT.parsed, None)
    return event  # type: ignore[no-any-return]


class Model:
    """The yardstick's network on one thread."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, events: list[dict[str, Any]]) -> list[float]:
        """Scores of events, all in one call."""
        values = np.stack([np.frombuffer(event["values"], "<f4").reshape(READINGS, CHANNELS) for event in events])
        features = extract(standardise(values, _CENTRE, _SCALE), STATISTICS)
        return self._session.run(["h2"], {"x": features})[0][:, 0].tolist()  # type: ignore[no-any-return]


def decision(event: dict[str, Any], score: float) -> bytes:
    """The final decision on an event."""
    out = io.BytesIO()
    out.write(_DECISION.header)
    fields = event | {
        "edge_decided_at": event["decided_at"],
        "decided_at": time.time_ns() // 1000,
        "provisional": event["outcome"],
        "outcome": "ANOMALY" if score >= 0 else "NORMAL",
        "verdict": "RESOLVED",
        "decided_by": "HEAVY",
        "reason": "",
        "edge_score": event["score"],
        "heavy_score": score,
        "heavy_threshold": 0.0,
        "heavy_version": 1,
        "heavy_sha256": event["model_sha256"],
    }
    fastavro.schemaless_writer(out, _DECISION.parsed, fields)
    return out.getvalue()
