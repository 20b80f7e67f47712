"""Records for tests, valid by default, each field open to change."""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.records import EdgeAggregate, EdgeEvent, Outcome, SensorBlock, Transition
from schemas.sketch import Sketch


def window(value: float, readings: int = 8, channels: int = 2) -> bytes:
    """A window that is `value` everywhere."""
    return np.full((readings, channels), value, "<f4").tobytes()


def event(device_id: str = "pump-1", seq: int = 0, value: float = 3.0, **changes: Any) -> EdgeEvent:
    """An event of a window that is `value` everywhere, provisionally an anomaly."""
    fields: dict[str, Any] = {
        "device_id": device_id,
        "boot_epoch": 1,
        "seq": seq,
        "cohort": "pumps",
        "sensed_from": 1_000_000,
        "sensed_to": 2_000_000,
        "decided_at": 2_100_000,
        "model_name": "tiny",
        "model_version": 1,
        "model_sha256": b"m" * 32,
        "thresholds_version": 0,
        "policy_version": 1,
        "score": value,
        "outcome": Outcome.ANOMALY,
        "transition": Transition.NONE,
        "reason": "alarm",
        "readings": 8,
        "channels": 2,
        "values": window(value),
    }
    return EdgeEvent(**fields | changes)


def audit(device_id: str = "pump-1", seq: int = 0, value: float = 0.0, **changes: Any) -> SensorBlock:
    """A window of the audit sample that is `value` everywhere."""
    fields: dict[str, Any] = {
        "device_id": device_id,
        "boot_epoch": 1,
        "seq": seq,
        "cohort": "pumps",
        "channels": ["c0", "c1"],
        "event_times": np.arange(8, dtype="<i8").tobytes(),
        "values": window(value),
        "sampled_at_rate": 0.1,
        "score": value,
        "model_name": "tiny",
        "model_version": 1,
        "model_sha256": b"m" * 32,
        "thresholds_version": 0,
    }
    return SensorBlock(**fields | changes)


def aggregate(
    device_id: str = "pump-1",
    seq: int = 0,
    start_us: int = 0,
    size_us: int = 1_000_000,
    rows: np.ndarray | None = None,
    **changes: Any,
) -> EdgeAggregate:
    """The sketch of some rows of two channels in one window."""
    sketch = Sketch.of(np.ones((4, 2), np.float32) if rows is None else rows)
    fields: dict[str, Any] = {
        "device_id": device_id,
        "boot_epoch": 1,
        "seq": seq,
        "cohort": "pumps",
        "window_start": start_us,
        "window_end": start_us + size_us,
        "channels": ["c0", "c1"],
        **sketch.fields(),
    }
    return EdgeAggregate(**fields | changes)
