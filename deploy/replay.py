"""`tidegate replay`, offline: a recording through edge filter and graph, or recorded topics through the graph again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np

from deploy.recording.compare import compare
from deploy.recording.files import found_in
from deploy.recording.packages import packages_in
from deploy.recording.progress import Progress
from deploy.recording.span import ALL, Span, blocks, cut, first_time
from schemas import topics
from schemas.container import ContainerWriter, read, read_header
from schemas.errors import ConfigError, DecodeError
from schemas.manifest import Manifest, parse_manifest
from schemas.records import Decision, EdgeAggregate, SensorBlock

#: Fleet windows where nothing else says how long they were; the live pipeline's default.
USUAL_FLEET_WINDOW_US = 5_000_000
_FROM_EDGES = (topics.EVENTS, topics.AGGREGATES, topics.SAMPLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to replay. `window_us`: length of aggregates and fleet windows; None: what suits the recording."""

    models: Sequence[Path]
    out: Path
    span: Span = ALL
    window_us: int | None = None
    audit_rate: float = 0.01
    quiet: bool = False
    against: Path | None = None  # recorded decisions to compare with: a file, or a folder with one
    verify: bool = False  # there must be such decisions


def replay(inputs: Sequence[Path], settings: Settings) -> dict[str, Any]:
    """Replay recordings, or one folder of recorded topics. Returns the report.

    Raises: ConfigError: inputs, models or span do not fit. DecodeError, ModelError: a file is not what it should be.
    """
    started_s = time.monotonic()
    folders = [path for path in inputs if is_recorded_topics(path)]
    if folders and len(inputs) > 1:
        raise ConfigError("recorded topics are replayed alone", folder=str(folders[0]), inputs=len(inputs))
    recorded = _recorded_decisions(settings.against or (folders[0] if folders else None), bool(settings.against))
    if settings.verify and recorded is None:
        raise ConfigError(
            "no recorded decisions are there to verify",
            inputs=[str(path) for path in inputs],
            fix=f"record the run with `tidegate record all`, or name {topics.DECISIONS.name}.avro with --compare",
        )
    results = _topics(folders[0], settings) if folders else _recordings(recordings_in(inputs), settings)
    report: dict[str, Any] = {"output": str(settings.out), "models": results}
    if recorded is not None:
        again = [d for r in results for d in decisions_in(Path(r["output"]) / f"{topics.DECISIONS.name}.avro")]
        comparison = compare(decisions_in(recorded), again, in_part=not settings.span.is_all)
        report["comparison"] = asdict(comparison) | {"with": str(recorded), "is_same": comparison.is_same}
        report["comparison_text"] = comparison.text()
    report["damaged"] = [line for result in results for line in result["damaged"]]
    report["seconds"] = round(time.monotonic() - started_s, 2)
    return report


def differs(report: dict[str, Any], *, strictly: bool = False) -> bool:
    """Whether a replay did not decide as recorded. Not `strictly`: another heavy model may decide otherwise."""
    found = report.get("comparison")
    return bool(found and (not found["is_same"] if strictly else found["different"] or found["missing"]))


def is_recorded_topics(path: Path) -> bool:
    """Whether this is a folder with topics that edges write."""
    return path.is_dir() and any((path / f"{topic.name}.avro").exists() for topic in _FROM_EDGES)


def recordings_in(inputs: Sequence[Path]) -> list[Path]:
    """Recordings of readings; folders stand for the files in them. Raises ConfigError: a folder has none."""
    found: list[Path] = []
    for path in inputs:
        inside = sorted(path.glob("*.avro")) if path.is_dir() else [path]
        if not inside:
            raise ConfigError(
                "nothing is recorded here", folder=str(path), fix="it must hold files that end with .avro"
            )
        found += inside
    return found


def assign(recordings: Sequence[Path], models: Sequence[Path]) -> dict[Path, list[Path]]:
    """Which model filters which recordings: the one for their cohort, else the one for their channels.

    Raises: ConfigError: no model, or several, fit. DecodeError, ModelError: a file is not what it should be.
    """
    manifests = {model: manifest_of(model) for model in models}
    groups: dict[Path, list[Path]] = {}
    for recording in recordings:
        first = _first_block(recording)
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
    steps = np.diff(_first_block(recording).times)
    step_us = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    return max(1, round(50 * step_us / 1e6)) * 1_000_000


@contextmanager
def cut_to(recordings: Sequence[Path], span: Span) -> Iterator[dict[Path, Path]]:
    """Each recording with itself, or with what of it lies in a span, a file that is gone afterwards.

    Offsets count from the first reading of all.

    A recording that has nothing in the span is left out. Raises ConfigError: none has.
    """
    if span.is_all:
        yield {path: path for path in recordings}
        return
    zero_us = min(first_time(path) for path in recordings)
    span.bounds(zero_us)
    with TemporaryDirectory(prefix="tidegate-cut-") as folder:
        parts: dict[Path, Path] = {}
        nothing: ConfigError | None = None
        for number, path in enumerate(recordings):
            part = Path(folder) / str(number) / path.name
            part.parent.mkdir()
            try:
                cut(path, span, part, zero_us)
            except ConfigError as empty:
                nothing = nothing or empty
                continue
            parts[path] = part
        if not parts and nothing is not None:
            raise nothing
        yield parts


def readings_in(recordings: Sequence[Path]) -> int | None:
    """How many readings there are by what the files say of themselves; None where one does not say. For progress."""
    total = 0
    for path in recordings:
        try:
            with path.open("rb") as file:
                said = read_header(file).metadata.get("readings", "")
        except (OSError, DecodeError):
            return None
        if not said.isdecimal() or len(said) > 15:
            return None
        total += int(said)
    return total


def manifest_of(model: Path) -> Manifest:
    """The manifest in a folder. Raises ConfigError: there is none. ModelError: it is not valid."""
    try:
        return parse_manifest((model / "manifest.json").read_bytes())
    except OSError as cause:
        raise ConfigError(
            "not a model package", folder=str(model), cause=cause.strerror, fix="a package holds manifest.json"
        ) from None


def decisions_in(path: Path) -> list[Decision]:
    """Decisions in a file, up to damage. Raises ConfigError: it cannot be read."""
    found: list[Decision] = []
    try:
        with path.open("rb") as file:
            found += (cast(Decision, record) for record in read(file, Decision))
    except OSError as cause:
        raise ConfigError("the decisions cannot be read", file=str(path), cause=cause.strerror) from None
    except DecodeError as wrong:
        if not found:
            raise DecodeError(wrong.problem, fix=wrong.fix, **({"file": str(path)} | wrong.where)) from wrong
    return found


# -- recordings of readings -----------------------------------------------------------------------------------------


def _recordings(recordings: Sequence[Path], settings: Settings) -> list[dict[str, Any]]:
    if not settings.models:
        raise ConfigError("no model is named", fix="name packages with --models; `tidegate train` makes one")
    groups = assign(recordings, settings.models)
    window_us = settings.window_us or usual_window_us(recordings[0])
    results = []
    with cut_to(recordings, settings.span) as parts:
        for model, chosen in groups.items():
            out = settings.out if len(groups) == 1 else settings.out / model.name
            if left := [parts[path] for path in chosen if path in parts]:
                result = _filter_and_decide(left, model, out, window_us, settings)
                results.append(result | {"recordings": [str(path) for path in chosen if path in parts]})
    return results


def _filter_and_decide(
    recordings: Sequence[Path], model: Path, out: Path, window_us: int, settings: Settings
) -> dict[str, Any]:
    from edge_filters.run import replay as filter_offline

    damaged = []
    ledger: dict[str, int] = {}
    what = f"filtering {len(recordings)} recording(s) with {model}"
    with Progress(what, readings_in(recordings), "readings", quiet=settings.quiet) as progress:
        started_s = time.monotonic()
        try:
            ledger = filter_offline(
                recordings,
                model,
                out,
                audit_rate=settings.audit_rate,
                aggregate_us=window_us,
                progress=progress.advance,
            )
        except DecodeError as cause:  # what stands before the damage was filtered, and is decided below
            damaged.append(str(cause))
        filtered_s = time.monotonic() - started_s
    result = _decide(out, [model], out, window_us, settings)
    return result | {
        "model": str(model),
        "ledger": ledger,
        "damaged": damaged + result["damaged"],
        "readings_per_s": round(progress.done / filtered_s) if filtered_s else None,
    }


def _decide(
    folder: Path, models: Sequence[Path], out: Path, window_us: int, settings: Settings, decided: Path | None = None
) -> dict[str, Any]:
    from pipelines.replay import replay as decide_offline

    with Progress("deciding with the heavy model", None, "records", quiet=settings.quiet) as progress:
        done = decide_offline(
            str(folder),
            [str(m) for m in models],
            str(out),
            window_us,
            progress=progress.advance,
            decided=str(decided) if decided else None,
        )
    decisions = decisions_in(out / f"{topics.DECISIONS.name}.avro")
    return {
        "output": str(out),
        "written": done["written"],
        "outcomes": dict(Counter(d.outcome.value for d in decisions)),
        "verdicts": dict(Counter(d.verdict.value for d in decisions)),
        "damaged": done["damaged"],
    }


def _first_block(recording: Path) -> SensorBlock:
    for block in blocks(recording):
        return block
    raise DecodeError("the recording holds no block", recording=str(recording))


# -- recorded topics ------------------------------------------------------------------------------------------------


def _topics(folder: Path, settings: Settings) -> list[dict[str, Any]]:
    if settings.out.resolve() == folder.resolve():
        raise ConfigError(
            "the output would replace the recorded decisions", folder=str(folder), fix="name another with -o"
        )
    window_us = settings.window_us or _fleet_window_us(folder)
    decided = _recorded_decisions(folder, asked=False)
    with TemporaryDirectory(prefix="tidegate-models-") as temporary, _cut_topics(folder, settings.span) as part:
        models = settings.models or packages_in(folder, Path(temporary))
        names = [_title(manifest_of(model)) for model in models]
        result = _decide(part, models, settings.out, window_us, settings, decided)
    return [result | {"model": ", ".join(names), "recordings": [str(folder)], "ledger": {}}]


def _title(manifest: Manifest) -> str:
    return f"{manifest.name} {manifest.version}"


def _fleet_window_us(folder: Path) -> int:
    """The live default, or the smallest multiple of the recorded aggregates' windows that is not shorter."""
    path = folder / f"{topics.AGGREGATES.name}.avro"
    if path.exists():
        for found in found_in(path):
            aggregate = cast(EdgeAggregate, found.record)
            length = aggregate.window_end - aggregate.window_start
            return length * max(1, -(-USUAL_FLEET_WINDOW_US // length))
    return USUAL_FLEET_WINDOW_US


@contextmanager
def _cut_topics(folder: Path, span: Span) -> Iterator[Path]:
    if span.is_all:
        yield folder
        return
    from pipelines.io.files import event_time

    paths = [path for topic in _FROM_EDGES if (path := folder / f"{topic.name}.avro").exists()]
    zero_us = min((event_time(cast(Any, found.record)) for path in paths for found in _some(path)), default=0)
    low, high = span.bounds(zero_us)
    kept = 0
    with TemporaryDirectory(prefix="tidegate-cut-") as temporary:
        for path in paths:
            with (Path(temporary) / path.name).open("wb") as file:
                writer = ContainerWriter(file, topics.by_name(path.name.removesuffix(".avro")).record)
                for found in _some(path):
                    if low <= event_time(cast(Any, found.record)) < high:
                        writer.write(found.record)
                        kept += 1
                writer.close()
        if not kept:
            raise ConfigError("nothing of the recording lies between --from and --to", folder=str(folder))
        yield Path(temporary)


def _some(path: Path) -> Iterator[Any]:
    """Records up to damage, which the replay itself reports only for files that it reads."""
    try:
        yield from found_in(path)
    except DecodeError:
        return


def _recorded_decisions(path: Path | None, asked: bool) -> Path | None:
    if path is None:
        return None
    file = path / f"{topics.DECISIONS.name}.avro" if path.is_dir() else path
    if not file.exists() and asked:
        raise ConfigError("there are no recorded decisions", path=str(file))
    return file if file.exists() else None


def text_of(report: dict[str, Any], say: Callable[[str], None]) -> None:
    """The report for people."""
    for result in report["models"]:
        ledger = result["ledger"]
        found = ", ".join(f"{n} {name.lower()}" for name, n in sorted(result["outcomes"].items())) or "none"
        verdicts = ", ".join(f"{n} {name.lower()}" for name, n in sorted(result["verdicts"].items())) or "none"
        if ledger:
            read_ = f"{ledger['readings_sensed']:,} readings, {ledger['windows_scored']:,} windows scored"
            say(f"{result['model']}: {read_}, {ledger['windows_escalated']:,} escalated")
        else:
            say(f"{result['model']}:")
        say(f"  final decisions: {found} ({verdicts})")
    if "comparison_text" in report:
        say(report["comparison_text"])
    say(f"written to {report['output']} in {report['seconds']:.1f} s")
