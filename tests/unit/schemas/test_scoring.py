"""The scorer, on real models and a real runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from edge_filters.io.onnx import OnnxRuntime
from schemas.errors import ModelError
from schemas.manifest import MANIFEST_FILE, load_package
from schemas.scoring import Scorer
from tests.doubles.tiny_model import linear_model, write_package


def scorer(
    folder: Path,
    which: Literal["edge", "heavy"] = "edge",
    change: Callable[[dict[str, Any]], None] = lambda _: None,
    model: bytes | None = None,
) -> Scorer:
    """Scorer of the tiny package, with a changed manifest or another model in its place."""
    write_package(folder)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    change(manifest)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    package = load_package(lambda name: (folder / name).read_bytes(), ("edge", "heavy"))
    half = getattr(package.manifest, which)
    return Scorer(package, which, OnnxRuntime(model or package.files[half.file]))


def windows(*values: float) -> np.ndarray:
    return np.stack([np.full((8, 2), value, np.float32) for value in values])


def test_windows_are_scored_in_their_order(tmp_path: Path) -> None:
    assert scorer(tmp_path).score(windows(1.0, 3.0, 2.0), ["a"] * 3).tolist() == [1.0, 3.0, 2.0]


def test_each_device_is_scaled_by_its_own_scaling_even_within_one_batch(tmp_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["device_scaling"] = {"a": {"centre": [1.0, 1.0], "scale": [2.0, 2.0]}}

    three = windows(3.0, 3.0, 5.0)
    found = scorer(tmp_path, change=change)
    assert found.score(three, ["a", "b", "a"]).tolist() == [1.0, 3.0, 2.0]
    assert found.score(three[[0, 2]], ["a", "a"]).tolist() == [1.0, 2.0]


def test_the_heavy_half_has_a_threshold_and_the_edge_half_none(tmp_path: Path) -> None:
    assert scorer(tmp_path, "heavy").threshold == 2.0
    assert scorer(tmp_path, "edge").threshold == float("inf")


@pytest.mark.parametrize("shape", [(1, 8, 3), (1, 8), (8, 2)])
def test_windows_of_other_channels_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="windows do not fit the model"):
        scorer(tmp_path).score(np.zeros(shape, np.float32), ["a"])


def test_a_model_for_another_window_says_what_it_takes_and_what_it_gets(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"does not fit the window .*model_takes='float32\[None, 5\]'.*\[batch, 2\]'"):
        scorer(tmp_path, model=linear_model(5, 1.0))


def test_an_input_or_output_of_another_name_is_refused(tmp_path: Path) -> None:
    def rename(half: str, field: str) -> Callable[[dict[str, Any]], None]:
        return lambda manifest: manifest[half].update({field: "elsewhere"})

    with pytest.raises(ModelError, match=r"inputs are not what its manifest says .*got=\['features'\]"):
        scorer(tmp_path, change=rename("edge", "input"))
    with pytest.raises(ModelError, match=r"has no such output .*got=\['score'\]"):
        scorer(tmp_path, change=rename("edge", "output"))


def test_a_model_that_gives_other_scores_than_it_was_released_with_fails_its_self_test(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"fails its self-test: .*off_by=1\.0"):
        scorer(tmp_path, model=linear_model(2, 1.0))


def test_scores_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    found = scorer(tmp_path)
    with pytest.raises(ModelError, match="a score that is not finite"):
        found.score(windows(float("nan")), ["a"])


def test_what_is_no_model_is_refused_by_the_runtime(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the model cannot be loaded"):
        scorer(tmp_path, model=b"not a model")
