from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_filters.io.onnx import OnnxRuntime
from schemas.errors import ModelError
from schemas.manifest import (
    MAX_MANIFEST_BYTES,
    Bounds,
    Levels,
    Manifest,
    load_package,
    parse_manifest,
    within,
)
from schemas.scoring import Scorer
from tests.doubles.tiny_model import write_package


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_package(tmp_path / "tiny")


@pytest.fixture
def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def parsed(manifest: dict[str, Any]) -> Manifest:
    return parse_manifest(json.dumps(manifest).encode())


def at(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change: the value at a dotted path; ... removes it."""

    def change(manifest: dict[str, Any]) -> None:
        *way, last = path.split(".")
        place = manifest
        for step in way:
            place = place[step]
        if value is ...:
            del place[last]
        else:
            place[last] = value

    return change


def test_a_valid_manifest_is_taken(manifest: dict[str, Any]) -> None:
    assert parsed(manifest).name == "tiny"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (at("format", "tidegate-model/2"), r"at \$\.format"),
        (at("surprise", 1), r"Extra inputs are not permitted at \$\.surprise"),
        (at("edge.surprise", 1), r"at \$\.edge\.surprise"),
        (at("name", ...), r"Field required at \$\.name"),
        (at("name", "../tiny"), r"letters, digits and \._- at \$\.name"),
        (at("version", 0), r"at \$\.version"),
        (at("version", "1"), r"at \$\.version"),
        (at("channels", []), r"at \$\.channels"),
        (at("window_readings", 7), r"self-test windows must be 7 x 2"),
        (at("edge.file", "../edge.onnx"), r"a plain name beside the manifest at \$\.edge\.file"),
        (at("edge.file", "manifest.json"), r"a plain name beside the manifest at \$\.edge\.file"),
        (at("edge.sha256", "XYZ"), r"at \$\.edge\.sha256"),
        (at("edge.bytes", 0), r"at \$\.edge\.bytes"),
        (at("edge.feed", "tea"), r"at \$\.edge\.feed"),
        (at("heavy.threshold", None), r"heavy\.threshold is missing"),
        (at("scaling.scale", [1.0, 0.0]), r"scaling: .*no scale of 0"),
        (at("scaling.centre", [1.0]), r"one entry per channel \(2\)"),
        (at("device_scaling", {"pump-1": {"centre": [0.0], "scale": [1.0]}}), r"pump-1: centre and scale"),
        (at("levels.raise_at", 0.9), r"clear_at <= escalate_at <= raise_at at \$\.levels"),
        (at("bounds.high", 1.5), r"levels: the levels lie outside of the bounds"),
        (at("edge.self_test.scores", [1.0, 2.0]), r"with a score each"),
        (at("edge.self_test.windows", []), r"at \$\.edge\.self_test\.windows"),
        (at("edge.self_test.tolerance", 0.0), r"at \$\.edge\.self_test\.tolerance"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused_with_the_place(
    manifest: dict[str, Any], change: Callable[[dict[str, Any]], None], sentence: str
) -> None:
    change(manifest)
    with pytest.raises(ModelError, match=rf"manifest is not valid: .*{sentence}"):
        parsed(manifest)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
@pytest.mark.parametrize("field", ["escalate_at", "raise_at"])
def test_numbers_that_are_not_finite_are_refused(manifest: dict[str, Any], number: str, field: str) -> None:
    text = json.dumps(manifest).replace(f'"{field}": ', f'"{field}": {number}, "was": ', 1)
    with pytest.raises(ModelError):
        parse_manifest(text.encode())


def test_all_problems_are_told_at_once(manifest: dict[str, Any]) -> None:
    at("version", 0)(manifest)
    at("edge.bytes", -1)(manifest)
    with pytest.raises(ModelError) as caught:
        parsed(manifest)
    assert "$.version" in str(caught.value)
    assert "$.edge.bytes" in str(caught.value)


@given(st.binary(max_size=100) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_a_manifest_or_a_model_error(data: bytes) -> None:
    with pytest.raises(ModelError):
        parse_manifest(data)


def test_deeply_nested_json_is_a_model_error() -> None:
    with pytest.raises(ModelError):
        parse_manifest(b"[" * 50_000 + b"]" * 50_000)


def test_a_manifest_above_its_limit_is_not_even_parsed() -> None:
    with pytest.raises(ModelError, match=rf"manifest is too large .*max_bytes={MAX_MANIFEST_BYTES}"):
        parse_manifest(b" " * (MAX_MANIFEST_BYTES + 1))


def test_a_device_has_its_own_levels_and_scaling_or_those_of_the_package(manifest: dict[str, Any]) -> None:
    manifest["device_levels"] = {"pump-1": {"escalate_at": 3.0, "raise_at": 4.0, "clear_at": 2.0}}
    manifest["device_scaling"] = {"pump-1": {"centre": [5.0, 5.0], "scale": [2.0, 2.0]}}
    both = parsed(manifest)
    assert both.levels_of("pump-1").escalate_at == 3.0
    assert both.levels_of("pump-2") == both.levels
    assert both.scaling_of("pump-1").centre == [5.0, 5.0]
    assert both.scaling_of("pump-2") == both.scaling


def read_from(folder: Path) -> Callable[[str], bytes]:
    return lambda name: (folder / name).read_bytes()


def test_a_package_is_read_with_only_the_halves_that_are_asked_for(folder: Path) -> None:
    (folder / "heavy.onnx").unlink()
    package = load_package(read_from(folder), ("edge",))
    assert list(package.files) == ["edge.onnx"]
    assert package.sha256 == hashlib.sha256((folder / "manifest.json").read_bytes()).digest()


def test_a_missing_half_is_named(folder: Path) -> None:
    (folder / "heavy.onnx").unlink()
    with pytest.raises(ModelError, match=r"a file of the package is missing \(file='heavy\.onnx'"):
        load_package(read_from(folder), ("edge", "heavy"))


def test_a_folder_without_a_manifest_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no manifest\.json in the model folder .*a folder with a manifest"):
        load_package(read_from(tmp_path), ("edge",))


@pytest.mark.parametrize(
    "change", [lambda data: data + b"\x00", lambda data: data[:-1], lambda data: b"\xff" + data[1:]]
)
def test_a_file_that_was_changed_is_refused(folder: Path, change: Callable[[bytes], bytes]) -> None:
    file = folder / "edge.onnx"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ModelError, match=r"not the one its manifest names \(file='edge\.onnx'"):
        load_package(read_from(folder), ("edge",))


@pytest.mark.parametrize(
    ("escalate_at", "raise_at", "inside"),
    [(1.0, 2.0, True), (0.1, 10.0, True), (0.05, 2.0, False), (1.0, 10.5, False)],
)
def test_levels_are_within_bounds_or_not(escalate_at: float, raise_at: float, inside: bool) -> None:
    levels = Levels(escalate_at=escalate_at, raise_at=raise_at, clear_at=0.0)
    assert within(Bounds(low=0.1, high=10.0), levels) is inside


GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "model_package.v1"


def test_a_package_of_the_first_release_is_taken_scores_as_then_and_is_written_again_byte_for_byte() -> None:
    package = load_package(lambda name: (GOLDEN / name).read_bytes(), ("edge", "heavy"))
    assert package.sha256.hex() == "e573574078067e12d96335bd4ca37d670dbd109546f7e00243a74d9695673c7f"
    again = json.dumps(package.manifest.model_dump(mode="json"), sort_keys=True, indent=1, allow_nan=False) + "\n"
    assert again.encode() == package.manifest_bytes
    window = np.full((1, 4, 2), 3.0, np.float32)
    edge = Scorer(package, "edge", OnnxRuntime(package.files["edge.onnx"]))
    heavy = Scorer(package, "heavy", OnnxRuntime(package.files["heavy.onnx"]))
    assert edge.score(window, ["pump-2"]).tolist() == heavy.score(window, ["pump-2"]).tolist() == [3.0]
    assert edge.score(window, ["pump-1"]).tolist() == [2.125]  # mean of (3 - 1) / 0.5 and (3 - 2) / 4


#: Each later field of a half: a value that is not its default.
LATER: dict[str, Any] = {
    "layout": "channels",
    "dtype": "int32",
    "channels": ["c0"],
    "scaled": False,
    "also": [{"input": "other", "feed": "window", "statistics": [], "layout": "flat", "scaled": False}],
    "constants": [{"input": "sr", "dtype": "int64", "shape": [], "values": [16000.0]}],
    "states": [{"input": "h", "output": "hn", "dtype": "float32", "shape": [1, 1, 8], "batch_axis": 1}],
    "pick": {"label": 1, "reduce": None, "flip": "negate"},
    "batch": 1,
    "frame_readings": 4,
    "over_frames": "mean",
    "context_readings": 2,
    "reset_after_us": 1_000,
}


def test_later_fields_are_written_only_where_they_say_something(manifest: dict[str, Any]) -> None:
    before = set(parsed(manifest).model_dump(mode="json")["edge"])
    manifest["edge"] |= {"feed": "window", "statistics": []} | LATER
    edge = parsed(manifest).model_dump(mode="json")["edge"]
    assert set(edge) - before == set(LATER)
    assert {name: edge[name] for name in LATER} == LATER
    assert parsed(manifest | {"edge": edge}) == parsed(manifest)


@pytest.mark.parametrize(
    ("half", "sentence"),
    [
        ({"states": LATER["states"]}, "needs reset_after_us"),
        ({"context_readings": 1, "feed": "window"}, "needs reset_after_us"),
        ({"frame_readings": 4}, "frames and context are for models that are fed windows"),
        ({"frame_readings": 3, "feed": "window"}, "a window of 8 readings is no whole number of frames"),
        ({"context_readings": 9, "reset_after_us": 1, "feed": "window"}, "context_readings must not be longer"),
        ({"channels": ["nowhere"]}, "fed from unknown channels: nowhere"),
        ({"also": [{"input": "features", "feed": "window"}]}, "an input is fed twice: features"),
        ({"constants": [{"input": "k", "dtype": "int64", "shape": [2], "values": [1.0]}]}, r"shape \[2\] has 2 values"),
        ({"states": [LATER["states"][0] | {"batch_axis": 2}], "reset_after_us": 1}, "has 1 where its batch stands"),
        ({"states": [LATER["states"][0] | {"shape": [1, 1, 2**20 + 1]}], "reset_after_us": 1}, "numbers at most"),
        ({"pick": {"label": 1, "reduce": "max"}}, "either a label or a reduction"),
        ({"batch": 0}, r"at \$\.edge\.batch"),
        ({"dtype": "complex64"}, r"at \$\.edge\.dtype"),
    ],
)
def test_a_half_that_cannot_be_fed_is_refused(manifest: dict[str, Any], half: dict[str, Any], sentence: str) -> None:
    manifest["edge"] |= half
    with pytest.raises(ModelError, match=rf"manifest is not valid: .*{sentence}"):
        parsed(manifest)
