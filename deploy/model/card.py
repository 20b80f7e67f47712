"""A package as a model card in Markdown: what it takes, what it gives, what it was made of, what nobody measured."""

from __future__ import annotations

from deploy.model.facts import read_facts
from deploy.model.words import code
from schemas.manifest import Feed, Half, Manifest, Package


def card(package: Package) -> str:
    """The card. Everything in it is read from the package; what it does not know, it says."""
    manifest = package.manifest
    out = [
        f"# {manifest.name}, version {manifest.version}",
        "",
        f"A Tidegate model package for the cohort `{code(manifest.cohort)}`. Its identity, the hash of its manifest:",
        f"`{package.sha256.hex()}`.",
        "",
        "## What it takes",
        "",
        f"Windows of {manifest.window_readings} readings of {len(manifest.channels)} channel(s): "
        + ", ".join(f"`{code(name)}`" for name in manifest.channels[:50])
        + (" and more" if len(manifest.channels) > 50 else "")
        + ".",
        _scaling(manifest),
        "",
    ]
    for title, half in (("Edge model", manifest.edge), ("Heavy model", manifest.heavy)):
        out += [f"## {title}", "", *_half(package, half), ""]
    levels = manifest.levels
    out += [
        "## Thresholds",
        "",
        "| | score |",
        "|---|---|",
        f"| the edge passes a window on from | {levels.escalate_at:g} |",
        f"| it raises an alarm from | {levels.raise_at:g} |",
        f"| it clears the alarm below | {levels.clear_at:g} |",
        f"| feedback may move them within | {manifest.bounds.low:g} to {manifest.bounds.high:g} |",
        f"| the heavy model calls a window anomalous from | {manifest.heavy.threshold:g} |",
        "",
    ]
    if manifest.device_levels:
        out += [f"{len(manifest.device_levels)} device(s) have levels of their own.", ""]
    out += ["## How good it is", ""]
    if manifest.evaluation:
        out += ["| figure | value |", "|---|---|"]
        out += [f"| {code(name)} | {value:g} |" for name, value in sorted(manifest.evaluation.items())]
    else:
        out.append(
            "Not measured: the package holds no evaluation. Its thresholds say how rare a score is, not what it means."
        )
    out += ["", "## Where it comes from", ""]
    out += [f"- {code(name)}: {code(value)}" for name, value in sorted(manifest.lineage.items())] or ["Not told."]
    return "\n".join(out) + "\n"


def _half(package: Package, half: Half) -> list[str]:
    data = package.files.get(half.file)
    out = [f"- File `{half.file}`, {half.bytes:,} bytes, SHA-256 `{half.sha256}`"]
    if data is not None:
        facts = read_facts(data)
        opsets = ", ".join(f"{code(domain)} {version}" for domain, version in facts.opsets.items())
        made = f", made by {code(facts.producer)}" if facts.producer else ""
        out.append(f"- Opset {opsets}{made}; {sum(facts.operators.values())} nodes, {facts.parameters:,} parameters")
    out += [f"- Input {feed_line(feed, half)}" for feed in (half, *half.also)]
    out += [f"- Constant `{code(c.input)}`: {c.dtype}{c.shape} = {c.values[:8]}" for c in half.constants]
    out += [
        f"- State `{code(s.input)}` from `{code(s.output)}`: {s.dtype}{s.shape}, zero at the start" for s in half.states
    ]
    if half.remembers:
        out.append(f"- Starts anew after a gap of more than {half.reset_after_us / 1e6:g} s, or where time goes back")
    if half.batch:
        out.append(f"- {half.batch} window(s) in a call")
    elif half.batch_multiple > 1:
        out.append(f"- A multiple of {half.batch_multiple} windows in a call, so that scores repeat to the last bit")
    return [*out, f"- Score: {score_line(half)}; higher is worse"]


def feed_line(feed: Feed, half: Half) -> str:
    """How one input is made, in words."""
    of = f" of {', '.join(map(code, feed.channels))}" if feed.channels else ""
    units = "" if feed.scaled else ", in the units of the sensor"
    if feed.feed == "features":
        return f"`{code(feed.input)}`: {', '.join(feed.statistics)} of each channel{of}{units}"
    shapes = {
        "rows": "[batch, readings, channels]",
        "channels": "[batch, channels, readings]",
        "flat": "[batch, numbers], reading after reading",
        "flat-channels": "[batch, numbers], channel after channel",
    }
    frames = f", by frames of {half.frame_readings} readings" if half.frame_readings else ""
    context = f", with the {half.context_readings} readings before it in front" if half.context_readings else ""
    return f"`{code(feed.input)}`: {feed.dtype} {shapes[feed.layout]}{of}{units}{frames}{context}"


def score_line(half: Half) -> str:
    """Which number is the score, in words."""
    pick = half.pick
    what = f"`{code(half.output)}`"
    if pick.label is not None:
        what = f"class {code(str(pick.label))} of {what}"
    elif pick.reduce == "error":
        what = f"mean squared difference between {what} and the input"
    elif pick.reduce:
        what = f"{pick.reduce} of {what}"
    if pick.flip:
        what = f"{'minus' if pick.flip == 'negate' else '1 minus'} {what}"
    return what + (f", the {half.over_frames} of its frames" if half.frame_readings else "")


def _scaling(manifest: Manifest) -> str:
    scaling = manifest.scaling
    plain = set(scaling.centre) == {0.0} and set(scaling.scale) == {1.0}
    own = f" {len(manifest.device_scaling)} device(s) have their own." if manifest.device_scaling else ""
    return ("In the units of the sensor." if plain else "Each channel is centred and scaled by the manifest.") + own
