"""`train`: recordings of normal operation in, a verified model package out.

Recordings are read as streams, three times: to see what is in them, to take windows to fit on, and to score what
thresholds and the evaluation need. No label, row number or time ever is the input of a model. The same recordings,
options and library versions give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from deploy.train.evaluate import Evaluation, evaluate
from deploy.train.learning import check_scored, check_size, check_together, learn
from deploy.train.models import fit_edge, fit_heavy
from deploy.train.packing import TrainingOptions, draft, finish, scorer, with_fields, write
from deploy.train.reading import Device, Survey, survey
from deploy.train.remarks import alarm_sentence, doubts, false_alarms, remarks
from deploy.train.report import TrainingReport, write_reports
from deploy.train.scoring import Part, Scoring
from schemas.errors import ConfigError
from schemas.manifest import MAX_MANIFEST_BYTES, load_package

Progress = Callable[[str], None]


def train(
    normal: Sequence[Path],
    out_dir: Path,
    *,
    name: str,
    cohort: str | None = None,
    seed: int,
    version: int = 1,
    live: Sequence[Path] = (),
    options: TrainingOptions | None = None,
    progress: Progress = lambda _: None,
) -> TrainingReport:
    """Make a package.

    Args:
        normal: recordings to learn from: one per device, of normal operation, unless `options.mixed` says otherwise.
        out_dir: gets manifest.json, edge.onnx, heavy.onnx, evaluation.json and the reports; made where it is missing.
        name, version: of the model.
        cohort: of the devices; None: the one that the recordings name.
        seed: of everything random, 0 to 2**32 - 1.
        live: labelled recordings to evaluate with; they change nothing but the evaluation.
        options: what is to be chosen; None: the defaults.
        progress: called with a line of text at each step, and with what was chosen and why.

    Raises:
        ConfigError: recordings that do not belong together, are too short or cannot be learned from.
        DecodeError: a recording is damaged.
        ModelError: the package that was written does not pass its own checks.
    """
    options = options or TrainingOptions()
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        progress(line)

    if not normal:
        raise ConfigError("there is nothing to learn from", fix="give at least one recording of normal operation")
    if not 0 <= seed < 1 << 32:
        raise ConfigError("not a seed", got=seed, fix="choose one from 0 to 4294967295")
    if version < 1:
        raise ConfigError("versions of a model count from 1", got=version)
    if out_dir.exists() and not out_dir.is_dir():
        raise ConfigError("the package needs a folder, and a file is in its place", folder=str(out_dir))
    progress(f"reading {len(normal)} recordings")
    found = survey(normal, progress)
    cohort = check_together(found, cohort, one_each=not options.mixed)
    for line in remarks(found):
        note(line)
    later = _labelled(live, next(iter(found.devices.values())).channels, progress) if live else None
    parts = {device.device_id: _part(device, options) for device in found.devices.values()}
    with threadpool_limits(1):  # sums over threads come in any order: one thread keeps the last bit
        plan = learn(found, parts, options, note, progress)
        rates = options.rates(plan.window_us)
        windows = np.concatenate([device.fitting for device in plan.learned])
        progress(f"fitting the edge model on {len(windows):,} windows of {len(plan.learned)} devices")
        edge = fit_edge(windows)
        progress("fitting the heavy model")
        heavy = fit_heavy(windows, options.heavy, seed)
    del windows
    devices = list(found.devices.values())
    package = draft(devices, plan.scaling, plan.learned, edge, heavy, options, name, cohort, version, seed)
    plan.learned.clear()
    scored = Scoring(package).run(found, parts, min(plan.stride, plan.readings), options.mixed, progress)
    check_scored(scored, parts)
    stated = options.false_alarms is not None
    package = finish(package, scored.edge, scored.heavy, rates, stated, rates.lineage() | plan.lineage(options))
    if stated:
        note(alarm_sentence(options, rates, plan.window_us, scored))
    judged = scored.judged
    if later:
        progress(f"evaluating on {len(live)} labelled recordings")
        whole = {name: Part(0, 0, device.readings) for name, device in later.devices.items()}
        judged = Scoring(package).run(later, whole, 1, False, progress).judged
    evaluation = evaluate(package.manifest, judged, seed) if judged else None
    for line in doubts(evaluation, rates) if evaluation else ():
        note(line)
    package = with_fields(package, evaluation=evaluation.flat() if evaluation else {})
    if len(package.manifest_bytes) > MAX_MANIFEST_BYTES:
        package = with_fields(package, evaluation=Evaluation(evaluation.pooled).flat() if evaluation else {})
    check_size(len(package.manifest_bytes), len(devices), len(devices[0].channels))
    write(package, out_dir)
    written = load_package(lambda file: (out_dir / file).read_bytes(), ("edge", "heavy"))
    scorer(written, "edge")
    scorer(written, "heavy")
    report = TrainingReport(out_dir, written.manifest, written.sha256.hex(), evaluation, tuple(notes))
    write_reports(report, out_dir, scored, judged, false_alarms(options, rates, plan.window_us))
    progress(f"wrote {name} version {version} to {out_dir}")
    return report


def _part(device: Device, options: TrainingOptions) -> Part:
    middle = round(device.readings * options.learn_share)
    first = middle - max(1, round(middle * options.normal_share)) if middle else 0
    return Part(first, middle, device.readings)


def _labelled(live: Sequence[Path], channels: tuple[str, ...], say: Progress) -> Survey:
    found = survey(live, say)
    for item in found.devices.values():
        if not item.labelled or item.channels != channels:
            raise ConfigError(
                "a recording cannot be evaluated with",
                device=item.device_id,
                labelled=item.labelled,
                channels=list(item.channels),
                fix="it needs labels, and the channels that the model was trained on",
            )
    return found
