"""What a user should know about recordings and thresholds before trusting a model: sentences, and figures for them."""

from __future__ import annotations

import math

from deploy.train.alarms import read_off
from deploy.train.evaluate import Evaluation
from deploy.train.packing import Rates, TrainingOptions
from deploy.train.reading import Device, Survey
from deploy.train.scoring import Scored


def remarks(found: Survey) -> list[str]:
    """Sentences about what a user would want to know before trusting a model of these recordings."""
    incomplete, rising = [], []
    for item in found.devices.values():
        if item.incomplete:
            share = item.incomplete / (item.incomplete + item.readings)
            incomplete.append(
                f"{item.device_id}: {item.incomplete:,} rows ({share:.1%}) hold a missing value and are left out, as "
                f"an edge leaves them out; most are missing in {missing(item)}"
            )
        if item.counters:
            go = "goes" if len(item.counters) == 1 else "go"
            rising.append(
                f"{item.device_id}: {_names(item.counters)} only ever {go} up. A clock, a row number or a running "
                "total says where a reading stands, not how the machine does, and later values are always new: leave "
                "it out with `tidegate import --exclude`, or record its difference"
            )
    lines = [*_some(incomplete), *_some(rising)]
    still = [set(item.still) for item in found.devices.values()]
    never = [name for name in next(iter(found.devices.values())).channels if all(name in each for each in still)]
    if never:
        lines.append(
            f"{_names(never)} never moves in these recordings: the scale stays its own unit, and a first move by a few "
            "units will count as unusual"
            if len(never) == 1
            else f"{len(never)} channels never move in these recordings ({_names(never)}): their scale stays their own "
            "unit, and a first move by a few units will count as unusual"
        )
    return lines


def _some(lines: list[str]) -> list[str]:
    """The first few: a thousand devices say the same."""
    return lines[:3] + ([f"{len(lines) - 3} more devices: the same"] if len(lines) > 3 else [])


def _names(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def missing(device: Device) -> str:
    """The channels that lack most values, with their shares of the rows."""
    rows = device.readings + device.incomplete
    worst = sorted(zip(device.missing.tolist(), device.channels, strict=True), key=lambda pair: -pair[0])[:3]
    return ", ".join(f"{name} ({count / rows:.1%} of rows)" for count, name in worst if count)


def false_alarms(options: TrainingOptions, rates: Rates, window_us: float) -> dict[str, float | str | None]:
    """The rates that the thresholds were made for, of windows of normal operation; `a_day` for each device."""
    return {
        "stated": options.false_alarms.text if options.false_alarms else None,
        "edge_share_of_windows": rates.raise_,
        "heavy_share_of_windows": rates.heavy,
        "edge_a_day": rates.raise_ * 86_400e6 / window_us if window_us else None,
        "heavy_a_day": rates.heavy * 86_400e6 / window_us if window_us else None,
    }


def doubts(evaluation: Evaluation, rates: Rates) -> list[str]:
    """Devices whose later readings give far more alarms than the thresholds were made for: a sentence each.

    Counted on windows that are labelled normal, or on all where there are no labels. At least ten times the rate, and
    more than chance gives once in a thousand recordings.
    """
    lines = []
    for device, figures in evaluation.devices.items():
        normal = "_of_normal" if "raised_of_normal" in figures else ""
        windows = figures["windows"] - (figures["anomalous"] if normal else 0.0)
        found = [
            f"{share:.1%} {what} (made for {rate:.2g} of them)"
            for share, rate, what in (
                (figures[f"raised{normal}"], rates.raise_, "raise the edge's alarm"),
                (figures[f"confirmed{normal}"], rates.heavy, "are anomalies to the heavy model"),
            )
            if share > 10 * rate and share * windows > rate * windows + 3 * math.sqrt(rate * windows) + 3
        ]
        if found:
            lines.append(
                f"{device}: of the later windows{' labelled normal' if normal else ''} {' and '.join(found)}: they "
                "are not like those learned from. Learn from more (--learn-share), or from a time like the present; "
                "feedback moves thresholds within their bounds only"
            )
    return _some(lines)


def alarm_sentence(options: TrainingOptions, rates: Rates, window_us: float, scored: Scored) -> str:
    """What the stated false-alarm rate means here, and whether it was seen or extrapolated."""
    assert options.false_alarms is not None
    least = min(len(scores) for scores in scored.edge.values())
    many = len(scored.edge) > 1
    of = " (of the device with fewest)" if many else ""
    how = (
        f"read off {least:,} held-out windows{of}"
        if read_off(least, rates.raise_)
        else f"extrapolated from the highest of {least:,} held-out windows{of}, since so rare a score is not among them"
    )
    a_day = f", {rates.raise_ * 86_400e6 / window_us:.3g} a day" if window_us else ""
    return (
        f"false alarms: {options.false_alarms.text} is {rates.raise_:.3g} of the windows{a_day}"
        f"{' on each device' if many else ''}; thresholds {how}"
    )
