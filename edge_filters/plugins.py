"""Code of one's own: found by the name that the configuration gives it, tried at the start, held to its port after.

Sensors, features, detectors and sinks plug in. `kind` names one as `module:name`, or as an entry point of the group
`tidegate.sensors` and so on. Only the configuration names code, and its owner is trusted; nothing that comes from
outside ever reaches `load`. Whatever such code does wrong becomes a sentence that names it. See docs/plugins.md.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import inspect
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edge_filters.blocks import Block
from edge_filters.ports import Detector, Sensor
from schemas.clocks import FIRST_US, LAST_US
from schemas.errors import ConfigError, ModelError, UpdateRefused
from schemas.features import add_statistic
from schemas.manifest import Package
from schemas.records import Floats, ModelUpdate
from schemas.scoring import Scorer, Scores

log = logging.getLogger("edge_filters")
T = TypeVar("T")

#: What plugs in, and the group of entry points in which it is looked up.
GROUPS = {what: f"tidegate.{what}s" for what in ("sensor", "feature", "detector", "sink")}
#: What somebody else's code may raise without ending more than itself: it may think that `sys.exit` is an answer.
ANY = (Exception, SystemExit)
#: A sensor that fails is read again after this, then after twice as long, up to the longest.
RETRY_S, LONGEST_RETRY_S = 1.0, 30.0


def look_in(folder: Path) -> None:
    """Let Python look for modules in a folder too, after all others: nothing that is installed can be replaced."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        importlib.invalidate_caches()


def load(what: str, kind: str, built_in: Collection[str] = ()) -> Any:
    """What `kind` names.

    Args:
        what: sensor, feature, detector or sink.
        kind: `module:name`, or the name of an entry point in the group of that kind.
        built_in: names that need no plug-in, for the sentence.

    Raises:
        ConfigError: there is none of that name, or it cannot be imported.
    """
    points = importlib.metadata.entry_points(group=GROUPS[what])
    found: Callable[[], Any]
    if kind in points.names:
        found = points[kind].load
    elif ":" in kind:
        module, _, name = kind.partition(":")

        def found() -> Any:
            return getattr(importlib.import_module(module), name)

    else:
        known = ", ".join([*built_in, *sorted(points.names)]) or "none"
        raise ConfigError(
            f"there is no {what} of kind {kind!r}", fix=f"known are {known}; one of your own is written module:name"
        )
    try:
        return found()
    except ANY as cause:  # whatever the module of somebody else does when it is imported
        raise ConfigError(f"the {what} {kind!r} cannot be loaded", cause=_told(cause)) from cause


def make(what: str, kind: str, call: Callable[[], T], **where: str) -> T:
    """What a factory gives. Raises ConfigError: it fails."""
    try:
        return call()
    except ANY as cause:
        at: dict[str, Any] = {**where, "cause": _told(cause)}
        raise ConfigError(f"the {what} {kind!r} cannot be made", **at) from cause


def _told(cause: BaseException) -> str:
    return f"{type(cause).__name__}: {cause}"[:300]


# -- sensors ------------------------------------------------------------------------------------------------------


class PluginSensor:
    """A sensor of one's own, held to its port. What it raises is said and tried again; its stream does not end by it.

    `tell` is called with a sentence while it fails, and with an empty one once it gives readings again.
    """

    def __init__(self, kind: str, sensor: Sensor) -> None:
        """Raises ConfigError: it lacks a method, or its channels are not names."""
        self._kind, self._sensor = kind, sensor
        missing = [name for name in ("start", "due_s", "read", "close") if not callable(getattr(sensor, name, None))]
        if missing:
            raise ConfigError(f"the sensor {kind!r} is none: it has no {', '.join(missing)}", fix="see docs/plugins.md")
        try:  # they may be properties, which run code
            named = getattr(sensor, "channels", None)
            channels = [] if named is None or isinstance(named, str) else list(named)
            self.can_wait = bool(getattr(sensor, "can_wait", False))
        except ANY as cause:
            raise ConfigError(f"the sensor {kind!r} cannot be asked for its channels", cause=_told(cause)) from cause
        if not channels or not all(isinstance(name, str) for name in channels):
            raise ConfigError(f"the sensor {kind!r} must name its channels", got=repr(named)[:100])
        self.channels: Sequence[str] = channels
        self.tell: Callable[[str], None] = lambda _: None
        self._said = ""
        self._said_of_values: set[str] = set()
        self._failures = 0
        self._retry_at_s: float | None = None
        self._started = self._is_due_unknown = False
        self._start_at = (0.0, 0)

    def start(self, monotonic_s: float, wall_us: int) -> None:
        """Begin to sense; one that cannot yet is started again later."""
        self._start_at = monotonic_s, wall_us
        self._start(monotonic_s)

    def due_s(self) -> float | None:
        """When the next block is complete, or when a failed call is tried again."""
        if self._retry_at_s is not None:
            return self._retry_at_s
        try:
            due = self._sensor.due_s()
            if due is None:
                return None
            if not math.isfinite(due):
                raise ValueError(f"{due} is no time by time.monotonic")
            return float(due)
        except ANY as cause:
            self._is_due_unknown = True
            return self._failed("due_s", cause)

    def read(self) -> Block | None:
        """The next block, as the engine needs it. A block that is not one is said and left out."""
        self._retry_at_s = None
        if self._is_due_unknown:  # the shell asks when it is due next, and then comes again
            self._is_due_unknown = False
            return None
        if not self._started and not self._start(time.monotonic()):
            return None
        try:
            found = self._sensor.read()
            block = None if found is None else _as_block(found)
        except ANY as cause:
            self._failed("read", cause)
            return None
        if block is not None:
            self._look_at(block.values)
        if block is not None and self._failures:
            self._failures, self._said = 0, ""
            self.tell("")
            log.warning("the sensor %r gives readings again", self._kind)
        return block

    def close(self) -> None:
        """Let go of what it holds. Raises nothing."""
        try:
            self._sensor.close()
        except ANY as cause:
            log.warning("the sensor %r failed in close(): %s", self._kind, _told(cause))

    def _look_at(self, values: Floats) -> None:
        """Say once, with the name of the sensor, what the engine is going to leave out and count."""
        if values.ndim != 2 or values.shape[1] != len(self.channels):
            wrong = f"gives values of shape {list(values.shape)} for {len(self.channels)} channels"
        elif not np.isfinite(values).all():
            wrong = "gives values that are not finite"
        else:
            return
        if wrong not in self._said_of_values and len(self._said_of_values) < 10:
            self._said_of_values.add(wrong)
            log.warning("the sensor %r %s; such readings are left out and counted, said once", self._kind, wrong)

    def _start(self, now_s: float) -> bool:
        first_s, wall_us = self._start_at
        try:
            self._sensor.start(now_s, wall_us + round((now_s - first_s) * 1e6))
        except ANY as cause:
            self._failed("start", cause)
            return False
        self._started = True
        return True

    def _failed(self, where: str, cause: BaseException) -> float:
        wait_s = min(RETRY_S * 2.0**self._failures, LONGEST_RETRY_S)
        self._failures = min(self._failures + 1, 10)
        self._retry_at_s = time.monotonic() + wait_s
        sentence = f"the sensor {self._kind!r} failed in {where}(): {_told(cause)}"
        if sentence != self._said:
            self._said = sentence
            self.tell(sentence)
            log.error("%s; it is tried again, at the latest every %g s", sentence, LONGEST_RETRY_S)
        return self._retry_at_s


def _as_block(found: Any) -> Block | None:
    """A block, or a pair of times and values, with the right types; None where it is empty. Raises ValueError.

    Always a copy: windows are kept for a while, and many a sensor fills the same buffer again.
    """
    times, values = (found.times, found.values) if hasattr(found, "times") else found
    times, values = np.array(times), np.array(values, np.float32)
    if not times.size and not values.size:
        return None
    if times.ndim != 1 or not np.issubdtype(times.dtype, np.integer):
        raise ValueError(
            f"event times must be int64[n], microseconds since 1970 UTC, and are {times.dtype}{list(times.shape)}"
        )
    if times.size and (int(times.min()) < FIRST_US or int(times.max()) > LAST_US):
        raise ValueError(
            f"event times must be microseconds since 1970 UTC of the years 1 to 9999, and are {times.min()}"
            f"{'' if times.size == 1 else f' to {times.max()}'}"
        )
    if values.shape[:1] != times.shape:
        raise ValueError(f"{len(times)} event times came with values of shape {list(values.shape)}")
    return Block("", times.astype(np.int64, copy=False), values)


# -- features -----------------------------------------------------------------------------------------------------


def add_feature(name: str, kind: str, options: Mapping[str, Any]) -> None:
    """Make a statistic of one's own known under a name, for the packages that list it.

    Raises:
        ConfigError: it cannot be loaded or made, its name is taken, or it fails on a window that is easy.
    """
    factory = load("feature", kind)
    function = make("feature", kind, lambda: factory(options), name=name)

    def checked(windows: Floats) -> Floats:
        seen = windows.view()
        seen.flags.writeable = False
        try:
            out = np.asarray(function(seen), np.float32)
        except ANY as cause:
            raise ModelError(f"the feature {kind!r} failed", name=name, cause=_told(cause)) from cause
        want = windows.shape[0], windows.shape[2]
        if out.shape != want:
            raise ModelError(f"the feature {kind!r} gave a wrong shape", name=name, got=out.shape, want=want)
        if not np.isfinite(out).all():
            raise ModelError(f"the feature {kind!r} gave a number that is not finite", name=name)
        return out

    try:
        checked(np.linspace(-1.0, 1.0, 2 * 8 * 3, dtype=np.float32).reshape(2, 8, 3))
        add_statistic(name, checked)
    except (ModelError, ValueError) as wrong:
        raise ConfigError(str(wrong)) from wrong


# -- detectors ----------------------------------------------------------------------------------------------------


class DetectorScorer(Scorer):
    """Scores windows with a detector of one's own in place of the edge half of a package.

    Everything else of the package stays: channels, window, levels, bounds, the heavy half in the cloud. Its identity
    does not: `package.sha256` covers the package, the detector's name, options and source, so that every decision says
    what made it.
    """

    def __init__(self, package: Package, kind: str, options: Mapping[str, Any]) -> None:
        """Load, make and try it.

        Raises:
            ConfigError: it cannot be loaded or made.
            ModelError: it gives no scores for the windows of the package's self-test.
        """
        manifest = package.manifest
        factory = load("detector", kind)
        self._kind = kind
        self._detector: Detector = make(
            "detector", kind, lambda: factory(list(manifest.channels), manifest.window_readings, options)
        )
        self.package = Package(manifest, _identity(package, kind, options, factory), {})
        self.manifest = manifest
        self.half = manifest.edge.model_copy(update={"feed": "window"})  # whole windows only
        self.carries = False  # what a detector remembers is its own affair
        windows = np.array(manifest.edge.self_test.windows, np.float32)
        self.score(windows, [""] * len(windows))

    def score(self, windows: Floats, devices: Sequence[str], spans: Any = None) -> Scores:
        """Score per window; see Scorer.score. Raises ModelError: it fails, or gives anything but finite numbers."""
        seen = windows.view()
        seen.flags.writeable = False
        try:
            scores = np.asarray(self._detector.score(seen, devices), np.float64)
        except ANY as cause:
            raise ModelError(f"the detector {self._kind!r} failed", cause=_told(cause)) from cause
        if scores.shape == (len(windows), 1):
            scores = scores[:, 0]
        if scores.shape != (len(windows),):
            raise ModelError(
                f"the detector {self._kind!r} must give one score per window", got=scores.shape, windows=len(windows)
            )
        if not np.isfinite(scores).all():
            raise ModelError(f"the detector {self._kind!r} gave a score that is not finite")
        return scores


def _identity(package: Package, kind: str, options: Mapping[str, Any], factory: Any) -> bytes:
    """What stands for the manifest of a package whose edge half is a detector."""
    try:
        source = hashlib.sha256(inspect.getsource(inspect.getmodule(factory) or factory).encode()).hexdigest()
    except (OSError, TypeError):  # built in C, or typed into a shell
        source = ""
    parts = {"detector": kind, "options": dict(options), "source": source, "package": package.sha256.hex()}
    return json.dumps(parts, sort_keys=True, default=str).encode()


class NoUpdates:
    """The verdict on model updates where a detector scores: none replaces what the configuration chose."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def judge(self, update: ModelUpdate, now_us: int) -> None:
        """Raises UpdateRefused: always."""
        raise UpdateRefused(
            f"the detector {self._kind!r} scores here, and updates bring models",
            model=update.model_name,
            version=update.version,
            fix="take `detector` out of the configuration to follow model updates",
        )
