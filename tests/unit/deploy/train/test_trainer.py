from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deploy.demo.recordings import demo_devices
from deploy.train import TrainingOptions, TrainingReport, train
from deploy.train.models import HeavySize
from edge_filters.io.onnx import OnnxRuntime
from schemas.errors import ConfigError, DecodeError, ModelError
from schemas.manifest import MAX_MANIFEST_BYTES, load_package, within
from schemas.records import SensorBlock
from schemas.scoring import Scorer
from tests.doubles.recording import read_series

from .conftest import MINUTE_US, wave

Write = Callable[..., Path]
SMALL = TrainingOptions(window_readings=8, heavy=HeavySize(trees=20))
ALL_DAY = {"name": "pumps", "cohort": "pumps", "seed": 1, "options": SMALL}


def scorers(folder: Path) -> tuple[Scorer, Scorer]:
    package = load_package(lambda name: (folder / name).read_bytes(), ("edge", "heavy"))
    files = package.files
    return (
        Scorer(package, "edge", OnnxRuntime(files["edge.onnx"])),
        Scorer(package, "heavy", OnnxRuntime(files["heavy.onnx"])),
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# The packages of the demo.


def test_both_models_separate_labelled_windows_clearly_better_than_a_random_and_a_constant_score(
    trained: TrainingReport,
) -> None:
    """Measured: servers edge AUC .80 AP .52, heavy .86 / .55, base rate .10; temperature .72 / .47, .75 / .48, .13."""
    assert trained.evaluation is not None
    figures = trained.evaluation.pooled
    least = {"servers": {"edge_auc": 0.75, "heavy_auc": 0.82}, "temperature": {"edge_auc": 0.69, "heavy_auc": 0.71}}
    for name, value in least[trained.manifest.name].items():
        assert figures[name] > value
    assert abs(figures["random_auc"] - 0.5) < 0.06
    for which in ("edge", "heavy"):
        assert figures[f"{which}_ap"] > 3 * figures["constant_ap"]
        assert figures[f"{which}_ap"] > 3 * figures["random_ap"]


def test_the_heavy_model_is_heavier_and_better_than_the_edge_model(trained: TrainingReport) -> None:
    assert trained.evaluation is not None
    figures = trained.evaluation.pooled
    assert figures["heavy_auc"] > figures["edge_auc"]
    assert figures["heavy_ap"] > figures["edge_ap"]
    assert trained.manifest.heavy.bytes > 100 * trained.manifest.edge.bytes


def test_every_device_is_told_apart_better_than_by_chance_by_the_heavy_model(trained: TrainingReport) -> None:
    assert trained.evaluation is not None
    assert set(trained.evaluation.devices) == set(trained.manifest.device_levels)
    for device, figures in trained.evaluation.devices.items():
        assert figures["heavy_auc"] > 0.6, device
        assert figures["heavy_ap"] > 1.5 * figures["constant_ap"], device


def test_few_normal_windows_are_escalated_and_more_of_the_anomalous_ones(trained: TrainingReport) -> None:
    assert trained.evaluation is not None
    figures = trained.evaluation.pooled
    assert figures["escalated"] < 0.3
    assert figures["escalated_of_anomalous"] > 2.5 * figures["escalated_of_normal"]
    assert figures["confirmed_of_anomalous"] > 5 * figures["confirmed_of_normal"]


def test_the_package_that_was_written_is_taken_by_the_scorers_of_both_sides(trained: TrainingReport) -> None:
    edge, heavy = scorers(trained.folder)
    manifest = trained.manifest
    windows = np.zeros((5, manifest.window_readings, len(manifest.channels)), np.float32)
    assert edge.score(windows, [""] * 5).shape == (5,)
    assert heavy.score(windows, list(manifest.device_scaling)[:1] * 5).shape == (5,)
    assert np.isfinite(heavy.threshold)


def test_levels_of_every_device_lie_in_the_bounds_and_leave_room_on_both_sides(trained: TrainingReport) -> None:
    manifest = trained.manifest
    for device in manifest.device_levels:
        levels = manifest.levels_of(device)
        assert within(manifest.bounds, levels)
        assert manifest.bounds.low < levels.escalate_at < levels.raise_at < manifest.bounds.high


def test_self_tests_are_real_windows_of_the_recordings(trained: TrainingReport) -> None:
    recorded = {
        tuple(np.asarray(w, np.float32).ravel().tolist())
        for d in demo_devices()
        if d.cohort == trained.manifest.cohort
        for w in _windows(d.normal.path, trained.manifest.window_readings)
    }
    for half in (trained.manifest.edge, trained.manifest.heavy):
        for window in half.self_test.windows:
            assert tuple(np.asarray(window, np.float32).ravel().tolist()) in recorded


def _windows(path: Path, readings: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(read_series(path).values, readings, axis=0).swapaxes(1, 2)


def test_the_report_beside_the_package_holds_the_same_figures(trained: TrainingReport) -> None:
    report = json.loads((trained.folder / "report.json").read_text())
    assert trained.evaluation is not None
    assert report["evaluation"]["pooled"]["heavy_auc"] == trained.evaluation.pooled["heavy_auc"]
    assert report["manifest_sha256"] == trained.sha256
    assert trained.manifest.evaluation["heavy_auc"] == pytest.approx(trained.evaluation.pooled["heavy_auc"], rel=1e-5)


def test_the_lineage_names_data_seed_and_libraries_but_no_date(trained: TrainingReport) -> None:
    lineage = trained.manifest.lineage
    data = {key: value for key, value in lineage.items() if key.startswith("data.")}
    assert len(data) == len(trained.manifest.device_scaling)
    assert all(value.startswith("sha256:") for value in data.values())
    assert lineage["seed"] == "2"
    assert {"library.numpy", "library.onnx", "library.scikit-learn"} <= set(lineage)


# What the trainer promises, on small recordings.


def test_the_same_recordings_and_seed_give_the_same_bytes(recording: Write, tmp_path: Path) -> None:
    normal, live = recording(wave(2_000)), recording(wave(900, seed=4), labels=np.arange(900) // 100 % 3 == 2)
    for name in ("a", "b"):
        train([normal], tmp_path / name, live=[live], **ALL_DAY)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_another_seed_or_share_gives_another_package(recording: Write, tmp_path: Path) -> None:
    normal = [recording(wave(2_000))]
    first = train(normal, tmp_path / "a", **ALL_DAY)
    other_seed = train(normal, tmp_path / "b", version=2, **ALL_DAY | {"seed": 2})
    less = dataclasses.replace(SMALL, normal_share=0.5)
    other_share = train(normal, tmp_path / "c", **ALL_DAY | {"options": less})
    assert len({first.sha256, other_seed.sha256, other_share.sha256}) == 3
    assert first.manifest.edge.sha256 == other_seed.manifest.edge.sha256  # nothing random is in it
    assert first.manifest.heavy.sha256 != other_seed.manifest.heavy.sha256
    assert first.manifest.edge.sha256 != other_share.manifest.edge.sha256
    assert other_seed.manifest.version == 2


def test_labels_never_reach_a_model(recording: Write, tmp_path: Path) -> None:
    values = wave(2_000)
    none, all_of_them = (recording(values, labels=np.full(2_000, flag, np.uint8)) for flag in (0, 1))
    without = train([none], tmp_path / "a", **ALL_DAY).manifest
    with_labels = train([all_of_them], tmp_path / "b", **ALL_DAY).manifest
    same = {"lineage"}  # which hashes the recordings as files, labels included
    assert without.model_dump(exclude=same) == with_labels.model_dump(exclude=same)


def test_times_never_reach_a_model(recording: Write, tmp_path: Path) -> None:
    values, later = wave(2_000), 7_777 * MINUTE_US + 2 * MINUTE_US * np.arange(2_000, dtype=np.int64)
    first = train([recording(values)], tmp_path / "a", **ALL_DAY).manifest
    second = train([recording(values, times=later)], tmp_path / "b", **ALL_DAY).manifest
    assert first.model_dump(exclude={"lineage"}) == second.model_dump(exclude={"lineage"})


def test_evaluating_changes_nothing_but_the_evaluation(recording: Write, tmp_path: Path) -> None:
    normal, live = recording(wave(2_000)), recording(wave(800, seed=9), labels=np.arange(800) > 700)
    without = train([normal], tmp_path / "a", **ALL_DAY).manifest
    with_it = train([normal], tmp_path / "b", live=[live], **ALL_DAY).manifest
    assert without.model_dump(exclude={"evaluation"}) == with_it.model_dump(exclude={"evaluation"})
    assert without.evaluation == {}
    assert with_it.evaluation["windows"] == 100


def test_a_channel_that_never_moves_does_no_harm(recording: Write, tmp_path: Path) -> None:
    values = wave(2_000, channels=3)
    values[:, 1] = 42.0
    manifest = train([recording(values)], tmp_path / "p", **ALL_DAY).manifest
    edge, heavy = scorers(tmp_path / "p")
    normal, broken = values[:8][None], values[:8][None].copy()
    broken[0, :, 1] = 60.0
    levels = manifest.levels_of("pump-1")
    assert edge.score(normal, ["pump-1"])[0] < levels.escalate_at < edge.score(broken, ["pump-1"])[0]
    assert heavy.score(normal, ["pump-1"])[0] < heavy.threshold < heavy.score(broken, ["pump-1"])[0]


def test_a_sensor_that_never_moves_at_all_is_normal_until_it_does(recording: Write, tmp_path: Path) -> None:
    values = np.full((2_000, 2), 5.0, np.float32)
    manifest = train([recording(values)], tmp_path / "p", **ALL_DAY).manifest
    edge, heavy = scorers(tmp_path / "p")
    levels = manifest.levels_of("pump-1")
    assert edge.score(values[:8][None], ["pump-1"])[0] < levels.clear_at
    assert edge.score(values[:8][None] + 9, ["pump-1"])[0] > levels.raise_at
    assert heavy.score(values[:8][None], ["pump-1"])[0] < heavy.threshold < heavy.score(values[:8][None] + 9, [""])[0]


def test_rows_that_are_not_finite_are_left_out(recording: Write, tmp_path: Path) -> None:
    values = wave(3_000)
    values[::50, 0] = np.nan
    values[25::50, 1] = np.inf
    train([recording(values)], tmp_path / "p", **ALL_DAY)
    assert scorers(tmp_path / "p")


def test_a_recording_that_is_too_short_says_how_much_is_needed(recording: Write, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"too short to learn from \(device='pump-1', readings=50, .*gapless readings"
    ):
        train([recording(wave(50))], tmp_path / "p", **ALL_DAY)
    assert not (tmp_path / "p").exists()


def test_a_recording_of_one_reading_is_too_short(recording: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too short to learn from"):
        train([recording(wave(1))], tmp_path / "p", **ALL_DAY)


def test_a_truncated_recording_is_a_sentence(recording: Write, tmp_path: Path) -> None:
    path = recording(wave(2_000))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DecodeError, match="the recording is damaged: the file ends inside of a block"):
        train([path], tmp_path / "p", **ALL_DAY)


def test_recordings_of_different_channels_do_not_make_one_model(recording: Write, tmp_path: Path) -> None:
    paths = [recording(wave(2_000)), recording(wave(2_000, channels=3), device="pump-2")]
    with pytest.raises(ConfigError, match=r"the recordings have different channels .*as another cohort"):
        train(paths, tmp_path / "p", **ALL_DAY)


def test_a_recording_of_another_cohort_is_refused(recording: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a recording is of another cohort .*got='fans', want='pumps'"):
        train([recording(wave(2_000), cohort="fans")], tmp_path / "p", **ALL_DAY)


def test_two_recordings_of_one_device_are_refused(recording: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a device has two recordings"):
        train([recording(wave(2_000)), recording(wave(2_000, seed=1))], tmp_path / "p", **ALL_DAY)


def test_no_recording_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is nothing to learn from"):
        train([], tmp_path / "p", **ALL_DAY)


def test_an_unlabelled_recording_cannot_be_evaluated_with(recording: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be evaluated with .*it needs labels"):
        train([recording(wave(2_000))], tmp_path / "p", live=[recording(wave(500))], **ALL_DAY)


def test_a_name_that_no_package_may_have_is_refused(recording: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no package can be made like this: .*letters, digits"):
        train([recording(wave(2_000))], tmp_path / "p", **ALL_DAY | {"name": "a/b"})


def test_a_wide_window_still_fits_into_a_manifest(recording: Write, tmp_path: Path) -> None:
    paths = [recording(wave(3_000, channels=40, seed=i), device=f"pump-{i}") for i in range(3)]
    options = TrainingOptions(window_readings=40, heavy=HeavySize(trees=10))
    report = train(paths, tmp_path / "p", **ALL_DAY | {"options": options})
    assert (tmp_path / "p" / "manifest.json").stat().st_size < MAX_MANIFEST_BYTES
    assert len(report.manifest.edge.self_test.windows) == 2


@pytest.mark.parametrize(
    ("field", "value"), [("normal_share", 0.0), ("normal_share", 1.5), ("escalate_rate", 0.5), ("window_readings", 1)]
)
def test_options_that_make_no_sense_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError):
        TrainingOptions(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [({"seed": -1}, "not a seed"), ({"seed": 1 << 32}, "not a seed"), ({"version": 0}, "count from 1")],
)
def test_what_no_package_can_be_made_with_is_refused_before_anything_is_read(
    tmp_path: Path, wanted: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        train([tmp_path / "not-even-there.avro"], tmp_path / "p", **ALL_DAY | wanted)


def test_a_file_in_place_of_the_package_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("mine")
    with pytest.raises(ConfigError, match="a file is in its place"):
        train([tmp_path / "not-even-there.avro"], tmp_path / "p", **ALL_DAY)


def test_more_components_than_windows_are_refused(recording: Write, tmp_path: Path) -> None:
    options = TrainingOptions(heavy=HeavySize(components=9_999))
    with pytest.raises(ConfigError, match="more components than there are windows"):
        train([recording(wave(2_000))], tmp_path / "p", **ALL_DAY | {"options": options})
    with pytest.raises(ConfigError, match="at least one component"):
        HeavySize(components=0)


def test_a_changed_model_file_is_noticed(recording: Write, tmp_path: Path) -> None:
    train([recording(wave(2_000))], tmp_path / "p", **ALL_DAY)
    file = tmp_path / "p" / "heavy.onnx"
    file.write_bytes(file.read_bytes() + b"\x00")
    with pytest.raises(ModelError, match="not the one its manifest names"):
        scorers(tmp_path / "p")


def test_progress_is_reported_in_order(recording: Write, tmp_path: Path) -> None:
    lines: list[str] = []
    train([recording(wave(2_000))], tmp_path / "p", progress=lines.append, **ALL_DAY)
    assert [line.split()[0] for line in lines] == ["reading", "windows", "one", "fitting", "fitting", "wrote"]


def test_blocks_carry_labels_only_in_their_own_field() -> None:
    """What features and models are given is `values`; a label has no other way into a block."""
    device = demo_devices()[0]
    series = read_series(device.live.path)
    assert series.values.shape[1] == len(device.channels)
    assert "label" not in device.channels
    assert {f.name for f in dataclasses.fields(SensorBlock) if "label" in f.name} == {"labels"}
