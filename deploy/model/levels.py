"""Thresholds of a package: as they were given, or read off recordings of normal operation at a stated share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from deploy.model import recording
from schemas.errors import ConfigError
from schemas.manifest import Bounds, Levels, Manifest
from schemas.records import Floats
from schemas.scoring import Scorer, Scores, Spans

#: Windows in a call while a recording is scored.
_BATCH = 128
#: Levels stand at least this far above the median, relative to the spread of the scores or to 1e-6.
_LEAST_ABOVE = 0.01
#: Significant digits of a level: probabilities may differ only in the last ones that float32 has.
_LEVEL_DIGITS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Where thresholds come from.

    Attributes:
        levels, threshold: as numbers; None: from recordings.
        recordings: normal operation.
        share: share of its windows that the edge shall escalate; a tenth of it is raised.
        heavy_share: the same of the heavy model's threshold.
    """

    levels: Levels | None = None
    threshold: float | None = None
    recordings: tuple[Path, ...] = ()
    share: float = 0.05
    heavy_share: float = 0.02


def thresholds(
    asked: Asked, manifest: Manifest, scorers: Mapping[Literal["edge", "heavy"], Scorer], notes: list[str]
) -> tuple[Levels, Bounds, float]:
    """Levels of the edge, the envelope for feedback, and the heavy model's threshold.

    Raises: ConfigError: nothing tells them, or the recordings hold no window. Sentences about them go into `notes`.
    """
    levels, threshold = asked.levels, asked.threshold
    if asked.recordings and (levels is None or threshold is None):
        scores = {which: np.sort(_scores(asked.recordings, manifest, scorers[which])) for which in scorers}
        count = len(scores["edge"])
        if levels is None:
            levels, bounds = levels_of(scores["edge"], asked.share)
            notes.append(
                f"levels from {count:,} windows: {np.mean(scores['edge'] >= levels.escalate_at):.2%} of them reach "
                f"escalate_at {levels.escalate_at:g}, {np.mean(scores['edge'] >= levels.raise_at):.2%} "
                f"raise_at {levels.raise_at:g}"
            )
            if count * asked.share / 10 < 1:
                notes.append("that is few for a level that a tenth of the share reaches: record for longer")
        else:
            bounds = _bounds_of(levels)
        if threshold is None:
            median, above = _ordinary(scores["heavy"])
            wanted = max(float(np.quantile(scores["heavy"], 1.0 - asked.heavy_share)), median + above)
            (threshold,) = recording.rounded([wanted], _LEVEL_DIGITS)
            share = np.mean(scores["heavy"] >= threshold)
            notes.append(f"the heavy model's threshold {threshold:g} is reached by {share:.2%} of them")
        return levels, bounds, threshold
    if levels is None:
        raise ConfigError(
            "nothing says from which score on a window is conspicuous",
            fix="--levels-from REC.avro with normal operation and --share 0.05, or --escalate-at X and --raise-at Y",
        )
    return levels, _bounds_of(levels), levels.raise_at if threshold is None else threshold


def _scores(paths: Sequence[Path], manifest: Manifest, scorer: Scorer) -> Scores:
    found = [scores for path in paths for _, _, scores in scored(path, manifest, scorer)]
    if not found:
        raise ConfigError(
            "the recordings hold no whole window to read thresholds off",
            window_readings=manifest.window_readings,
            files=[str(path) for path in paths],
        )
    return np.concatenate(found)


def scored(path: Path, manifest: Manifest, scorer: Scorer) -> Iterator[tuple[list[str], Spans, Scores]]:
    """Devices, spans and scores of the windows of a recording, batch by batch, in its order."""
    devices: list[str] = []
    times: list[tuple[int, int]] = []
    values: list[Floats] = []

    def flush() -> tuple[list[str], Spans, Scores]:
        spans = np.array(times, np.int64)
        with np.errstate(all="ignore"):
            out = devices[:], spans, scorer.score(np.stack(values), devices, spans)
        for each in (devices, times, values):
            each.clear()
        return out

    for device, window in recording.windows(path, manifest.window_readings, manifest.channels):
        devices.append(device)
        times.append((int(window.times[0]), int(window.times[-1])))
        values.append(window.values)
        if len(values) == _BATCH:
            yield flush()
    if values:
        yield flush()


def levels_of(scores: Scores, share: float) -> tuple[Levels, Bounds]:
    """Levels as quantiles of scores of normal operation, and the envelope for feedback.

    `share` of the scores reach escalate_at, a tenth of it raise_at, three times as many clear_at. All stand above the
    median: the ordinary window never reaches them, also where most scores are the same number.
    """
    if not 0.0 < share < 1.0 / 3.0:
        raise ConfigError("the share of escalated windows must lie between 0 and a third", got=share)
    median, above = _ordinary(scores)
    quantiles = np.quantile(scores, [1.0 - share, 1.0 - share / 10, 1.0 - 3 * share])
    escalate_at, raise_at, clear_at = recording.rounded(
        np.maximum(quantiles, median + above * np.array([1.0, 2.0, 0.5])), _LEVEL_DIGITS
    )
    low, high = recording.rounded([median, raise_at + (raise_at - median)], _LEVEL_DIGITS)
    levels = Levels(
        escalate_at=max(escalate_at, clear_at), raise_at=max(raise_at, escalate_at, clear_at), clear_at=clear_at
    )
    return levels, Bounds(low=min(low, levels.escalate_at), high=max(high, levels.raise_at))


def _ordinary(scores: Scores) -> tuple[float, float]:
    """The median, and how far above it any level stands at least."""
    median = float(np.median(scores))
    return median, max(_LEAST_ABOVE * float(np.std(scores)), 1e-6 * max(1.0, abs(median)))


def _bounds_of(levels: Levels) -> Bounds:
    """Feedback may move levels that were given as numbers by as much as lies between clear_at and raise_at."""
    reach = max(levels.raise_at - levels.clear_at, 0.5 * abs(levels.raise_at), 1e-6)
    return Bounds(low=min(levels.escalate_at, levels.clear_at), high=levels.raise_at + reach)
