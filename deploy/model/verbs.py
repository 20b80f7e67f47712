"""What the verbs of `tidegate model` do: the shell around the other modules of this package."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from deploy import output
from deploy.model import recording
from deploy.model.card import card, feed_line, score_line
from deploy.model.facts import Facts, read_facts
from deploy.model.guard import bounded, in_time
from deploy.model.levels import Asked
from deploy.model.options import names, said
from deploy.model.pack import HALVES, Order, Packed, Which, load, pack, read_model, write
from deploy.model.plot import page
from deploy.model.said import Around, Understood
from deploy.model.settle import half_of, settle
from deploy.model.trial import Trial, attempt
from deploy.model.understand import RESET_AFTER, understand
from deploy.model.words import plain
from deploy.suspect import guarded
from schemas.errors import ConfigError, ModelError, exit_code
from schemas.feeding import Tensor
from schemas.manifest import Levels, Package, load_package


def run(args: argparse.Namespace) -> int:
    """One verb. Returns the exit code; raises TidegateError."""
    verbs = {"inspect": _inspect, "pack": _pack, "try": _try, "card": _card}
    with bounded():
        return verbs[args.verb](args)


# -- inspect ----------------------------------------------------------------------------------------------------------


def _inspect(args: argparse.Namespace) -> int:
    data = read_model(args.model)
    report: dict[str, Any] = {
        "file": str(args.model),
        "sha256": hashlib.sha256(data).hexdigest(),
        **dataclasses.asdict(read_facts(data)),
    }
    code = 0
    try:
        with in_time(str(args.model)):
            runtime = load(args.model, data)
        report |= {"inputs": _tensors(runtime.inputs), "outputs": _tensors(runtime.outputs)}
        around = Around(args.window, names(args.channels) or None)
        told = said(args, "edge")
        # the one question that does not stand in the way of trying the model: it is asked again below
        got = understand(
            runtime.inputs, runtime.outputs, dataclasses.replace(told, reset_after_us=told.reset_after_us or 1), around
        )
        if not got.open and got.window_readings and got.channels:
            with in_time(str(args.model)):
                settle(runtime, got)
        if "reset_after_us" in got.fields and told.reset_after_us is None:
            got.open.append(RESET_AFTER)
        report |= _understood(got)
    except (ModelError, ConfigError) as cannot:
        report["cannot"] = str(cannot)
        code = exit_code(cannot)
    if args.output == "json":
        output.print_json(report)
    else:
        print("\n".join(plain(line, 2_000) for line in _report_lines(report)))
    return code


def _tensors(tensors: tuple[Tensor, ...]) -> list[dict[str, Any]]:
    return [{"name": t.name, "type": t.dtype, "shape": list(t.shape)} for t in tensors]


def _understood(got: Understood) -> dict[str, Any]:
    known: dict[str, Any] = {"window_readings": got.window_readings, "channels": got.channels}
    if "input" in got.fields:
        half = half_of(got.fields | {"reset_after_us": got.fields.get("reset_after_us", 0)})
        known["feeds"] = [feed_line(feed, half) for feed in (half, *half.also)]
        known["constants"] = [f"{c.input} = {c.values}" for c in half.constants]
        known["states"] = [f"{s.input} from {s.output}, {s.dtype}{s.shape} per device" for s in half.states]
        known["score"] = score_line(half)
        known["batch"] = half.batch
    return {"understood": known, "notes": got.notes, "to_say": got.open}


def _report_lines(report: dict[str, Any]) -> list[str]:
    facts = Facts(**{f.name: report[f.name] for f in dataclasses.fields(Facts)})
    opsets = ", ".join(f"{domain} {version}" for domain, version in facts.opsets.items())
    some = ", ".join(f"{count} {name}" for name, count in list(facts.operators.items())[:8])
    more = f" and {len(facts.operators) - 8} other kinds" if len(facts.operators) > 8 else ""
    out = [
        f"{report['file']}: {facts.bytes:,} bytes, sha256 {report['sha256'][:16]}…",
        f"  opset {opsets}; {facts.producer or 'producer not told'}; {facts.parameters:,} parameters",
        f"  {sum(facts.operators.values())} nodes: {some}{more}",
    ]
    for kind in ("inputs", "outputs"):
        out += [
            f"  {kind[:-1]:7}{t['name']}  {Tensor(t['name'], t['type'], tuple(t['shape']))}"
            for t in report.get(kind, [])
        ]
    known = report.get("understood", {})
    if known:
        window, channels = known["window_readings"] or "?", known["channels"] or "?"
        out += [f"understood: a window of {window} readings x {channels} channel(s)"]
        out += [f"  input {line}" for line in known.get("feeds", [])]
        out += [f"  constant {line}" for line in known.get("constants", [])]
        out += [f"  state {line}" for line in known.get("states", [])]
        out += [f"  score: {known['score']}"] if "score" in known else []
    out += [f"  note: {line}" for line in report.get("notes", [])]
    if report.get("to_say"):
        out += ["must be said:", *(f"  {line}" for line in report["to_say"])]
    if "cannot" in report:
        out += [f"cannot run: {report['cannot']}"]
    return out


# -- pack, try, card --------------------------------------------------------------------------------------------------


def _order(args: argparse.Namespace, files: tuple[Path, ...], name: str, levels_from: list[Path]) -> Order:
    if len(files) > 2:
        raise ConfigError("a package has an edge and a heavy model", got=[str(f) for f in files], fix="give one or two")
    return Order(
        files=files,
        said={which: said(args, which, one_file=len(files) == 1) for which in HALVES},
        name=name,
        cohort=getattr(args, "cohort", None),
        version=getattr(args, "version", 1),
        window_readings=args.window,
        channels=names(args.channels) or None,
        scale_from=tuple(args.scale_from),
        asked=Asked(
            levels=_levels(args),
            threshold=args.threshold,
            recordings=tuple(levels_from or args.scale_from),
            share=args.share,
            heavy_share=args.heavy_share,
        ),
    )


def _levels(args: argparse.Namespace) -> Levels | None:
    escalate_at, raise_at, clear_at = args.escalate_at, args.raise_at, args.clear_at
    if escalate_at is None and raise_at is None and clear_at is None:
        return None
    if escalate_at is None or raise_at is None:
        raise ConfigError("levels as numbers need both --escalate-at and --raise-at")
    try:
        return Levels(
            escalate_at=escalate_at, raise_at=raise_at, clear_at=escalate_at if clear_at is None else clear_at
        )
    except ValueError:
        raise ConfigError(
            "levels must be finite and satisfy clear-at <= escalate-at <= raise-at",
            escalate_at=escalate_at,
            raise_at=raise_at,
            clear_at=clear_at,
        ) from None


def _pack(args: argparse.Namespace) -> int:
    with guarded(args, "levels_from", "scale_from"):
        packed = pack(_order(args, tuple(args.models), args.name, args.levels_from))
    write(packed.package, args.out)
    if args.format == "json":
        output.print_json(_packed_json(packed, args.out))
        return 0
    manifest = packed.package.manifest
    print(f"{args.out}: {manifest.name} version {manifest.version} for {manifest.cohort}")
    print(f"  windows of {manifest.window_readings} readings x {len(manifest.channels)} channel(s)")
    for which in HALVES:
        half = getattr(manifest, which)
        print(f"  {which}: {half.file}, {half.bytes:,} bytes; score: {score_line(half)}")
        for note in packed.understood[which].notes:
            print(f"    {plain(note, 2_000)}")
    for note in packed.notes:
        print(f"  {note}")
    print(f"  sha256 {packed.package.sha256.hex()}; both halves passed their self-test")
    return 0


def _packed_json(packed: Packed, out: Path) -> dict[str, Any]:
    manifest = packed.package.manifest
    return {
        "folder": str(out),
        "name": manifest.name,
        "version": manifest.version,
        "cohort": manifest.cohort,
        "sha256": packed.package.sha256.hex(),
        "window_readings": manifest.window_readings,
        "channels": manifest.channels,
        "levels": manifest.levels.model_dump(),
        "threshold": manifest.heavy.threshold,
        "halves": {which: _understood(packed.understood[which]) for which in HALVES},
        "notes": packed.notes,
    }


def _try(args: argparse.Namespace) -> int:
    with guarded(args, "recordings", "levels_from", "scale_from") as deaths:
        return _tried(args) or (65 if deaths else 0)


def _tried(args: argparse.Namespace) -> int:
    which: Which = args.half
    if args.model.is_dir():
        package = _load(args.model, (which,))
    else:
        # its own scores give the levels that are drawn, where nothing else does
        given = args.levels_from or args.scale_from or args.escalate_at is not None
        levels_from = args.levels_from or ([] if given else args.recordings)
        order = _order(args, (args.model,), args.model.stem[:64] or "model", levels_from)
        if order.channels is None and not order.scale_from and not order.asked.recordings:
            order = dataclasses.replace(order, channels=recording.shape_of(args.recordings).channels)
        package = pack(order).package
    trial = attempt(package, which, args.recordings)
    if args.html:
        _write(args.html, page(trial))
    if args.scores:
        _write(args.scores, _csv(trial))
    told = trial.as_json()
    if args.output == "json":
        output.print_json(told)
        return 0
    timing = told["timing"]
    print(f"{told['model']} version {told['version']}, {which} model")
    rows = [
        {"device": device, **d, **{k: f"{v:.5g}" for k, v in d["scores"].items()}}
        for device, d in told["devices"].items()
    ]
    columns = ("device", "windows", "min", "p5", "median", "p95", "max", "escalated", "raised")
    output.print_table(rows, {name: name for name in columns})
    print(
        f"one window: {timing['window_us_p50']:,} us p50, {timing['window_us_p99']:,} us p99 "
        f"of {timing['windows_timed']:,}; "
        f"in batches with reading: {timing['batched_windows_per_s']:,} windows/s; loading {timing['load_ms']:,} ms"
    )
    for file in filter(None, (args.html, args.scores)):
        print(f"written: {file}")
    return 0


def _csv(trial: Trial) -> str:
    lines = ["device,window_end_us,score"]
    for device, trace in trial.traces.items():
        quoted = '"' + device.replace('"', '""') + '"'
        lines += [f"{quoted},{end},{score!r}" for end, score in zip(trace.ends_us, trace.scores, strict=True)]
    return "\n".join(lines) + "\n"


def _card(args: argparse.Namespace) -> int:
    text = card(_load(args.package, HALVES))
    if args.out:
        _write(args.out, text)
    else:
        print(text, end="")
    return 0


def _load(folder: Path, halves: tuple[Which, ...]) -> Package:
    try:
        return load_package(lambda name: (folder / name).read_bytes(), halves)
    except ModelError as wrong:
        raise ModelError(wrong.problem, fix=wrong.fix, folder=str(folder), **wrong.where) from None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as cause:
        raise ConfigError("the file cannot be written", file=str(path), cause=cause.strerror) from None
