"""How a model is fed and read, from its tensors and what was said."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.model.said import Around, Said, Understood
from deploy.model.understand import understand
from schemas.errors import ConfigError, ModelError
from schemas.feeding import Tensor

SCORE = Tensor("score", "float32", (None, 1))
NOTHING = Around()


def x(*shape: int | None, dtype: str = "float32") -> Tensor:
    return Tensor("x", dtype, shape)


def got(*inputs: Tensor, outputs: tuple[Tensor, ...] = (SCORE,), around: Around = NOTHING, **said: Any) -> Understood:
    return understand(inputs, outputs, Said(**said), around)


@pytest.mark.parametrize(
    ("tensor", "around", "layout", "readings", "channels"),
    [
        (x(None, 64, 3), NOTHING, "rows", 64, 3),
        (x(None, 3, 64), Around(64), "channels", 64, 3),
        (x(None, 3, 64), Around(None, ("a", "b", "c")), "channels", 64, 3),
        (x(1, 1, 512), Around(512), "channels", 512, 1),
        (x(None, None, 3), Around(64), "rows", 64, 3),
        (x(None, 12), Around(None, ("a", "b", "c")), "flat", 4, 3),
        (x(None, 12), Around(4), "flat", 4, 3),
        (x(None, 12), NOTHING, "flat", 12, 1),
        (x(None, None), Around(512, ("audio",)), "flat", 512, 1),
    ],
)
def test_the_layout_follows_from_shape_window_and_channels(
    tensor: Tensor, around: Around, layout: str, readings: int, channels: int
) -> None:
    found = got(tensor, around=around)
    assert (found.fields["layout"], found.window_readings, found.channels) == (layout, readings, channels)
    assert found.open == []


def test_a_free_number_of_readings_is_asked_for() -> None:
    assert got(x(None, None, 3)).open == ["how many readings are a window? x takes any number: --window N"]


@pytest.mark.parametrize(
    ("tensor", "around"),
    [(x(None, 64, 3), Around(63)), (x(None, 12), Around(5)), (x(None, 64, 3), Around(None, ("a",)))],
)
def test_a_window_that_does_not_fit_is_refused_with_both(tensor: Tensor, around: Around) -> None:
    with pytest.raises(ConfigError, match=r"the window does not fit the input .*--window N"):
        got(tensor, around=around)


@pytest.mark.parametrize("shape", [(), (4,), (None, 1, 64, 3)])
def test_an_input_without_a_place_for_a_window_says_how_to_export_it(shape: tuple[int | None, ...]) -> None:
    with pytest.raises(ModelError, match=r"has no place for a window .*export it as \[batch, readings, channels\]"):
        got(x(*shape))


def test_features_must_be_as_many_as_the_input_takes() -> None:
    around = Around(16, ("a", "b"))
    assert got(x(None, 8), around=around, feed="features").fields["statistics"] == ["mean", "std", "min", "max"]
    with pytest.raises(ConfigError, match=r"features do not fit .*1 statistics of 2 channels: 2 numbers"):
        got(x(None, 8), around=around, feed="features", statistics=("mean",))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("state", "stateN"),
        ("h", "hn"),
        ("h0", "hn"),
        ("h_in", "h_out"),
        ("hidden.prev", "hidden.next"),
        ("past_key", "present_key"),
        ("lstm_c_0", "lstm_c_1"),
    ],
)
def test_state_is_known_by_its_name_and_shape(before: str, after: str) -> None:
    ins = Tensor(before, "float32", (2, None, 128))
    found = got(x(None, 512), ins, outputs=(SCORE, Tensor(after, "float32", (None, None, None))), reset_after_us=1)
    (state,) = found.fields["states"]
    assert (state.input, state.output, state.shape, state.batch_axis) == (before, after, [2, 1, 128], 1)
    assert found.fields["output"] == "score"
    assert found.open == []


def test_an_autoencoder_is_not_taken_for_a_state() -> None:
    found = got(x(None, 8, 2), outputs=(Tensor("x_out", "float32", (None, 8, 2)),))
    assert found.fields["states"] == []
    assert found.fields["output"] == "x_out"


def test_state_without_a_batch_makes_the_batch_one() -> None:
    found = got(
        x(None, 4), Tensor("h", "float32", (1, 8)), outputs=(SCORE, Tensor("hn", "float32", (1, 8))), reset_after_us=1
    )
    assert found.fields["batch"] == 1


def test_the_gap_that_makes_it_forget_is_asked_for_or_follows_from_the_rate() -> None:
    tensors = x(None, 4), Tensor("h", "float32", (1, None, 8))
    outputs = SCORE, Tensor("hn", "float32", (1, None, 8))
    assert "which gap" in got(*tensors, outputs=outputs).open[0]
    assert got(*tensors, outputs=outputs, around=Around(rate_hz=100.0)).fields["reset_after_us"] == 50_000


def test_a_scalar_is_asked_for_a_sample_rate_is_known_from_the_recording() -> None:
    tensors = x(None, 4), Tensor("sr", "int64", ())
    assert got(*tensors).open == ["what is the constant input sr, int64[]? --constant sr=VALUE"]
    assert got(*tensors).fields["constants"] == []
    assert got(*tensors, around=Around(rate_hz=16000.0)).fields["constants"][0].values == [16000.0]
    assert got(*tensors, constants=("sr=8000",)).fields["constants"][0].values == [8000.0]


@pytest.mark.parametrize("text", ["sr=fast", "sr=[1,2]", "sr=true", "sr=", 'sr="1"', "sr=1e999"])
def test_a_constant_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="a constant does not fit its input"):
        got(x(None, 4), Tensor("sr", "int64", ()), constants=(text,))


def test_an_input_per_column_takes_a_channel_each() -> None:
    tensors = [Tensor(name, "float32", (None, 1)) for name in ("flow", "temp")]
    found = got(*tensors, around=Around(1, ("a", "b")))
    assert found.fields["channels"] == ["a"]
    assert [(f.input, f.channels) for f in found.fields["also"]] == [("temp", ["b"])]


def test_several_inputs_are_asked_for() -> None:
    tensors = [Tensor("p", "float32", (None, 4, 1)), Tensor("q", "float32", (None, 4, 2))]
    assert "which inputs are made from the window" in got(*tensors).open[0]
    found = got(*tensors, inputs=("p=a", "q=b,c"), around=Around(4, ("a", "b", "c")))
    assert found.open == []
    assert found.fields["also"][0].channels == ["b", "c"]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"inputs": ("y",)}, "no such input"),
        ({"constants": ("y=1",)}, "a constant names no input"),
        ({"states": ("h=score",)}, "a state must name an input and the output"),
        ({"score": "nothing"}, "no output of the model that gives numbers has this name"),
        ({"layout": "flat"}, r"a flat window is \[batch, numbers\]"),
    ],
)
def test_what_is_said_of_tensors_that_are_not_there_is_refused(said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        got(x(None, 4, 2), **said)


@pytest.mark.parametrize(
    ("score", "name", "pick"),
    [
        ("probabilities:2", "probabilities", {"label": 2, "reduce": None}),
        ("probabilities:max", "probabilities", {"label": None, "reduce": "max"}),
        ("out:0", "out:0", {"label": None, "reduce": None}),
        ("out:0:1", "out:0", {"label": 1, "reduce": None}),
        (None, "probabilities", {"label": None, "reduce": None}),
        (":3", "", {}),
    ],
)
def test_the_score_is_named_with_its_class_or_reduction(score: str | None, name: str, pick: dict[str, Any]) -> None:
    outputs = (
        Tensor("label", "int64", (None,)),
        Tensor("probabilities", "float32", (None, 3)),
        Tensor("out:0", "float32", (None, 2)),
    )
    found = got(x(None, 4), outputs=outputs, score=score)
    if score == ":3":
        assert (found.fields["output"], found.fields["pick"].label) == ("probabilities", 3)
        return
    assert found.fields["output"] == name
    assert {key: getattr(found.fields["pick"], key) for key in pick} == pick


def test_classes_with_names_are_looked_up_by_text() -> None:
    maps = (Tensor("p", "seq(map(string,tensor(float)))", ()),)
    assert got(x(None, 4), outputs=maps, score="p:7").fields["pick"].label == "7"
    maps = (Tensor("p", "seq(map(int64,tensor(float)))", ()),)
    assert got(x(None, 4), outputs=maps, score="p:7").fields["pick"].label == 7


def test_strings_in_or_nothing_but_strings_out_cannot_run_and_say_what_to_change() -> None:
    with pytest.raises(ModelError, match=r"takes strings, .*without its text or category encoder"):
        got(x(None, 4, dtype="object"))
    with pytest.raises(ModelError, match=r"no output of the model gives numbers.*probabilities, distances or scores"):
        got(x(None, 4), outputs=(Tensor("label", "object", (None,)),))
    with pytest.raises(ModelError, match="is no tensor of numbers"):
        got(Tensor("x", "optional(tensor(float))", (None, 4)))
