"""`tidegate replay`: a recording through the edge filter and the pipeline's graph, offline. Needs only pip."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from deploy.output import note
from schemas import topics
from schemas.container import read
from schemas.errors import ConfigError, DecodeError
from schemas.manifest import Manifest, parse_manifest
from schemas.records import Decision, SensorBlock
from schemas.units import duration_us

EXAMPLES = """\
examples:
  tidegate replay deploy/demo/data/machine-2-8.live.avro --models build/models/servers-v1-* -o build/replayed
  tidegate replay *.avro --models models/pumps models/fans -o out --format json

The recording keeps its own event times, thresholds stay at the package's defaults, and the same recording gives the
same records every time. OUT holds one Avro file per topic: what the edge would have sent and the cloud decided.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="tidegate replay",
        description="What the system would have decided about a recording: the live code, offline.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("recordings", nargs="+", type=Path, metavar="REC.avro", help="container files of SensorBlocks")
    p.add_argument(
        "--models", nargs="+", type=Path, required=True, metavar="DIR", help="model packages, one per cohort"
    )
    p.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder to write; made if missing")
    p.add_argument(
        "--fleet-window", metavar="DURATION", help="length of aggregates and fleet windows (default: some 50 readings)"
    )
    p.add_argument("--audit-rate", type=float, default=0.01, metavar="SHARE", help="default: 0.01")
    p.add_argument("--format", choices=["text", "json"], default="text", help="how to print the summary")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Replay, and print a summary. Raises TidegateError."""
    args = parser().parse_args(argv)
    groups = assign(args.recordings, args.models)
    window_us = duration_us(args.fleet_window) if args.fleet_window else usual_window_us(args.recordings[0])
    started_s = time.monotonic()
    results = []
    for model, recordings in groups.items():
        out = args.output if len(groups) == 1 else args.output / model.name
        note(f"filtering {len(recordings)} recording(s) with {model}")
        results.append(_one(recordings, model, out, window_us, args.audit_rate))
    report = {"seconds": round(time.monotonic() - started_s, 2), "output": str(args.output), "models": results}
    if args.format == "json":
        print(json.dumps(report, indent=2))
    else:
        for result in results:
            print(_text(result))
        print(f"written to {args.output} in {report['seconds']:.1f} s")
    damaged = [line for result in results for line in result["damaged"]]
    for line in damaged:
        print(f"tidegate: {line}", file=sys.stderr)
    return 65 if damaged else 0


def assign(recordings: Sequence[Path], models: Sequence[Path]) -> dict[Path, list[Path]]:
    """Which model filters which recordings: the one for their cohort, else the one for their channels.

    Raises: ConfigError: no model, or several, fit. DecodeError, ModelError: a file is not what it should be.
    """
    manifests = {model: _manifest(model) for model in models}
    groups: dict[Path, list[Path]] = {}
    for recording in recordings:
        first = next(_blocks(recording))
        by_channels = [m for m, manifest in manifests.items() if manifest.channels == first.channels]
        by_cohort = [m for m in by_channels if manifests[m].cohort == first.cohort]
        fitting = by_cohort or by_channels
        if len(fitting) != 1:
            raise ConfigError(
                "several models fit the recording" if fitting else "no model fits the recording",
                recording=str(recording),
                channels=first.channels,
                cohort=first.cohort,
                models=[str(m) for m in fitting or models],
                fix="a model must have exactly the recording's channels; give one per cohort",
            )
        groups.setdefault(fitting[0], []).append(recording)
    return groups


def usual_window_us(recording: Path) -> int:
    """About fifty readings of a recording in event time, in whole seconds; at least one. Microseconds."""
    times = next(_blocks(recording)).times
    steps = np.diff(times)
    step_us = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    return max(1, round(50 * step_us / 1e6)) * 1_000_000


def _one(recordings: Sequence[Path], model: Path, out: Path, window_us: int, audit_rate: float) -> dict[str, Any]:
    from edge_filters.run import replay as filter_offline
    from pipelines.replay import replay as decide_offline

    damaged = []
    try:
        ledger = filter_offline(recordings, model, out, audit_rate=audit_rate, aggregate_us=window_us)
    except DecodeError as cause:  # what stands before the damage was filtered, and is decided below
        damaged.append(str(cause))
        ledger = {}
    note("deciding with the heavy model")
    decided = decide_offline(str(out), [str(model)], str(out), window_us)
    with (out / f"{topics.DECISIONS.name}.avro").open("rb") as file:
        decisions = [cast(Decision, record) for record in read(file, Decision)]
    return {
        "model": str(model),
        "recordings": [str(path) for path in recordings],
        "ledger": ledger,
        "written": decided["written"],
        "outcomes": dict(Counter(d.outcome.value for d in decisions)),
        "verdicts": dict(Counter(d.verdict.value for d in decisions)),
        "damaged": damaged + decided["damaged"],
    }


def _text(result: dict[str, Any]) -> str:
    ledger, outcomes = result["ledger"], result["outcomes"]
    read_ = f"{ledger.get('readings_sensed', 0):,} readings, {ledger.get('windows_scored', 0):,} windows scored"
    sent = f"{ledger.get('windows_escalated', 0):,} escalated"
    found = ", ".join(f"{n} {name.lower()}" for name, n in sorted(outcomes.items())) or "none"
    verdicts = ", ".join(f"{n} {name.lower()}" for name, n in sorted(result["verdicts"].items())) or "none"
    return f"{result['model']}: {read_}, {sent}\n  final decisions: {found} ({verdicts})"


def _manifest(model: Path) -> Manifest:
    try:
        return parse_manifest((model / "manifest.json").read_bytes())
    except OSError as cause:
        raise ConfigError(
            "not a model package", folder=str(model), cause=cause.strerror, fix="a package holds manifest.json"
        ) from None


def _blocks(recording: Path) -> Iterator[SensorBlock]:
    try:
        with recording.open("rb") as file:
            yield from (cast(SensorBlock, record) for record in read(file, SensorBlock))
    except OSError as cause:
        raise ConfigError("the recording cannot be read", recording=str(recording), cause=cause.strerror) from None
    except DecodeError as wrong:
        raise DecodeError(wrong.problem, fix=wrong.fix, **({"recording": str(recording)} | wrong.where)) from wrong
    raise DecodeError("the recording holds no block", recording=str(recording))
