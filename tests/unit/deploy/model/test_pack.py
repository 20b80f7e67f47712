"""ONNX files to packages: on the real runtime, over recordings as the product writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.model.levels import Asked, levels_of
from deploy.model.pack import HALVES, Order, pack, write
from deploy.model.recording import scaling_from, shape_of, windows
from deploy.model.said import Said
from edge_filters.assemble import build_scorer
from schemas.errors import ConfigError, DecodeError, ModelError, TidegateError
from schemas.manifest import Levels, load_package
from tests.doubles import odd_models, recording
from tests.doubles.packages import scorer

LEVELS = Levels(escalate_at=2.0, raise_at=3.0, clear_at=1.0)


def order(tmp_path: Path, *models: bytes, said: dict[str, Any] | None = None, **changes: Any) -> Order:
    files = []
    for at, data in enumerate(models):
        files.append(tmp_path / f"given-{at}.onnx")
        files[-1].write_bytes(data)
    told = dict.fromkeys(HALVES, Said(**(said or {})))
    given: dict[str, Any] = {"levels": LEVELS, "threshold": 5.0} | changes
    asked = {key: given.pop(key) for key in Asked.__dataclass_fields__ if key in given}
    return Order(name="odd", files=tuple(files), said=told, asked=Asked(**asked), **given)


def test_one_model_is_both_halves_and_one_file(tmp_path: Path) -> None:
    packed = pack(order(tmp_path, odd_models.mean_of(["b", 4, 2])))
    manifest = packed.package.manifest
    assert (manifest.window_readings, manifest.channels) == (4, ["c0", "c1"])
    assert manifest.edge.file == manifest.heavy.file == "model.onnx"
    assert list(packed.package.files) == ["model.onnx"]
    assert (manifest.levels, manifest.heavy.threshold, manifest.edge.threshold) == (LEVELS, 5.0, None)


def test_two_models_are_two_files_and_what_is_written_is_what_an_edge_takes(tmp_path: Path) -> None:
    packed = pack(order(tmp_path, odd_models.mean_of(["b", 8]), odd_models.mean_of(["b", 4, 2]), channels=("p", "q")))
    write(packed.package, tmp_path / "out")
    loaded = load_package(lambda name: (tmp_path / "out" / name).read_bytes(), HALVES)
    assert loaded.sha256 == packed.package.sha256
    assert (loaded.manifest.edge.layout, loaded.manifest.heavy.layout) == ("flat", "rows")
    window = np.full((1, 4, 2), 2.5, np.float32)
    assert build_scorer(loaded).score(window, ["x"]).tolist() == [2.5]


def test_packing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    rec = recording.write(tmp_path / "rec.avro", np.sin(np.arange(200)).tolist())
    made = [
        pack(order(tmp_path, odd_models.mean_of(["b", 4, 2]), levels=None, scale_from=(rec,), recordings=(rec,)))
        for _ in range(2)
    ]
    assert made[0].package.manifest_bytes == made[1].package.manifest_bytes


def test_scaling_and_thresholds_come_from_recordings_at_the_stated_share(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rec = recording.write(tmp_path / "rec.avro", (7 + 2 * rng.standard_normal(8_000)).tolist(), per_block=100)
    packed = pack(
        order(
            tmp_path,
            odd_models.mean_of(["b", 4, 2]),
            levels=None,
            threshold=None,
            scale_from=(rec,),
            recordings=(rec,),
            share=0.1,
        )
    )
    manifest = packed.package.manifest
    assert manifest.scaling.centre == pytest.approx([7.0, 7.0], abs=0.1)
    assert manifest.scaling.scale == pytest.approx([2.0, 2.0], rel=0.05)
    found = scorer(packed.package)
    scores = np.concatenate([found.score(w.values[None], [d]) for d, w in windows(rec, 4, manifest.channels)])
    assert np.mean(scores >= manifest.levels.escalate_at) == pytest.approx(0.1, abs=0.002)
    assert np.mean(scores >= manifest.levels.raise_at) == pytest.approx(0.01, abs=0.002)
    assert manifest.heavy.threshold is not None
    assert np.mean(scores >= manifest.heavy.threshold) == pytest.approx(0.02, abs=0.002)
    assert manifest.cohort == "pumps"
    assert set(manifest.lineage) == {"packed_from", "scaling.0", "levels.0", "share", "heavy_share"}


def test_the_self_test_of_a_model_with_state_holds_the_state_against_what_was_released(tmp_path: Path) -> None:
    rec = recording.write(tmp_path / "rec.avro", list(range(40)), channels=("a",))
    packed = pack(order(tmp_path, odd_models.running_sum(), recordings=(rec,), levels=None))
    test = packed.package.manifest.edge.self_test
    assert test.scores == [6.0, 28.0, 66.0, 120.0]  # 0+1+2+3, and so on: each goes on from the one before
    assert packed.package.manifest.heavy.self_test.scores == [6.0, 22.0, 38.0, 54.0]
    assert packed.package.manifest.edge.reset_after_us == 5_000_000


@pytest.mark.parametrize("batch", ["b", 1, 3])
def test_state_is_carried_whatever_the_batch(tmp_path: Path, batch: Any) -> None:
    data = odd_models.running_sum(batch=batch)
    found = scorer(pack(order(tmp_path, data, said={"reset_after_us": 10})).package)
    ones = np.ones((5, 4, 1), np.float32)
    assert found.score(ones, ["a", "b", "a", "c", "a"]).tolist() == [4.0, 4.0, 8.0, 4.0, 12.0]


def test_a_model_that_fails_on_the_window_says_what_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the model failed .*window_readings=5.*--window, --layout and --context"):
        pack(order(tmp_path, odd_models.one_at_a_time(None), window_readings=5))


def test_a_batch_that_is_only_said_to_be_free_is_found_out(tmp_path: Path) -> None:
    packed = pack(order(tmp_path, odd_models.one_at_a_time()))
    assert packed.package.manifest.edge.batch == 1
    assert any("several windows in a call do not work" in note for note in packed.understood["edge"].notes)


def test_a_reconstruction_is_scored_by_its_error(tmp_path: Path) -> None:
    packed = pack(order(tmp_path, odd_models.half_of_it()))
    assert packed.package.manifest.edge.pick.reduce == "error"
    assert scorer(packed.package).score(np.full((1, 4, 2), 4.0, np.float32), ["x"]).tolist() == [4.0]


def test_integers_go_in_as_integers(tmp_path: Path) -> None:
    packed = pack(order(tmp_path, odd_models.byte_counter()))
    assert packed.package.manifest.edge.dtype == "int32"
    window = np.array([[[0.0], [101.0], [255.0], [99.6]]], np.float32)
    assert scorer(packed.package).score(window, ["x"]).tolist() == [2.0]


def test_several_inputs_and_a_constant(tmp_path: Path) -> None:
    said = {"inputs": ("a=q", "b=p"), "constants": ("gain=100",)}
    packed = pack(order(tmp_path, odd_models.weighted(), said=said, channels=("p", "q")))
    window = np.stack([np.full(4, 1.0), np.full(4, 7.0)], axis=1)[None].astype(np.float32)
    assert scorer(packed.package).score(window, ["x"]).tolist() == [107.0]


@pytest.mark.parametrize(
    ("data", "family", "sentence"),
    [
        (odd_models.takes_strings(), ModelError, r"takes strings, .*text or category encoder"),
        (odd_models.gives_strings(), ModelError, r"no output of the model gives numbers"),
        (odd_models.unknown_operator(), ModelError, r"does not take the model .*standard operators only"),
        (odd_models.dice(), ModelError, r"another score for the same window .*without dropout"),
        (b"PK\x03\x04", ModelError, r"no ONNX file"),
        (odd_models.mean_of(["b", None, 2]), ConfigError, r"how many readings are a window\? .*--window N"),
        (odd_models.first_number(["b", 6]), None, ""),
        (odd_models.mean_of(["b", 2, 2, 2]), ModelError, r"no place for a window"),
    ],
)
def test_what_cannot_run_says_why_and_what_to_change(
    tmp_path: Path, data: bytes, family: type[TidegateError] | None, sentence: str
) -> None:
    if family is None:  # two numbers: the second class, with a note
        notes = pack(order(tmp_path, data)).understood["edge"].notes
        assert any("the second class" in note for note in notes)
        return
    with pytest.raises(family, match=sentence):
        pack(order(tmp_path, data))


def test_without_levels_or_a_recording_it_asks_for_one_of_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing says from which score on .*--levels-from .* or --escalate-at"):
        pack(order(tmp_path, odd_models.mean_of(["b", 4, 2]), levels=None))


def test_recordings_that_do_not_fit_are_refused_with_their_name(tmp_path: Path) -> None:
    one = recording.write(tmp_path / "one.avro", [1.0] * 50)
    other = recording.write(tmp_path / "other.avro", [1.0] * 50, channels=("a", "c"))
    model = odd_models.mean_of(["b", 4, 2])
    with pytest.raises(ConfigError, match=r"different channels .*other\.avro"):
        pack(order(tmp_path, model, scale_from=(one, other)))
    with pytest.raises(ConfigError, match=r"cannot be read .*nowhere\.avro"):
        pack(order(tmp_path, model, scale_from=(tmp_path / "nowhere.avro",)))
    short = recording.write(tmp_path / "short.avro", [1.0] * 3)
    with pytest.raises(ConfigError, match=r"no whole window .*short\.avro"):
        pack(order(tmp_path, model, levels=None, recordings=(short,)))
    (tmp_path / "torn.avro").write_bytes(one.read_bytes()[:-20])
    with pytest.raises(DecodeError, match=r"torn\.avro"):
        pack(order(tmp_path, model, levels=None, recordings=(tmp_path / "torn.avro",)))


def test_a_window_too_large_for_a_manifest_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"window is too large for a package.*--frame"):
        pack(order(tmp_path, odd_models.mean_of(["b", 20_000])))


def test_where_every_window_scores_the_same_the_heavy_model_calls_none_of_them_anomalous(tmp_path: Path) -> None:
    rec = recording.write(tmp_path / "rec.avro", [0.3] * 80)
    packed = pack(order(tmp_path, odd_models.mean_of(["b", 4, 2]), levels=None, threshold=None, recordings=(rec,)))
    threshold = packed.package.manifest.heavy.threshold
    assert threshold is not None
    assert scorer(packed.package, "heavy").score(np.full((1, 4, 2), 0.3, np.float32), ["x"])[0] < threshold < 0.31


@pytest.mark.parametrize("scores", [np.zeros(100), np.full(100, 0.5), np.array([0.0] * 99 + [1.0]), -np.ones(10)])
def test_where_most_scores_are_one_number_the_ordinary_window_stays_below_the_levels(scores: np.ndarray) -> None:
    levels, bounds = levels_of(scores, 0.05)
    assert np.median(scores) < levels.clear_at <= levels.escalate_at <= levels.raise_at
    assert bounds.low <= levels.escalate_at
    assert levels.raise_at <= bounds.high


def test_scaling_leaves_a_channel_that_never_moves_and_skips_what_is_not_finite(tmp_path: Path) -> None:
    still = recording.write(tmp_path / "still.avro", [5.0] * 100)
    assert scaling_from([still]).scale == [1.0, 1.0]
    holes = recording.write(tmp_path / "holes.avro", [1.0, float("nan"), 3.0] * 40)
    assert scaling_from([holes]).centre == [2.0, 2.0]
    nothing = recording.write(tmp_path / "nothing.avro", [float("nan")] * 10)
    with pytest.raises(ConfigError, match="no reading of the recordings is finite"):
        scaling_from([nothing])


def test_a_long_recording_is_sampled_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.model.recording.SAMPLE_ROWS", 50)
    rec = recording.write(tmp_path / "long.avro", list(range(1_000)), per_block=7)
    assert scaling_from([rec]).centre == pytest.approx([500.0, 500.0], abs=15)


def test_the_rate_is_not_moved_by_times_that_are_rounded_to_microseconds(tmp_path: Path) -> None:
    times = (np.arange(512) * 1e6 / 16_000).astype(np.int64) + recording.T0
    rec = recording.write(tmp_path / "audio.avro", [0.0] * 512, times=times.tolist(), per_block=512)
    rate = shape_of([rec]).rate_hz
    assert rate is not None
    assert round(rate) == 16_000
