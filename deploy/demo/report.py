"""The demo's report: figures as JSON, and a page with plots that needs nothing from anywhere else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from deploy.demo.observer import Seen
from deploy.demo.plots import DevicePlot, Mark, Step, draw, kind_of, runs
from deploy.demo.recordings import DemoDevice
from deploy.page import render, write_page
from schemas.container import read
from schemas.manifest import Manifest, parse_manifest
from schemas.records import Outcome, SensorBlock, Verdict

EVALUATION = ("edge_auc", "heavy_auc", "random_auc", "constant_auc", "edge_ap", "heavy_ap", "random_ap", "constant_ap")
LATENCIES = (
    ("last reading of a window – provisional decision at the edge", "edge_latency_ms"),
    ("last reading of a window – final decision in the topic", "final_latency_ms"),
    ("feedback issued – applied at the edge", "feedback_latency_ms"),
)


def write_report(
    folder: Path, figures: dict[str, Any], seen: Seen, devices: Sequence[DemoDevice], packages: Sequence[Path]
) -> None:
    """Write report.json and report.html. `packages`: folders of the model packages that were published."""
    (folder / "report.json").write_text(json.dumps(figures, indent=2) + "\n")
    manifests = [parse_manifest((package / "manifest.json").read_bytes()) for package in packages]
    page = render(
        "demo/report.html.j2",
        r=figures | {"ok": not figures["findings"]},
        figures=_headline(figures),
        latencies=[(name, figures[key]) for name, key in LATENCIES],
        evaluations=[{"name": m.name, "version": m.version, "scores": m.evaluation} for m in manifests],
        evaluation_names=EVALUATION,
        devices=[_device(device, figures, seen, manifests) for device in devices],
    )
    write_page(folder / "report.html", page)


def _headline(f: dict[str, Any]) -> list[tuple[str, str]]:
    share = f["bytes_sent"] / f["bytes_sensed"] if f["bytes_sensed"] else 0.0
    agreement = "–" if f["agreement"] is None else f"{f['agreement']:.1%}"
    return [
        ("readings sensed", f"{f['readings_sensed']:,}"),
        ("windows scored at the edge", f"{f['windows_scored']:,}"),
        ("events sent", f"{f['events_sent']:,}"),
        ("bytes sent of bytes sensed", f"{share:.1%}"),
        ("final decisions", f"{f['final']:,}"),
        ("edge alarms confirmed", agreement),
        ("lost / doubled", f"{f['lost']} / {f['doubled']}"),
        ("dead letters", f"{f['dead_lettered']}"),
        ("threshold updates applied", f"{f['thresholds_applied']}"),
        ("fleet windows", f"{f['fleet_windows']}"),
    ]


def _device(device: DemoDevice, figures: dict[str, Any], seen: Seen, manifests: Sequence[Manifest]) -> dict[str, Any]:
    decisions = [d for key, d in seen.decisions.items() if key[0] == device.device_id]
    status = seen.status.get(device.device_id)
    sensed = status.counters.get("readings_sensed", 0) if status else 0
    return {
        "id": device.device_id,
        "channels": ", ".join(device.channels),
        "events": len(decisions),
        "anomalies": sum(d.outcome is Outcome.ANOMALY for d in decisions),
        "overridden": sum(d.verdict is Verdict.OVERRIDDEN for d in decisions),
        "thresholds": sum(
            a.accepted and (who, kind) == (device.device_id, "THRESHOLDS") for (who, kind, _), a in seen.applied.items()
        ),
        "model": figures["models"][device.device_id],
        "svg": draw(plot_of(device, seen, manifests, sensed)),
    }


def plot_of(device: DemoDevice, seen: Seen, manifests: Sequence[Manifest], sensed: int) -> DevicePlot:
    """What is drawn for a device: windows are placed by their number, since event times were moved to now."""
    with device.live.path.open("rb") as file:
        blocks = [cast(SensorBlock, block) for block in read(file, SensorBlock)]
    signal = np.concatenate([b.matrix for b in blocks])[:sensed]
    labels = np.concatenate([np.frombuffer(b.labels or bytes(len(b.times)), np.uint8) for b in blocks])[:sensed]
    by_sha = {(m.name, m.version): m for m in manifests}
    updates = {u.version: u for u in seen.thresholds.get(device.device_id, [])}
    marks: list[Mark] = []
    steps: list[Step] = []
    swaps: list[tuple[int, int]] = []
    sent: list[tuple[int, float, str, str, int, int]] = []
    for key, event in seen.events.items():
        if key[0] == device.device_id:
            decision = seen.decisions.get(key)
            kind = kind_of(decision.outcome, decision.verdict) if decision else "undecided"
            sent.append((event.seq, event.score, kind, event.model_name, event.model_version, event.thresholds_version))
    for block in seen.samples:
        if block.device_id == device.device_id and block.score is not None and block.model_name is not None:
            version, thresholds = block.model_version or 0, block.thresholds_version or 0
            sent.append((block.seq, block.score, "audit", block.model_name, version, thresholds))
    before: tuple[int, int] | None = None
    for seq, score, kind, model, version, thresholds in sorted(sent):
        manifest = by_sha.get((model, version))
        at = seq * (manifest.window_readings if manifest else 1)
        marks.append(Mark(at, score, kind))
        if manifest is not None and (version, thresholds) != before:
            levels = updates.get(thresholds) or manifest.levels_of(device.device_id)
            steps.append(Step(at if steps else 0, levels.escalate_at, levels.raise_at))
            if before is not None and version != before[0]:
                swaps.append((at, version))
            before = version, thresholds
    return DevicePlot(device.device_id, device.channels, signal, runs(labels), marks, steps, swaps)
