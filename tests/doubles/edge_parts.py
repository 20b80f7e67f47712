"""Parts of an edge process for tests: an engine on the tiny model, a clock that is set by hand, a scripted outbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_filters.assemble import build_scorer
from edge_filters.blocks import Block
from edge_filters.device import Device, Rules, Slot
from edge_filters.engine import Engine
from edge_filters.outgoing import Parcel, Priority
from edge_filters.ports import Delivery, Report
from edge_filters.updates import HashTrust, ModelUpdates, Trust
from schemas.records import ModelUpdate, TargetKind, ThresholdUpdate
from tests.doubles import edge_model

T0 = 1_700_000_000_000_000


class ManualClock:
    """Microseconds, moved by hand."""

    def __init__(self, now_us: int = T0) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        return self.now_us


def slot(cohort: str = "pumps", trust: Trust | None = None, **changes: Any) -> Slot:
    """A slot that runs the tiny package."""
    package = edge_model.package(**changes)
    return Slot(
        build_scorer(package), cohort, ModelUpdates(package, cohort, package.manifest.channels, trust or HashTrust())
    )


def engine(*device_ids: str, rules: Rules | None = None, **changes: Any) -> Engine:
    """Devices of one cohort on one tiny package."""
    shared = slot(**changes)
    chosen = rules or Rules()
    return Engine([Device(name, "pumps", 1, shared, chosen) for name in device_ids or ("pump-7",)], chosen)


def block(
    values: Sequence[float], device_id: str = "pump-7", *, start_us: int = T0, step_us: int = 1000, channels: int = 2
) -> Block:
    """A block in which every channel has these values."""
    times = np.arange(len(values), dtype=np.int64) * step_us + start_us
    return Block(device_id, times, np.repeat(np.array(values, np.float32)[:, None], channels, axis=1))


def thresholds(**changes: Any) -> ThresholdUpdate:
    """A valid update for device pump-7, an hour to live."""
    fields: dict[str, Any] = {
        "target": "pump-7",
        "target_kind": TargetKind.DEVICE,
        "version": 1,
        "model_name": "tiny",
        "escalate_at": 4.0,
        "raise_at": 5.0,
        "clear_at": 3.0,
        "issued_at": T0,
        "expires_at": T0 + 3_600_000_000,
        "reason": "too many overrides",
        "evidence": ["pump-7:1:0"],
        "evidence_count": 1,
    }
    return ThresholdUpdate(**fields | changes)


def model_update(version: int = 2, **changes: Any) -> tuple[ModelUpdate, bytes]:
    """A valid update of the tiny model, and the edge file it needs."""
    own = {
        name: changes.pop(name) for name in ("issued_at", "expires_at", "manifest_sha256", "update") if name in changes
    }
    package = edge_model.package(version=version, **changes)
    manifest = package.manifest
    fields: dict[str, Any] = {
        "model_name": manifest.name,
        "version": manifest.version,
        "cohort": manifest.cohort,
        "manifest": package.manifest_bytes,
        "manifest_sha256": package.sha256,
        "issued_at": T0,
        "expires_at": T0 + 3_600_000_000,
    }
    return ModelUpdate(**fields | own.pop("update", {}) | own), package.files["edge.onnx"]


class MemoryOutbox:
    """An outbox whose parcels end as the test says: `answer` is the report for everything sent from now on."""

    def __init__(self) -> None:
        self.ready = True
        self.problem = ""
        self.answer = Report(Delivery.DELIVERED)
        self.sent: list[Parcel] = []
        self.receipts: list[Report] = []
        self.restarts = 0
        self.closed = False

    def send(self, parcel: Parcel) -> Any:
        self.sent.append(parcel)
        self.receipts.append(self.answer)
        return len(self.receipts) - 1

    def report(self, receipt: Any) -> Report:
        return self.receipts[receipt]

    def settle(self, report: Report | None = None) -> None:
        """Everything that is on its way ends now."""
        done = report or Report(Delivery.DELIVERED)
        self.receipts = [done if r.delivery is Delivery.PENDING else r for r in self.receipts]

    def restart(self) -> None:
        self.restarts += 1

    def close(self, timeout_s: float) -> None:
        self.closed = True


def parcel(number: int, priority: Priority = Priority.URGENT, size: int = 10, key: bytes = b"pump-7") -> Parcel:
    """A parcel whose payload says its number."""
    topic = "edge.events" if priority is Priority.URGENT else "edge.aggregates"
    return Parcel(priority, topic, key, str(number).encode().ljust(size, b"."))


def number_of(sent: Parcel) -> int:
    """Inverse of `parcel`."""
    return int(sent.payload.rstrip(b"."))
