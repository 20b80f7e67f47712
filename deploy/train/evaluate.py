"""How often windows that nothing was learned from are alarms, and how well scores separate those that are labelled.

Separation stands against a random score and a constant one.

Point-adjusted F1 is never computed: with the best threshold a random score reaches 0.85 with it on this kind of data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from schemas.manifest import Manifest
from schemas.records import Floats
from schemas.scoring import Scores

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn of a device: every `every`-th row of its first channels, and at which of them each window starts.

    `channels` of `of_channels`; `values` float32[n, c]; `labels` bool[n]; `starts` int64[windows].
    """

    channels: tuple[str, ...]
    of_channels: int
    values: Floats
    labels: Flags
    starts: npt.NDArray[np.int64]
    every: int


@dataclass(frozen=True, slots=True)
class Judged:
    """The windows of one device's later readings with both scores.

    A window is anomalous when any reading is; None: the recording has no labels.
    """

    device_id: str
    anomalous: Flags | None
    edge: Scores
    heavy: Scores
    picture: Picture | None = None


@dataclass(frozen=True, slots=True)
class Separation:
    """Areas under the ROC and the precision-recall curve; NaN where there is only one kind of window."""

    auc: float
    ap: float

    @classmethod
    def of(cls, anomalous: Flags, scores: Scores) -> Separation:
        """See the class. A constant score has auc 0.5 and ap = the share of anomalous windows."""
        if not 0 < anomalous.sum() < len(anomalous):
            return cls(float("nan"), float("nan"))
        return cls(float(roc_auc_score(anomalous, scores)), float(average_precision_score(anomalous, scores)))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Per device and pooled. Every value is a float, NaN where it is not defined."""

    pooled: dict[str, float]
    devices: dict[str, dict[str, float]] = field(default_factory=dict)

    def flat(self) -> dict[str, float]:
        """As a manifest carries it: `edge_auc`, `machine-1-7.edge_auc`, …; without what is not defined."""
        pairs = list(self.pooled.items())
        pairs += [
            (f"{device}.{name}", value) for device, values in self.devices.items() for name, value in values.items()
        ]
        return {name: float(f"{value:.6g}") for name, value in pairs if np.isfinite(value)}

    def as_json(self) -> dict[str, Any]:
        """For a report: NaN is null."""
        return {
            "pooled": _without_nan(self.pooled),
            "devices": {name: _without_nan(values) for name, values in self.devices.items()},
        }


def evaluate(manifest: Manifest, judged: list[Judged], seed: int) -> Evaluation:
    """Figures of a package on labelled windows."""
    devices = {item.device_id: _figures(manifest, [item], seed) for item in judged}
    return Evaluation(_figures(manifest, judged, seed), devices)


def _figures(manifest: Manifest, judged: list[Judged], seed: int) -> dict[str, float]:
    def flags(items: list[Judged]) -> tuple[Flags, Flags, Flags]:
        """Which windows are passed on, raise the edge's alarm, and are an anomaly to the heavy model."""
        levels = [manifest.levels_of(item.device_id) for item in items]
        pairs = list(zip(items, levels, strict=True))
        return (
            np.concatenate([item.edge >= level.escalate_at for item, level in pairs]),
            np.concatenate([item.edge >= level.raise_at for item, level in pairs]),
            np.concatenate([item.heavy for item in items]) >= (manifest.heavy.threshold or 0.0),
        )

    escalated, raised, confirmed = flags(judged)
    figures = {
        "windows": float(len(escalated)),
        "escalated": float(np.mean(escalated)),
        "raised": float(np.mean(raised)),
        "confirmed": float(np.mean(confirmed)),
        "confirmed_of_escalated": _share(confirmed, escalated),
        "agreement": float(np.mean(escalated == confirmed)),
    }
    known = [item for item in judged if item.anomalous is not None]
    if not known:
        return figures
    anomalous = np.concatenate([item.anomalous for item in known if item.anomalous is not None])
    escalated, raised, confirmed = flags(known)
    edge, heavy = (np.concatenate([getattr(item, name) for item in known]) for name in ("edge", "heavy"))
    random = np.random.default_rng(seed).random(len(anomalous))
    by_edge, by_heavy, by_chance = (Separation.of(anomalous, scores) for scores in (edge, heavy, random))
    return figures | {
        "anomalous": float(anomalous.sum()),
        "edge_auc": by_edge.auc,
        "edge_ap": by_edge.ap,
        "heavy_auc": by_heavy.auc,
        "heavy_ap": by_heavy.ap,
        "random_auc": by_chance.auc,
        "random_ap": by_chance.ap,
        "constant_auc": 0.5,
        "constant_ap": float(np.mean(anomalous)),
        "escalated_of_anomalous": _share(escalated, anomalous),
        "escalated_of_normal": _share(escalated, ~anomalous),
        "raised_of_anomalous": _share(raised, anomalous),
        "raised_of_normal": _share(raised, ~anomalous),
        "confirmed_of_anomalous": _share(confirmed, anomalous),
        "confirmed_of_normal": _share(confirmed, ~anomalous),
    }


def _share(of: Flags, among: Flags) -> float:
    return float(np.mean(of[among])) if among.any() else float("nan")


def _without_nan(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in values.items()}
