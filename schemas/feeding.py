"""Windows to a model's inputs and its outputs to scores, for models that are more than one tensor in and one out. Pure.

Covers what other people's models are made like: several inputs, integers, constants beside the window, a fixed batch,
state that goes round, frames, and outputs of which one number is the score. Shapes are those of schemas/manifest.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from schemas.errors import ModelError
from schemas.features import extract
from schemas.manifest import Feed, Half, Pick
from schemas.records import Floats

Array = npt.NDArray[Any]
Scores = npt.NDArray[np.float64]


class Tensor(NamedTuple):
    """Name, element type (`float32`) and shape of a tensor; None is a free dimension."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join('?' if size is None else str(size) for size in self.shape)}]"


#: onnxruntime's names of element types -> numpy's. What is not here (maps, sequences, optionals) keeps its name.
ELEMENT_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}


class Runtime(Protocol):
    """A loaded model: what onnxruntime's session offers, behind names of ours."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def run(self, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Values of the named outputs."""
        ...


class Memory(NamedTuple):
    """What is kept of one device: its states, and the last readings float32[context_readings, channels]."""

    states: tuple[Array, ...]
    context: Floats


class Call:
    """How one half of a package is run.

    Args: channels: names of the window's channels, in their order.
    """

    def __init__(self, half: Half, channels: Sequence[str]) -> None:
        self.half = half
        self._feeds = [(feed, _places(feed, channels)) for feed in (half, *half.also)]
        self._constants = {
            constant.input: np.array(constant.values).astype(constant.dtype).reshape(constant.shape)
            for constant in half.constants
        }
        self._outputs = [half.output, *(state.output for state in half.states)]
        self._blank = Memory(
            tuple(np.zeros(state.shape, state.dtype) for state in half.states),
            np.zeros((half.context_readings, len(channels)), np.float32),
        )
        self.memory_bytes = sum(state.nbytes for state in self._blank.states) + self._blank.context.nbytes
        one_by_one = any(state.batch_axis is None for state in half.states)
        self.batch = half.batch or (1 if one_by_one else None)

    @property
    def blank(self) -> Memory:
        """Memory of a device that was not seen before: zeros."""
        return self._blank

    def __call__(
        self, runtime: Runtime, raw: Floats, scaled: Floats, memories: Sequence[Memory]
    ) -> tuple[Scores, list[Memory]]:
        """Scores of windows, each of another device, and what is to be remembered of each.

        Args:
            raw, scaled: float32[batch, readings, channels] in the units of the sensor, and standardised.
            memories: what is known of the device of each window; not changed.
        Raises: ModelError: the model failed, or its output holds no score where the manifest says.
        """
        size = self.batch
        if size is None:
            return self._padded(runtime, raw, scaled, list(memories), self.half.batch_multiple)
        scores: list[Scores] = []
        after: list[Memory] = []
        for at in range(0, len(raw), size):
            part = slice(at, at + size)
            got = self._padded(runtime, raw[part], scaled[part], list(memories[part]), size)
            scores.append(got[0])
            after += got[1]
        return np.concatenate(scores), after

    def _padded(
        self, runtime: Runtime, raw: Floats, scaled: Floats, memories: list[Memory], multiple: int
    ) -> tuple[Scores, list[Memory]]:
        """A call with a multiple of so many windows: what is missing is filled up, and left out again."""
        real = len(raw)
        raw, scaled = filled(raw, multiple), filled(scaled, multiple)
        memories = memories + [self._blank] * (len(raw) - real)
        scores, after = self._frames(runtime, raw, scaled, memories)
        return scores[:real], after[:real]

    def _frames(
        self, runtime: Runtime, raw: Floats, scaled: Floats, memories: Sequence[Memory]
    ) -> tuple[Scores, list[Memory]]:
        half, batch = self.half, len(raw)
        states = list(memories[0].states)
        if batch > 1:
            states = [
                np.concatenate([memory.states[i] for memory in memories], axis=state.batch_axis or 0)
                for i, state in enumerate(half.states)
            ]
        context = half.context_readings
        if context:
            tails = np.stack([memory.context for memory in memories])
        length = half.frame_readings or raw.shape[1]
        found: list[Scores] = []
        for at in range(0, raw.shape[1], length):
            frames = raw[:, at : at + length], scaled[:, at : at + length]
            if context:
                frames = tuple(np.concatenate([tails, frame], axis=1) for frame in frames)  # type: ignore[assignment]
                tails = (frames[1] if half.scaled else frames[0])[:, -context:].copy()
            scores, states = self._once(runtime, *frames, states)
            found.append(scores)
        if batch == 1:
            return _over(found, half.over_frames), [Memory(tuple(states), tails[0] if context else self._blank.context)]
        # copies: a view of one device would keep the states of its whole batch alive
        leads = [(slice(None),) * (state.batch_axis or 0) for state in half.states]
        after = [
            Memory(
                tuple(value[(*lead, slice(i, i + 1))].copy() for value, lead in zip(states, leads, strict=True)),
                tails[i].copy() if context else self._blank.context,
            )
            for i in range(batch)
        ]
        return _over(found, half.over_frames), after

    def _once(self, runtime: Runtime, raw: Floats, scaled: Floats, states: list[Array]) -> tuple[Scores, list[Array]]:
        half = self.half
        feeds: dict[str, Array] = dict(self._constants)
        for feed, places in self._feeds:
            feeds[feed.input] = _tensor(feed, places, scaled if feed.scaled else raw)
        for state, value in zip(half.states, states, strict=True):
            feeds[state.input] = value
        out, *after = runtime.run(self._outputs, feeds)
        for state, before, value in zip(half.states, states, after, strict=True):
            if value.shape != before.shape or value.dtype != before.dtype:
                raise ModelError(
                    "the model gives a state of another shape than it takes",
                    file=half.file,
                    takes=f"{before.dtype}{list(before.shape)}",
                    gives=f"{value.dtype}{list(value.shape)}",
                    output=state.output,
                )
        return pick_scores(half.pick, out, len(raw), feeds[half.input], half.file), after


def filled(rows: Array, multiple: int) -> Array:
    """Rows, and the last one again until there is a multiple of so many.

    >>> filled(np.array([[1], [2], [3]]), 4).tolist()
    [[1], [2], [3], [3]]
    """
    missing = -len(rows) % multiple
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows


def pick_scores(pick: Pick, out: Any, batch: int, fed: Array, file: str) -> Scores:
    """float64[batch] of one output: an array with the batch in front, or a sequence of maps.

    Args: fed: what the main input was given, [batch, ...]; only `error` looks at it.
    Raises: ModelError: there is no such number, or not one per window.
    """
    if np.ndim(out) and len(out) and isinstance(out[0], Mapping):
        scores = _of_maps(pick, out, batch, file)
    else:
        scores = _of_numbers(pick, out, batch, fed, file)
    if pick.flip == "negate":
        return -scores
    return 1.0 - scores if pick.flip == "complement" else scores


def _of_maps(pick: Pick, out: Sequence[Mapping[Any, Any]], batch: int, file: str) -> Scores:
    if len(out) != batch:
        raise ModelError("the score output has no entry per window", file=file, entries=len(out), windows=batch)
    if pick.label is None:
        raise ModelError(
            "the score output is a map of classes and the manifest names none of them",
            file=file,
            classes=sorted(map(str, out[0]))[:20],
        )
    try:
        return np.array([entry[pick.label] for entry in out], np.float64)
    except KeyError:
        raise ModelError(
            "the model knows no such class", file=file, want=pick.label, classes=sorted(map(str, out[0]))[:20]
        ) from None


def _of_numbers(pick: Pick, out: Any, batch: int, fed: Array, file: str) -> Scores:
    try:
        rows = np.asarray(out, np.float64).reshape(batch, -1)
    except (TypeError, ValueError):
        raise ModelError(
            "the score output holds not the same count of numbers for each window", file=file, windows=batch
        ) from None
    if pick.label is not None:
        if not isinstance(pick.label, int) or not 0 <= pick.label < rows.shape[1]:
            raise ModelError("the model knows no such class", file=file, want=pick.label, classes=rows.shape[1])
        return rows[:, pick.label]
    if pick.reduce == "error":
        target = np.asarray(fed, np.float64).reshape(batch, -1)
        if target.shape != rows.shape:
            raise ModelError(
                "the output cannot be compared with the input: it has another count of numbers",
                file=file,
                output=rows.shape[1],
                input=target.shape[1],
            )
        return np.asarray(np.square(rows - target).mean(axis=1), np.float64)
    if pick.reduce == "last":
        return rows[:, -1]
    if pick.reduce is not None:
        return np.asarray(getattr(rows, pick.reduce)(axis=1), np.float64)
    if rows.shape[1] != 1:
        raise ModelError(
            "the score output must hold one number per window",
            file=file,
            numbers=rows.shape[1],
            windows=batch,
            fix="name the class or the reduction that is the score",
        )
    return rows[:, 0]


def _over(found: Sequence[Scores], how: str) -> Scores:
    if len(found) == 1 or how == "last":
        return found[-1]
    together = np.stack(found)
    return np.asarray(together.max(axis=0) if how == "max" else together.mean(axis=0), np.float64)


def _places(feed: Feed, channels: Sequence[str]) -> list[int] | None:
    return [channels.index(name) for name in feed.channels] if feed.channels else None


def _tensor(feed: Feed, places: list[int] | None, windows: Floats) -> Array:
    x = windows if places is None else windows[:, :, places]
    if feed.feed == "features":
        x = extract(x, feed.statistics)
    else:
        if feed.layout in ("channels", "flat-channels"):
            x = x.transpose(0, 2, 1)
        if feed.layout in ("flat", "flat-channels"):
            x = x.reshape(len(x), -1)
    return cast(np.ascontiguousarray(x), feed.dtype)


def cast(x: Floats, dtype: str) -> Array:
    """Numbers as the element type a model takes: rounded to even and held in range, never wrapped round.

    >>> cast(np.array([-3.0, 1.5, 300.0], np.float32), "uint8").tolist()
    [0, 2, 255]
    """
    if dtype == "float32":
        return x
    if dtype == "bool":
        return np.asarray(x != 0)
    if dtype.startswith("float"):
        return x.astype(dtype)
    bounds = np.iinfo(dtype)
    rounded = np.rint(x.astype(np.float64))
    # the largest int64 is no float64: what reaches it is set by hand, for the cast would wrap it round
    high = rounded >= float(bounds.max)
    whole = np.where(high, 0.0, np.maximum(rounded, float(bounds.min))).astype(dtype)
    return np.where(high, np.array(bounds.max, dtype), whole)


def expected_shape(feed: Feed, half: Half, window_readings: int, wide: int) -> tuple[int, ...]:
    """Shape of one window as an input, without the batch. `wide`: channels of the window."""
    wide = len(feed.channels) or wide
    if feed.feed == "features":
        return (len(feed.statistics) * wide,)
    long = (half.frame_readings or window_readings) + half.context_readings
    if feed.layout == "rows":
        return (long, wide)
    return (wide, long) if feed.layout == "channels" else (long * wide,)
