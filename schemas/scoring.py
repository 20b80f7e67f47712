"""Windows to scores with one half of a model package. The runtime is passed in, so both sides share this code."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from schemas.errors import ModelError
from schemas.features import extract, standardise
from schemas.feeding import Call, Memory, Runtime, Scores, Tensor, expected_shape, filled
from schemas.manifest import Feed, Half, Manifest, Package, later_fields
from schemas.records import Floats

__all__ = ["Runtime", "Scorer", "Scores", "Tensor"]

#: First and last event time of each window, int64[batch, 2], microseconds.
Spans = npt.NDArray[np.int64]

#: What a scorer may remember of its devices, in bytes and in devices; who was not seen for longest is forgotten first.
MAX_MEMORY_BYTES = 64 * 1024 * 1024
MAX_DEVICES = 100_000


class Scorer:
    """Scores windows with the edge or the heavy half of a package.

    Raises ModelError at construction: the model does not fit the window its manifest describes, or it fails the
    self-test. So a scorer that exists has given the right answers once, on this machine.

    The edge half of a model with state carries it from window to window of a device. The heavy half starts each window
    anew: what is escalated reaches it with gaps, in any order and on any worker, and no decision shall depend on that.
    """

    def __init__(self, package: Package, which: Literal["edge", "heavy"], runtime: Runtime) -> None:
        self.package = package
        self.manifest: Manifest = package.manifest
        self.half: Half = getattr(package.manifest, which)
        self._runtime = runtime
        self._scaling: dict[str, tuple[Floats, Floats]] = {}
        none = np.empty(0, np.float32)
        self._stacked: tuple[tuple[str, ...], Floats, Floats] = ((), none, none)
        #: Whether the score of a window depends on the windows of the device before it.
        self.carries = which == "edge" and self.half.remembers
        self._call = None if _is_plain(self.half) else Call(self.half, self.manifest.channels)
        self._memories: OrderedDict[str, tuple[int, Memory]] = OrderedDict()
        self._most = MAX_DEVICES
        if self._call is not None:
            self._most = max(1, min(MAX_DEVICES, MAX_MEMORY_BYTES // max(1, self._call.memory_bytes)))
        self._check_fit()
        self._check_answers()

    @property
    def threshold(self) -> float:
        """Score from which a window is an anomaly; infinite where the half has none."""
        return float("inf") if self.half.threshold is None else self.half.threshold

    def score(self, windows: Floats, devices: Sequence[str], spans: Spans | None = None) -> Scores:
        """Score per window.

        Args:    windows: float32[batch, readings, channels] in the units of the sensor, finite.
                 devices: the device of each window, for its scaling and its state.
                 spans: int64[batch, 2], event time of the first and the last reading of each window, microseconds.
                     Only a scorer that `carries` looks at them; without them, windows of a device have no gaps.
        Returns: float64[batch]; higher is worse.
        Raises:  ModelError: wrong number of channels or readings, or the model gave a score that is not finite.
            Then nothing is remembered of the call; and of a device whose window fails alone, nothing at all.
        """
        if windows.ndim != 3 or windows.shape[2] != len(self.manifest.channels):
            raise ModelError(
                "windows do not fit the model",
                shape=windows.shape,
                channels=self.manifest.channels,
                model=self.manifest.name,
            )
        if self.half.feed == "window" and windows.shape[1] != self.manifest.window_readings:
            raise ModelError(
                "the model takes windows of one length",
                got=windows.shape[1],
                want=self.manifest.window_readings,
            )
        distinct = set(devices)
        if len(distinct) == 1:
            centre, scale = self._scaling_of(devices[0])
        else:
            centre, scale = self._scaling_of_each(tuple(devices))
        scaled = standardise(windows, centre, scale)
        if self._call is not None:
            return self._score_with(self._call, windows, scaled, devices, spans)
        feed = extract(scaled, self.half.statistics) if self.half.feed == "features" else scaled
        feed = filled(feed, self.half.batch_multiple)
        (out,) = self._runtime.run([self.half.output], {self.half.input: feed})
        try:
            scores = np.asarray(out, np.float64).reshape(len(feed), 1)[: len(windows)]
        except (TypeError, ValueError):
            raise ModelError(
                "the score output must hold one number per window", file=self.half.file, windows=len(windows)
            ) from None
        self._check_finite(scores)
        return scores[:, 0]

    def forget(self) -> None:
        """Start every device anew."""
        self._memories.clear()

    @property
    def remembered(self) -> int:
        """Devices of which something is remembered."""
        return len(self._memories)

    def _check_finite(self, scores: Scores) -> None:
        if not np.isfinite(scores).all():
            raise ModelError("the model gave a score that is not finite", model=self.manifest.name, file=self.half.file)

    def _score_with(
        self, call: Call, windows: Floats, scaled: Floats, devices: Sequence[str], spans: Spans | None
    ) -> Scores:
        if not self.carries:
            scores, _ = call(self._runtime, windows, scaled, [call.blank] * len(windows))
            self._check_finite(scores)
            return scores
        scores = np.empty(len(windows), np.float64)
        after: dict[str, tuple[int, Memory]] = {}
        try:
            for wave in _waves(devices):
                memories = []
                for at in wave:
                    known = after.get(devices[at]) or self._memories.get(devices[at])
                    memories.append(call.blank if known is None or self._is_apart(known[0], spans, at) else known[1])
                whole = len(wave) == len(windows)
                raw, standardised = (windows, scaled) if whole else (windows[wave], scaled[wave])
                got, left = call(self._runtime, raw, standardised, memories)
                self._check_finite(got)
                scores[wave] = got
                for at, memory in zip(wave, left, strict=True):
                    after[devices[at]] = (_UNKNOWN if spans is None else int(spans[at, 1])), memory
        except ModelError:
            if len(windows) == 1:
                self._memories.pop(devices[0], None)
            raise
        for device, kept in after.items():
            self._memories[device] = kept
            self._memories.move_to_end(device)
        while len(self._memories) > self._most:
            self._memories.popitem(last=False)
        return scores

    def _is_apart(self, until_us: int, spans: Spans | None, at: int) -> bool:
        """Whether a window does not continue what ended at `until_us`: a gap lies between them, or time went back."""
        if spans is None or until_us == _UNKNOWN:
            return False
        return not 0 <= int(spans[at, 0]) - until_us <= self.half.reset_after_us

    def _scaling_of_each(self, devices: tuple[str, ...]) -> tuple[Floats, Floats]:
        """Scaling as [batch, 1, channels]; kept for the next batch, which mostly is of the same devices again."""
        kept = self._stacked  # read once: a scorer may be shared by threads
        if kept[0] != devices:
            pairs = [self._scaling_of(device) for device in devices]
            centre, scale = (np.stack(each)[:, None, :] for each in zip(*pairs, strict=True))
            kept = self._stacked = devices, centre, scale
        return kept[1], kept[2]

    def _scaling_of(self, device_id: str) -> tuple[Floats, Floats]:
        found = self._scaling.get(device_id)
        if found is None:
            scaling = self.manifest.scaling_of(device_id)
            found = np.array(scaling.centre, np.float32), np.array(scaling.scale, np.float32)
            if len(self._scaling) < 100_000:
                self._scaling[device_id] = found
        return found

    def _check_fit(self) -> None:
        half = self.half
        known = {tensor.name: tensor for tensor in self._runtime.inputs}
        want = [half.input, *(f.input for f in half.also), *(c.input for c in half.constants)]
        want += [state.input for state in half.states]
        if set(want) != set(known):
            raise ModelError(
                "the model's inputs are not what its manifest says", want=want, got=list(known), file=half.file
            )
        for feed in (half, *half.also):
            self._check_feed(feed, known[feed.input])
        for constant in half.constants:
            _check_same(known[constant.input], constant.dtype, constant.shape, "a constant", half.file)
        outputs = {tensor.name: tensor for tensor in self._runtime.outputs}
        for name in (half.output, *(state.output for state in half.states)):
            if name not in outputs:
                raise ModelError("the model has no such output", want=name, got=list(outputs), file=half.file)
        for state in half.states:
            shape: list[int | None] = list(state.shape)
            if state.batch_axis is not None:
                shape[state.batch_axis] = half.batch
            _check_same(known[state.input], state.dtype, shape, "a state", half.file)

    def _check_feed(self, feed: Feed, found: Tensor) -> None:
        want = expected_shape(feed, self.half, self.manifest.window_readings, len(self.manifest.channels))
        fits = len(found.shape) == len(want) + 1 and all(
            got is None or got == expected for got, expected in zip(found.shape[1:], want, strict=False)
        )
        batch = None if self._call is None else self._call.batch
        if found.dtype != feed.dtype or not fits or found.shape[0] not in (None, 0, batch):
            raise ModelError(
                "the model does not fit the window its manifest describes",
                file=self.half.file,
                model_takes=f"{found.dtype}{list(found.shape)}",
                manifest_gives=f"{feed.dtype}[{batch or 'batch'}, {', '.join(map(str, want))}]",
                fix="export the model with a free batch dimension for this window, or correct the manifest",
            )

    def _check_answers(self) -> None:
        test = self.half.self_test
        windows = np.array(test.windows, np.float32)
        got = self.score(windows, [""] * len(windows))
        self.forget()
        worst = float(np.max(np.abs(got - np.array(test.scores)) / np.maximum(np.abs(test.scores), 1.0)))
        if worst > test.tolerance:
            raise ModelError(
                "the model fails its self-test: it does not give the scores it was released with",
                file=self.half.file,
                off_by=worst,
                tolerance=test.tolerance,
            )


#: Where the event time of a device's last window is not known.
_UNKNOWN = -(1 << 63)


def _is_plain(half: Half) -> bool:
    """Whether a half is one float32 tensor in and one number per window out, as it was from the beginning."""
    return not later_fields(half) - {"batch_multiple"}


def _waves(devices: Sequence[str]) -> list[list[int]]:
    """Places of windows in calls: in each every device once, in order, so that state goes from one to the next.

    >>> _waves(["a", "b", "a", "a"])
    [[0, 1], [2], [3]]
    """
    waves: list[list[int]] = []
    seen: dict[str, int] = {}
    for at, device in enumerate(devices):
        turn = seen[device] = seen.get(device, -1) + 1
        if turn == len(waves):
            waves.append([])
        waves[turn].append(at)
    return waves


def _check_same(found: Tensor, dtype: str, shape: Sequence[int | None], what: str, file: str) -> None:
    fits = len(found.shape) == len(shape) and all(
        got is None or want is None or got == want for got, want in zip(found.shape, shape, strict=True)
    )
    if found.dtype != dtype or not fits:
        raise ModelError(
            f"{what} of the manifest does not fit the model's input",
            file=file,
            input=found.name,
            model_takes=str(found),
            manifest_gives=str(Tensor(found.name, dtype, tuple(shape))),
        )
