"""What only running a model tells: how many numbers come out, whether several windows may go in, whether it repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deploy.model.said import Understood
from schemas.errors import ModelError
from schemas.feeding import Array, Call, Runtime, Scores, Tensor
from schemas.manifest import Half, Pick, SelfTest
from schemas.records import Floats

#: Scores of a window alone and among others may differ by this much, relatively: the last bits of float32 do.
_SAME = 1e-3
#: Of windows in a call, to be tried in this order; the widest registers hold 16 float32.
_MULTIPLES = (1, 4, 8, 16)


class _Watched:
    """A runtime that remembers what came out last."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.inputs: tuple[Tensor, ...] = runtime.inputs
        self.outputs: tuple[Tensor, ...] = runtime.outputs
        self.last: Any = None

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        values = self._runtime.run(outputs, feeds)
        self.last = values[0]
        return values


def half_of(fields: Mapping[str, Any], file: str = "model.onnx", data: bytes = b"?", sha256: str = "0" * 64) -> Half:
    """A half whose self-test is yet to be made."""
    return Half(
        **{"self_test": SelfTest(windows=[[[0.0]]], scores=[0.0])} | dict(fields),
        file=file,
        sha256=sha256,
        bytes=len(data),
    )


def probe(window_readings: int, channels: int, count: int = 3) -> Floats:
    """Windows to try a model with, float32[count, readings, channels]: zeros, a wave, a slow rise, …"""
    at = np.arange(window_readings, dtype=np.float64)[None, :, None]
    number = np.arange(count, dtype=np.float64)[:, None, None]
    phase = np.arange(channels, dtype=np.float64)[None, None, :]
    wave = number * 0.5 * np.sin(2 * np.pi * (at / 29 + phase / 7)) + (number // 2) * at / window_readings
    return np.asarray(wave, np.float32)


def settle(runtime: Runtime, got: Understood) -> None:
    """Try a model as it was understood; completes `got` with its batch and its score.

    Raises: ModelError: it cannot run like this. Questions that stay open are added to `got`.
    """
    assert got.window_readings is not None
    assert got.channels is not None
    names = [f"c{i}" for i in range(got.channels)]
    blank = dict(got.fields) | {"channels": names[: len(got.fields["channels"])]}  # by place here, by name in a package
    blank["also"] = [f.model_copy(update={"channels": names[: len(f.channels)]}) for f in blank["also"]]
    windows = probe(got.window_readings, got.channels)
    watched = _Watched(runtime)
    try:
        Call(half_of(blank | {"pick": Pick(reduce="max"), "batch": blank["batch"] or 1}), names)(
            watched, windows[1:2], windows[1:2], [Call(half_of(blank), names).blank]
        )
    except ModelError as wrong:
        if watched.last is None:
            raise ModelError(
                wrong.problem,
                **wrong.where | {"window_readings": got.window_readings, "channels": got.channels},
                fix="does it take windows like these? --window, --layout and --context say otherwise; a `Reshape` to a "
                "fixed size inside of the model must be exported again",
            ) from None
    _choose(watched.last, blank, got)
    if got.open:
        return
    blank["pick"] = got.fields["pick"]
    _try_batch(runtime, blank, names, windows, got)


def _choose(out: Any, fields: Mapping[str, Any], got: Understood) -> None:
    pick: Pick = fields["pick"]
    name = fields["output"]
    if pick.label is not None or pick.reduce is not None:
        return
    if np.ndim(out) and len(out) and isinstance(out[0], Mapping):
        classes = sorted(out[0], key=str)
        if len(classes) == 2:
            got.fields["pick"] = pick.model_copy(update={"label": classes[1]})
            got.notes.append(f"the score is {name} of class {classes[1]!r}, the second of two; --score says otherwise")
        else:
            some = ", ".join(map(str, classes[:12])) + (", …" if len(classes) > 12 else "")
            got.open.append(f"which class of {name} is the score ({some})? --score {name}:CLASS")
        return
    batch = fields["batch"] or 1
    numbers = np.size(out) // batch
    if np.size(out) % batch or not numbers:
        got.open.append(f"{name} gives {np.size(out)} numbers for {batch} window(s): name another one, --score OUTPUT")
    elif numbers == 2:
        got.fields["pick"] = pick.model_copy(update={"label": 1})
        got.notes.append(f"the score is number 1 of the 2 in {name}, the second class; --score {name}:N says otherwise")
    elif numbers > 1:
        if fields["feed"] == "window" and not fields["also"] and numbers == _fed_numbers(fields, got):
            got.fields["pick"] = pick.model_copy(update={"reduce": "error"})
            got.notes.append(
                f"{name} has the shape of the input: read as a reconstruction, the score is its mean squared error"
            )
            return
        got.open.append(
            f"which of the {numbers} numbers of {name} is the score? --score {name}:N, or {name}:max, :mean, :last, …"
        )


def _fed_numbers(fields: Mapping[str, Any], got: Understood) -> int:
    wide = len(fields["channels"]) or got.channels or 0
    long: int = (fields["frame_readings"] or got.window_readings or 0) + fields["context_readings"]
    return long * wide


def _try_batch(
    runtime: Runtime, fields: Mapping[str, Any], names: Sequence[str], windows: Floats, got: Understood
) -> None:
    one = Call(half_of(dict(fields) | {"batch": fields["batch"] or 1}), names)
    alone = np.array([one(runtime, w[None], w[None], [one.blank])[0][0] for w in windows])
    again = np.array([one(runtime, w[None], w[None], [one.blank])[0][0] for w in windows])
    if not np.array_equal(alone, again, equal_nan=True):
        raise ModelError(
            "the model gives another score for the same window the second time",
            scores=[float(alone[0]), float(again[0])],
            fix="export it for inference: without dropout, and with its random operators replaced",
        )
    if fields["batch"] is not None:
        return
    many = Call(half_of(dict(fields) | {"batch_multiple": 1}), names)
    try:
        together = many(runtime, windows, windows, [many.blank] * len(windows))[0]
    except ModelError as why:
        got.fields["batch"] = 1
        got.notes.append(f"several windows in a call do not work ({why.where.get('cause', why.problem)}): one by one")
        return
    if not np.allclose(alone, together, rtol=_SAME, atol=_SAME, equal_nan=True):
        got.fields["batch"] = 1
        got.notes.append("a window scores differently among others: windows go in one by one")
        return
    got.fields["batch_multiple"] = _multiple(runtime, fields, names, got)


def _multiple(runtime: Runtime, fields: Mapping[str, Any], names: Sequence[str], got: Understood) -> int:
    """The fewest windows in multiples of which a window's score is the same to the last bit, whoever goes with it."""
    assert got.window_readings is not None
    assert got.channels is not None
    windows = probe(got.window_readings, got.channels, _MULTIPLES[-1] + 3)
    for multiple in _MULTIPLES:
        call = Call(half_of(dict(fields) | {"batch_multiple": multiple}), names)

        def scores(part: Floats, call: Call = call) -> Scores:
            return call(runtime, part, part, [call.blank] * len(part))[0]

        whole = scores(windows)
        if all(
            np.array_equal(scores(windows[:count]), whole[:count], equal_nan=True)
            and np.array_equal(scores(windows[-count:]), whole[-count:], equal_nan=True)
            for count in range(1, len(windows))
        ):
            return multiple
    return _MULTIPLES[-1]
