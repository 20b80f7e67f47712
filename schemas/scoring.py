"""Windows to scores with one half of a model package. The runtime is passed in, so both sides share this code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from schemas.errors import ModelError
from schemas.features import extract, standardise
from schemas.manifest import Half, Manifest, Package
from schemas.records import Floats

Scores = npt.NDArray[np.float64]


class Tensor(NamedTuple):
    """Name, element type (`float32`) and shape of a tensor; None is a free dimension."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Runtime(Protocol):
    """A loaded model: what onnxruntime's session offers, behind names of ours."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def run(self, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Values of the named outputs."""
        ...


class Scorer:
    """Scores windows with the edge or the heavy half of a package.

    Raises ModelError at construction: the model does not fit the window its manifest describes, or it fails the
    self-test. So a scorer that exists has given the right answers once, on this machine.
    """

    def __init__(self, package: Package, which: Literal["edge", "heavy"], runtime: Runtime) -> None:
        self.package = package
        self.manifest: Manifest = package.manifest
        self.half: Half = getattr(package.manifest, which)
        self._runtime = runtime
        self._scaling: dict[str, tuple[Floats, Floats]] = {}
        none = np.empty(0, np.float32)
        self._stacked: tuple[tuple[str, ...], Floats, Floats] = ((), none, none)
        self._check_fit()
        self._check_answers()

    @property
    def threshold(self) -> float:
        """Score from which a window is an anomaly; infinite where the half has none."""
        return float("inf") if self.half.threshold is None else self.half.threshold

    def score(self, windows: Floats, devices: Sequence[str]) -> Scores:
        """Score per window.

        Args:    windows: float32[batch, readings, channels] in the units of the sensor, finite.
                 devices: the device of each window, for its scaling.
        Returns: float64[batch]; higher is worse.
        Raises:  ModelError: wrong number of channels or readings, or the model gave a score that is not finite.
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
        feed = extract(scaled, self.half.statistics) if self.half.feed == "features" else scaled
        (out,) = self._runtime.run([self.half.output], {self.half.input: feed})
        try:
            scores = np.asarray(out, np.float64).reshape(len(windows), 1)
        except (TypeError, ValueError):
            raise ModelError(
                "the score output must hold one number per window", file=self.half.file, windows=len(windows)
            ) from None
        if not np.isfinite(scores).all():
            raise ModelError("the model gave a score that is not finite", model=self.manifest.name, file=self.half.file)
        return scores[:, 0]

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
        wide = len(self.manifest.channels)
        want: tuple[int, ...] = (
            (len(self.half.statistics) * wide,)
            if self.half.feed == "features"
            else (self.manifest.window_readings, wide)
        )
        found = next((t for t in self._runtime.inputs if t.name == self.half.input), None)
        if found is None or len(self._runtime.inputs) != 1:
            raise ModelError(
                "the model's inputs are not what its manifest says",
                want=[self.half.input],
                got=[t.name for t in self._runtime.inputs],
                file=self.half.file,
            )
        fits = len(found.shape) == len(want) + 1 and all(
            got is None or got == expected for got, expected in zip(found.shape[1:], want, strict=False)
        )
        if found.dtype != "float32" or not fits or found.shape[0] not in (None, 0):
            raise ModelError(
                "the model does not fit the window its manifest describes",
                file=self.half.file,
                model_takes=f"{found.dtype}{list(found.shape)}",
                manifest_gives=f"float32[batch, {', '.join(map(str, want))}]",
                fix="export the model with a free batch dimension for this window, or correct the manifest",
            )
        if self.half.output not in [t.name for t in self._runtime.outputs]:
            raise ModelError(
                "the model has no such output",
                want=self.half.output,
                got=[t.name for t in self._runtime.outputs],
                file=self.half.file,
            )

    def _check_answers(self) -> None:
        test = self.half.self_test
        windows = np.array(test.windows, np.float32)
        got = self.score(windows, [""] * len(windows))
        worst = float(np.max(np.abs(got - np.array(test.scores)) / np.maximum(np.abs(test.scores), 1.0)))
        if worst > test.tolerance:
            raise ModelError(
                "the model fails its self-test: it does not give the scores it was released with",
                file=self.half.file,
                off_by=worst,
                tolerance=test.tolerance,
            )
