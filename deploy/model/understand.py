"""From a model's tensors, and what the user said, to how it is fed and which number is the score. Pure.

What is not told is worked out from names and shapes, and said as a note; what cannot be worked out is a question with
the option that answers it. Nothing is guessed in silence.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import get_args

from pydantic import ValidationError

from deploy.model.layout import feed_of
from deploy.model.said import Around, Said, Understood
from schemas.errors import ConfigError, ModelError
from schemas.feeding import ELEMENT_TYPES, Tensor
from schemas.manifest import Constant, DType, Feed, Pick, State

RESET_AFTER = "which gap between two windows makes it forget? --reset-after 1s, or a recording, which tells the rate"
_NUMERIC = frozenset(get_args(DType))
_REDUCTIONS = ("max", "mean", "min", "sum", "last", "error")
_RATES = ("sr", "sample_rate", "samplerate", "sampling_rate", "fs", "rate")
_BEFORE = frozenset({"in", "input", "i", "prev", "previous", "past", "old", "initial", "current", "0"})
_AFTER = frozenset({"out", "output", "o", "next", "new", "present", "n", "t", "updated", "final", "1"})


def understand(inputs: Sequence[Tensor], outputs: Sequence[Tensor], said: Said, around: Around) -> Understood:
    """How a model is fed and read.

    Raises:
        ModelError: it can never run here: an input takes no numbers, or no output gives any.
        ConfigError: what was said does not fit the model.
    """
    _refuse_what_takes_no_numbers(inputs, outputs)
    got = Understood(window_readings=around.window_readings, channels=len(around.channels) if around.channels else None)
    constants, asked = _constants(inputs, said, around, got)
    rest = [t for t in inputs if t.name not in {c.input for c in constants} | asked]
    states = _states(rest, outputs, said, got)
    rest = [t for t in rest if t.name not in {s.input for s in states}]
    feeds = _feeds(rest, said, around, got)
    batch = _fixed_batch(feeds, rest, states, got)
    states = [_along(state, batch) for state in states]
    output, pick = _score(outputs, {s.output for s in states}, feeds, said, got)
    got.fields = {
        "constants": constants,
        "states": states,
        "output": output,
        "pick": pick,
        "context_readings": said.context_readings,
        "frame_readings": said.frame_readings,
        "over_frames": said.over_frames,
        "batch": batch,
    }
    if feeds:
        first, *also = feeds
        got.fields |= {name: getattr(first, name) for name in Feed.model_fields} | {"also": also}
    if states or said.context_readings:
        got.fields["reset_after_us"] = _reset_after(said, around, got)
    return got


def _refuse_what_takes_no_numbers(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    for tensor in inputs:
        if tensor.dtype == "object":
            raise ModelError(
                "an input of the model takes strings, and a sensor gives numbers",
                input=tensor.name,
                fix="export the model without its text or category encoder, so that it takes the encoded numbers",
            )
        if tensor.dtype not in _NUMERIC:
            raise ModelError(
                "an input of the model is no tensor of numbers",
                input=tensor.name,
                type=tensor.dtype,
                fix=f"export it with inputs of one of {', '.join(_NUMERIC & set(ELEMENT_TYPES.values()))}",
            )
    if not any(_gives_numbers(t) for t in outputs):
        raise ModelError(
            "no output of the model gives numbers, so there is no score",
            outputs=[f"{t.name}: {t.dtype}" for t in outputs],
            fix="export it with the probabilities, distances or scores as an output beside the label",
        )


def _gives_numbers(tensor: Tensor) -> bool:
    return tensor.dtype in _NUMERIC or _is_map(tensor)


def _is_map(tensor: Tensor) -> bool:
    return tensor.dtype.startswith("seq(map(") and "string))" not in tensor.dtype


# -- inputs -----------------------------------------------------------------------------------------------------------


def _constants(
    inputs: Sequence[Tensor], said: Said, around: Around, got: Understood
) -> tuple[list[Constant], set[str]]:
    """Constants, and names of those whose value is asked for."""
    by_name = {tensor.name: tensor for tensor in inputs}
    found: list[Constant] = []
    asked: set[str] = set()
    for text in said.constants:
        name, equals, value = text.partition("=")
        if name not in by_name or not equals:
            raise ConfigError(
                "a constant names no input of the model", got=text, inputs=list(by_name), fix="--constant NAME=VALUE"
            )
        found.append(_constant(by_name[name], value))
    told = {constant.input for constant in found}
    for tensor in inputs:
        if tensor.name in told or len(inputs) == 1 or not _is_single(tensor):
            continue
        if tensor.name.lower() in _RATES and around.rate_hz:
            found.append(_constant(tensor, str(round(around.rate_hz))))
            got.notes.append(f"{tensor.name} is {round(around.rate_hz)}: the recording's readings per second")
        elif tensor.name not in [text.partition("=")[0] for text in said.inputs]:
            got.open.append(f"what is the constant input {tensor.name}, {tensor}? --constant {tensor.name}=VALUE")
            asked.add(tensor.name)
    return found, asked


def _is_single(tensor: Tensor) -> bool:
    return tensor.shape in ((), (1,))


def _constant(tensor: Tensor, text: str) -> Constant:
    try:
        values = json.loads(text)
        flat = values if isinstance(values, list) else [values]
        if any(isinstance(v, bool | str) or not isinstance(v, int | float) for v in flat):
            raise ValueError("it must be a number, or a list of numbers such as [0,1]")
        shape = [] if tensor.shape == () else [len(flat)] if len(tensor.shape) == 1 else list(map(_known, tensor.shape))
        return Constant(input=tensor.name, dtype=tensor.dtype, shape=shape, values=list(map(float, flat)))  # type: ignore[arg-type]  # checked to be numeric
    except (ValueError, ValidationError) as wrong:
        why = wrong.errors()[0]["msg"] if isinstance(wrong, ValidationError) else str(wrong)
        raise ConfigError("a constant does not fit its input", input=tensor.name, takes=str(tensor), why=why) from None


def _known(size: int | None) -> int:
    return 1 if size is None else size


def _states(rest: Sequence[Tensor], outputs: Sequence[Tensor], said: Said, got: Understood) -> list[State]:
    ins, outs = {t.name: t for t in rest}, {t.name: t for t in outputs}
    pairs = []
    for text in said.states:
        name, _, output = text.partition("=")
        if name not in ins or output not in outs:
            raise ConfigError(
                "a state must name an input and the output that it is fed from",
                got=text,
                inputs=list(ins),
                outputs=list(outs),
                fix="--state INPUT=OUTPUT",
            )
        pairs.append((ins[name], outs[output]))
    if not said.states:
        named = {text.partition("=")[0] for text in said.inputs}
        found = [
            (i, o) for i in rest for o in outputs if i.name not in named and _stem(i) == _stem(o) and _go_round(i, o)
        ]
        if len({i.name for i, _ in found}) == len(found) == len({o.name for _, o in found}) < len(rest):
            pairs = found
            got.notes += [f"{i.name} is carried per device, fed from {o.name} and zero at the start" for i, o in found]
    return [_state(before, after, got) for before, after in pairs]


def _stem(tensor: Tensor) -> str:
    """A name without its words for before and after: state and stateN, h_in and h_out, h0 and hn have one stem."""
    words = re.split(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9])", tensor.name)
    kept = [word.lower() for word in words if word and word.lower() not in _BEFORE | _AFTER]
    kept = [re.sub(r"^([hc])n$", r"\1", word) for word in kept]
    return ".".join(kept)


def _go_round(before: Tensor, after: Tensor) -> bool:
    return (
        bool(_stem(before))
        and before.dtype == after.dtype
        and len(before.shape) == len(after.shape) > 0
        and all(a is None or b is None or a == b for a, b in zip(before.shape, after.shape, strict=True))
    )


def _state(before: Tensor, after: Tensor, got: Understood) -> State:
    shape = [b if a is None else a for a, b in zip(before.shape, after.shape, strict=False)]
    free = [axis for axis, size in enumerate(before.shape) if size is None]
    if not _go_round(before, after) and before.shape != after.shape:
        raise ConfigError("a state is fed from an output of another shape", input=str(before), output=str(after))
    if len([axis for axis in free if shape[axis] is None]) > 1:
        got.open.append(
            f"the state {before.name}, {before}, has several free dimensions: export it with all but the batch fixed"
        )
    axis = free[0] if free else None
    dims = [1 if at == axis or size is None else size for at, size in enumerate(shape)]
    return State(input=before.name, output=after.name, dtype=before.dtype, shape=dims, batch_axis=axis)  # type: ignore[arg-type]  # numeric


def _along(state: State, batch: int | None) -> State:
    """A state whose batch is as fixed as that of the window, at the one place where its size stands."""
    if state.batch_axis is not None or batch in (None, 1) or state.shape.count(batch or 0) != 1:
        return state
    axis = state.shape.index(batch or 0)
    shape = [1 if at == axis else size for at, size in enumerate(state.shape)]
    return state.model_copy(update={"shape": shape, "batch_axis": axis})


def _feeds(rest: Sequence[Tensor], said: Said, around: Around, got: Understood) -> list[Feed]:
    by_name = {tensor.name: tensor for tensor in rest}
    told = dict(text.partition("=")[::2] for text in said.inputs)
    unknown = [name for name in told if name not in by_name]
    if unknown:
        raise ConfigError("the model has no such input to be fed from the window", got=unknown, inputs=list(by_name))
    if not told:
        told = dict.fromkeys(by_name, "")
        columns = around.channels or ()
        if len(rest) > 1 and len(rest) == len(columns) and all(t.shape[1:] == (1,) for t in rest):
            told = dict(zip(by_name, columns, strict=True))
            got.notes.append("each input takes one channel: " + ", ".join(f"{k} {v}" for k, v in told.items()))
        elif len(rest) > 1:
            unclear = ", ".join(f"{t.name} {t}" for t in rest)
            got.open.append(
                "which inputs are made from the window, and from which channels? --input NAME, or --input "
                f"NAME=channel,…, for each of {unclear}; --constant, --state for others"
            )
            return [feed_of(rest[0], (), said, got)]
    left = [name for name in by_name if name not in told]
    if left:
        got.open.append(f"what feeds {', '.join(left)}? --input, --constant or --state")
    if not told:
        raise ModelError("no input of the model is left to be made from the window", inputs=[t.name for t in rest])
    return [feed_of(by_name[name], tuple(filter(None, chosen.split(","))), said, got) for name, chosen in told.items()]


def _fixed_batch(feeds: Sequence[Feed], rest: Sequence[Tensor], states: Sequence[State], got: Understood) -> int | None:
    sizes = {t.shape[0] for t in rest if t.name in {f.input for f in feeds} and t.shape and t.shape[0]}
    if len(sizes) > 1:
        raise ModelError("the inputs of the model have different fixed batches", batches=sorted(map(str, sizes)))
    if sizes:
        (size,) = sizes
        assert size is not None
        got.notes.append(f"its batch is fixed: {size} window(s) in a call" + (", padded" if size > 1 else ""))
        return size
    if any(state.batch_axis is None for state in states):
        got.notes.append("its state has no batch: one window in a call")
        return 1
    return None


def _reset_after(said: Said, around: Around, got: Understood) -> int:
    if said.reset_after_us is not None:
        return said.reset_after_us
    if around.rate_hz:
        after = max(1, round(5 * 1e6 / around.rate_hz))
        got.notes.append(f"a gap of more than 5 readings ({after} us) starts it anew; --reset-after says otherwise")
        return after
    got.open.append(RESET_AFTER)
    return 1


# -- the score --------------------------------------------------------------------------------------------------------


def _score(
    outputs: Sequence[Tensor], of_states: set[str], feeds: Sequence[Feed], said: Said, got: Understood
) -> tuple[str, Pick]:
    """The output and the number in it; how many numbers there are is only known when the model has run (settle.py)."""
    usable = {t.name: t for t in outputs if t.name not in of_states and _gives_numbers(t)}
    if not usable:
        raise ModelError("every output of the model is state or no number, so there is no score")
    name, choice = _named(said.score, usable)
    if not name:
        likely = sorted(usable, key=lambda n: (not _is_map(usable[n]), usable[n].dtype[:5] != "float", "label" in n))
        better = [n for n in usable if re.search("prob|score|anomal|logit|decision|confid", n, re.IGNORECASE)]
        maps = [n for n in usable if _is_map(usable[n])]
        name = maps[0] if len(maps) == 1 else better[0] if len(better) == 1 else likely[0]
        if len(usable) > 1:
            others = ", ".join(n for n in usable if n != name)
            got.notes.append(f"{name} holds the score; the model also gives {others}: --score OUTPUT says otherwise")
    elif usable[name].dtype == "object":
        raise ModelError("the score output gives strings", output=name)
    label: int | str | None = None
    reduce = choice if choice in _REDUCTIONS else None
    if choice and reduce is None:
        by_text = "map(string" in usable[name].dtype
        label = int(choice) if re.fullmatch(r"-?\d+", choice) and not by_text else choice
    return name, Pick(label=label, reduce=reduce, flip=said.flip)  # type: ignore[arg-type]  # one of _REDUCTIONS


def _named(score: str | None, usable: dict[str, Tensor]) -> tuple[str, str]:
    """Output and pick of `--score`; an output's own name may hold a colon."""
    if not score:
        return "", ""
    if score in usable:
        return score, ""
    name, colon, choice = score.rpartition(":")
    if colon and (name in usable or not name):
        return name, choice
    raise ConfigError(
        "no output of the model that gives numbers has this name",
        got=score,
        outputs=list(usable),
        fix="--score OUTPUT or --score OUTPUT:CLASS or OUTPUT:max",
    )


def numbers_of(tensor: Tensor) -> int | None:
    """Numbers per window of an output, where its shape tells."""
    if any(size is None for size in tensor.shape[1:]):
        return None
    return math.prod(size or 0 for size in tensor.shape[1:])
