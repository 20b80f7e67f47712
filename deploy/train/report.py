"""What the trainer writes beside a package: report.json, evaluation.json, and a page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from sklearn.metrics import precision_recall_curve, roc_curve

from deploy.demo.plots import DevicePlot, Mark, Step, draw, runs
from deploy.page import render
from deploy.train.charts import Curve, Level, curves, histogram
from deploy.train.evaluate import Evaluation, Flags, Judged, Picture
from deploy.train.scoring import Scored
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.scoring import Scores

REPORT_FILE = "report.json"
EVALUATION_FILE = "evaluation.json"
PAGE_FILE = "report.html"
#: Windows of a device that are drawn: those that were passed on first, then evenly.
MOST_MARKS = 1_500
_COLUMNS = (
    ("windows", "windows"),
    ("anomalous", "labelled anomalous"),
    ("edge_auc", "edge AUC"),
    ("edge_ap", "edge AP"),
    ("heavy_auc", "heavy AUC"),
    ("heavy_ap", "heavy AP"),
    ("random_ap", "random AP"),
    ("escalated", "passed on"),
    ("raised", "edge alarm"),
    ("confirmed", "heavy: anomaly"),
    ("raised_of_normal", "edge alarm of normal"),
    ("confirmed_of_normal", "heavy: anomaly of normal"),
    ("confirmed_of_anomalous", "heavy: anomaly of anomalous"),
)
_COUNTS = ("windows", "anomalous")


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What came out. `evaluation` is None where there was nothing to evaluate with; `notes`: what was chosen, why."""

    folder: Path
    manifest: Manifest
    sha256: str
    evaluation: Evaluation | None
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As it stands in report.json beside the package."""
        return {
            "model": self.manifest.name,
            "version": self.manifest.version,
            "manifest_sha256": self.sha256,
            "bytes": {half.file: half.bytes for half in (self.manifest.edge, self.manifest.heavy)},
            "lineage": self.manifest.lineage,
            "notes": list(self.notes),
            "evaluation": self.evaluation.as_json() if self.evaluation else None,
        }


def write_reports(
    report: TrainingReport,
    folder: Path,
    scored: Scored,
    judged: Sequence[Judged],
    false_alarms: Mapping[str, float | str | None],
) -> None:
    """Write all three; `false_alarms`: what the thresholds were made for.

    Raises ConfigError: the folder does not take them.
    """
    evaluation = report.evaluation.as_json() if report.evaluation else {"pooled": None, "devices": {}}
    texts = {
        REPORT_FILE: _json(report.as_json()),
        EVALUATION_FILE: _json(
            {
                "model": report.manifest.name,
                "version": report.manifest.version,
                "manifest_sha256": report.sha256,
                "false_alarms": dict(false_alarms),
            }
            | evaluation
        ),
        PAGE_FILE: page(report, scored, judged),
    }
    try:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as cause:
        raise ConfigError("the report cannot be written", folder=str(folder), cause=str(cause)) from None


def page(report: TrainingReport, scored: Scored, judged: Sequence[Judged]) -> str:
    """The page. Names from recordings are escaped."""
    manifest = report.manifest
    known = [item for item in judged if item.anomalous is not None]
    anomalous = np.concatenate(
        [np.zeros(0, np.bool_), *(item.anomalous for item in known if item.anomalous is not None)]
    )
    both = 0 < np.count_nonzero(anomalous) < len(anomalous)
    columns = [pair for pair in _COLUMNS if report.evaluation and pair[0] in report.evaluation.pooled]
    return render(
        "train/report.html.j2",
        m=manifest,
        r=report,
        both=both,
        labelled=bool(known),
        columns=[heading for _, heading in columns],
        rows=_rows(report.evaluation, [name for name, _ in columns]),
        histograms=[
            (title, _histogram(which, manifest, scored, judged))
            for which, title in (("edge", "Edge model"), ("heavy", "Heavy model"))
        ],
        curves=_curves(known, anomalous) if both else [],
        devices=[
            (item.device_id, _about(item.picture), _device(item, item.picture, manifest))
            for item in judged
            if item.picture is not None
        ],
        not_drawn=max(0, len(judged) - sum(item.picture is not None for item in judged)),
    )


def _json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _rows(evaluation: Evaluation | None, names: Sequence[str]) -> list[tuple[str, list[str]]]:
    if evaluation is None:
        return []
    every = [*evaluation.devices.items(), *([("all", evaluation.pooled)] if len(evaluation.devices) > 1 else [])]
    return [(who, [_cell(name, values.get(name, float("nan"))) for name in names]) for who, values in every]


def _cell(name: str, value: float) -> str:
    if not np.isfinite(value):
        return "–"
    if name in _COUNTS:
        return f"{value:,.0f}"
    return f"{value:.3f}" if name.endswith(("_auc", "_ap")) else f"{value:.2%}"


def _histogram(which: str, manifest: Manifest, scored: Scored, judged: Sequence[Judged]) -> Markup:
    held = np.concatenate(list((scored.edge if which == "edge" else scored.heavy).values()))
    later, odd = [np.zeros(0)], [np.zeros(0)]
    for item in judged:
        scores: Scores = getattr(item, which)
        marked: Flags = np.zeros(len(scores), np.bool_) if item.anomalous is None else item.anomalous
        later.append(scores[~marked])
        odd.append(scores[marked])
    levels = [Level(manifest.heavy.threshold or 0.0, "anomaly at", "raise")]
    if which == "edge":
        levels = [
            Level(manifest.levels.escalate_at, "passed on at", "escalate"),
            Level(manifest.levels.raise_at, "alarm at", "raise"),
        ]
    groups = [("held", held), ("later", np.concatenate(later)), ("odd", np.concatenate(odd))]
    return histogram(groups, levels, "score, a logarithm; higher is less normal")


def _curves(known: Sequence[Judged], anomalous: Flags) -> list[tuple[str, Markup]]:
    roc, pr = [Curve("chance", np.array([0.0, 1.0]), np.array([0.0, 1.0]))], []
    base = float(np.mean(anomalous))
    pr.append(Curve("chance", np.array([0.0, 1.0]), np.array([base, base])))
    for which in ("edge", "heavy"):
        scores = np.concatenate([getattr(item, which) for item in known])
        false_alarms, found, _ = roc_curve(anomalous, scores)
        precision, recall, _ = precision_recall_curve(anomalous, scores)
        roc.append(Curve(which, false_alarms, found))
        pr.append(Curve(which, recall, precision))
    return [
        ("ROC", curves(roc, "share of normal windows above the threshold", "share of anomalous ones")),
        ("Precision and recall", curves(pr, "recall: share of anomalous windows found", "precision")),
    ]


def _about(picture: Picture) -> str:
    shown = len(picture.channels)
    some = "" if shown == picture.of_channels else f"; the first {shown} of {picture.of_channels} channels"
    thin = "" if picture.every == 1 else f"; every {picture.every}th reading"
    return ", ".join(picture.channels) + some + thin


def _device(item: Judged, picture: Picture, manifest: Manifest) -> Markup:
    levels = manifest.levels_of(item.device_id)
    above = np.flatnonzero(item.edge >= levels.escalate_at)
    chosen = _spread(above, MOST_MARKS * 2 // 3)
    rest = _spread(np.flatnonzero(item.edge < levels.escalate_at), MOST_MARKS - len(chosen))
    anomaly = item.heavy >= (manifest.heavy.threshold or 0.0)
    marks = [
        Mark(
            int(picture.starts[at]),
            float(item.edge[at]),
            "audit" if item.edge[at] < levels.escalate_at else ("anomaly" if anomaly[at] else "normal"),
        )
        for at in np.sort(np.concatenate([chosen, rest])).tolist()
    ]
    return draw(
        DevicePlot(
            item.device_id,
            picture.channels,
            picture.values,
            labelled=runs(picture.labels.astype(np.uint8)),
            marks=marks,
            steps=[Step(0, levels.escalate_at, levels.raise_at)],
        )
    )


def _spread(numbers: Any, most: int) -> Any:
    """At most so many of them, evenly taken."""
    return numbers[np.unique(np.linspace(0, len(numbers) - 1, most).astype(int))] if len(numbers) > most else numbers
