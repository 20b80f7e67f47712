"""The trainer on recordings that nothing is known of: whatever their shape, a package or a sentence."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deploy.train import TrainingOptions, TrainingReport, train
from deploy.train.alarms import FalseAlarms
from deploy.train.models import HeavySize
from edge_filters.io.onnx import OnnxRuntime
from schemas.container import ContainerWriter, read
from schemas.errors import ConfigError
from schemas.manifest import MAX_MANIFEST_BYTES, load_package
from schemas.records import SensorBlock
from schemas.scoring import Scorer

from .conftest import MINUTE_US, wave

Write = Callable[..., Path]
PLAIN = TrainingOptions(mixed=True, learn_share=0.7, false_alarms=FalseAlarms.parse("0.5%"), heavy=HeavySize(trees=10))


def plain(paths: list[Path], out: Path, **options: object) -> TrainingReport:
    return train(paths, out, name="any", seed=1, options=dataclasses.replace(PLAIN, **options))  # type: ignore[arg-type]


def notes_of(report: TrainingReport) -> str:
    return "\n".join(report.notes)


def score(report: TrainingReport, windows: np.ndarray, device: str = "pump-1") -> tuple[np.ndarray, np.ndarray]:
    package = load_package(lambda name: (report.folder / name).read_bytes(), ("edge", "heavy"))
    who = [device] * len(windows)
    return tuple(  # type: ignore[return-value]
        Scorer(package, half, OnnxRuntime(package.files[f"{half}.onnx"])).score(windows.astype(np.float32), who)
        for half in ("edge", "heavy")
    )


@pytest.mark.parametrize(("rows", "channels"), [(1_000, 1), (1_000, 100), (300, 3), (6_000, 17)])
def test_defaults_do_for_any_number_of_rows_and_channels(
    recording: Write, tmp_path: Path, rows: int, channels: int
) -> None:
    report = plain([recording(wave(rows, channels))], tmp_path / "p")
    assert (report.folder / "manifest.json").stat().st_size < MAX_MANIFEST_BYTES
    assert report.evaluation is not None
    assert report.evaluation.pooled["windows"] > 0
    assert len(report.manifest.channels) == channels


@pytest.mark.parametrize(("step_us", "readings"), [(500, 64), (20_000, 64), (50_000, 32), (MINUTE_US, 16)])
def test_a_faster_signal_gets_longer_windows(recording: Write, tmp_path: Path, step_us: int, readings: int) -> None:
    times = np.arange(6_000, dtype=np.int64) * step_us
    report = plain([recording(wave(6_000), times=times)], tmp_path / "p")
    assert report.manifest.window_readings == readings
    assert f"windows of {readings} readings (" in notes_of(report)


def test_a_short_recording_gets_shorter_windows_and_says_why(recording: Write, tmp_path: Path) -> None:
    report = plain([recording(wave(400))], tmp_path / "p")
    assert report.manifest.window_readings == 8
    assert "fewer than usual, because there are only 280 readings to learn from" in notes_of(report)


def test_gaps_that_leave_no_longer_window_make_shorter_ones(recording: Write, tmp_path: Path) -> None:
    rows = np.arange(6_000)
    times = (rows + 100 * (rows // 10)) * MINUTE_US  # ten readings, then a long pause
    report = plain([recording(wave(6_000), times=times)], tmp_path / "p")
    assert report.manifest.window_readings == 8
    assert "because gaps and the length of the recordings leave too few longer ones" in notes_of(report)


def test_missing_values_everywhere_are_left_out_as_an_edge_does_and_said(recording: Write, tmp_path: Path) -> None:
    values = wave(5_000, 3)
    values[np.random.default_rng(0).random(5_000) < 0.4, 1] = np.nan
    report = plain([recording(values)], tmp_path / "p")
    assert "hold a missing value and are left out, as an edge leaves them out; most are missing in c1 (" in notes_of(
        report
    )
    assert report.manifest.window_readings == 16


def test_a_channel_without_any_value_is_refused_by_name(recording: Write, tmp_path: Path) -> None:
    values = wave(2_000, 3)
    values[:, 2] = np.nan
    with pytest.raises(ConfigError, match=r"no row of the recording is complete .*c2 \(100\.0% of rows\).*--exclude"):
        plain([recording(values)], tmp_path / "p")


def test_channels_that_never_move_are_named_and_harmless_until_they_do(recording: Write, tmp_path: Path) -> None:
    values = wave(3_000, 3)
    values[:, 1] = 7.0
    report = plain([recording(values)], tmp_path / "p")
    assert "c1 never moves in these recordings" in notes_of(report)
    moved = values[None, :16].copy()
    moved[0, :, 1] = 20.0
    assert score(report, moved)[0] > report.manifest.levels_of("pump-1").raise_at > score(report, values[None, :16])[0]


def test_a_recording_in_which_nothing_moves_is_normal_until_it_does(recording: Write, tmp_path: Path) -> None:
    values = np.full((1_000, 2), -3.5, np.float32)
    report = plain([recording(values)], tmp_path / "p")
    levels, heavy_at = report.manifest.levels_of("pump-1"), report.manifest.heavy.threshold
    assert heavy_at is not None
    edge, heavy = score(report, np.stack([values[:16], values[:16] + 9]))
    assert edge[0] < levels.clear_at <= levels.raise_at < edge[1]
    assert heavy[0] < heavy_at < heavy[1]


def test_a_channel_that_only_goes_up_is_called_what_it_is(recording: Write, tmp_path: Path) -> None:
    values = wave(2_000, 2)
    values[:, 1] = np.arange(2_000)
    report = plain([recording(values)], tmp_path / "p")
    assert "pump-1: c1 only ever goes up. A clock, a row number" in notes_of(report)


def test_values_at_the_edge_of_what_a_float_holds_are_learned_from(recording: Write, tmp_path: Path) -> None:
    values = wave(2_000, 2) * np.float32(1e38)
    values[::200] = 3.3e38
    values[100::200] = -3.3e38
    report = plain([recording(values)], tmp_path / "p")
    assert np.isfinite(score(report, values[None, :16])).all()


def test_a_large_level_does_not_blind_a_small_signal(recording: Write, tmp_path: Path) -> None:
    values = (wave(3_000, 1).astype(np.float64) + 1_234_567.0).astype(np.float32)
    report = plain([recording(values)], tmp_path / "p")
    edge, _ = score(report, np.stack([values[:16], values[:16] + 8]))
    assert edge[0] < report.manifest.levels_of("pump-1").raise_at < edge[1]


@pytest.mark.parametrize("rows", [1, 2, 60])
def test_too_few_readings_are_refused_with_how_many_are_needed(recording: Write, tmp_path: Path, rows: int) -> None:
    with pytest.raises(ConfigError, match=r"too short to learn from \(device='pump-1'.*gapless readings"):
        plain([recording(wave(rows))], tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_anomalies_everywhere_leave_nothing_to_learn_from(recording: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"too short to learn from .*labelled_windows_left_out="):
        plain([recording(wave(2_000), labels=np.ones(2_000, np.uint8))], tmp_path / "p")


def test_times_that_stand_still_are_one_stretch_and_allow_no_rate_in_time(recording: Write, tmp_path: Path) -> None:
    path = recording(wave(2_000), times=np.zeros(2_000, np.int64))
    assert plain([path], tmp_path / "p").manifest.window_readings == 16
    with pytest.raises(ConfigError, match="a rate in time needs recordings in which time goes forward"):
        plain([path], tmp_path / "q", false_alarms=FalseAlarms.parse("1/day"))


def test_a_window_too_wide_for_the_manifest_is_refused_before_any_work(recording: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"too many numbers for the self-test .*at most 40 readings"):
        plain([recording(wave(2_000, 100))], tmp_path / "p", window_readings=41)


def test_a_device_may_be_in_several_recordings_in_any_order(recording: Write, tmp_path: Path) -> None:
    values, times = wave(4_000), np.arange(4_000, dtype=np.int64) * MINUTE_US
    first, second = (recording(values[part], times=times[part]) for part in (slice(0, 1_500), slice(1_500, None)))
    whole = plain([recording(values, times=times)], tmp_path / "a")
    joined = plain([second, first], tmp_path / "b")
    assert joined.manifest.lineage["data.pump-1"].count("sha256:") == 2
    differ = {"lineage"}
    assert joined.manifest.model_dump(exclude=differ) == whole.manifest.model_dump(exclude=differ)


def test_one_recording_may_hold_several_devices(recording: Write, tmp_path: Path) -> None:
    devices = {f"pump-{i}": wave(2_000, seed=i) for i in (1, 2)}
    path = tmp_path / "both.avro"
    with path.open("wb") as file:
        writer = ContainerWriter(file, SensorBlock)
        for seq, at in enumerate(range(0, 2_000, 50)):
            for name, values in devices.items():
                times = (np.arange(at, at + 50) * MINUTE_US).astype("<i8")
                writer.write(
                    SensorBlock(
                        device_id=name,
                        boot_epoch=1,
                        seq=seq,
                        cohort="pumps",
                        channels=["c0", "c1"],
                        event_times=times.tobytes(),
                        values=values[at : at + 50].astype("<f4").tobytes(),
                    )
                )
        writer.close()
    apart = [recording(values, device=name) for name, values in devices.items()]
    differ = {"lineage"}
    together = plain([path], tmp_path / "a").manifest
    assert set(together.device_levels) == set(devices)
    assert together.model_dump(exclude=differ) == plain(apart, tmp_path / "b").manifest.model_dump(exclude=differ)


def test_the_same_recording_twice_is_refused(recording: Write, tmp_path: Path) -> None:
    path = recording(wave(2_000))
    with pytest.raises(ConfigError, match="a recording is given twice"):
        plain([path, path], tmp_path / "p")


def test_a_device_that_changes_its_channels_is_refused(recording: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a device changes its channels or its cohort"):
        plain([recording(wave(2_000)), recording(wave(2_000, channels=3))], tmp_path / "p")


def test_labels_only_leave_windows_out_and_are_no_input(recording: Write, tmp_path: Path) -> None:
    values, labels = wave(3_000), np.zeros(3_000, np.uint8)
    labels[2_500:2_600] = 1  # in the part that is evaluated: nothing of it is learned
    values[2_500:2_600] += 3.0
    marked = plain([recording(values, labels=labels)], tmp_path / "a")
    unmarked = plain([recording(values, labels=np.zeros(3_000, np.uint8))], tmp_path / "b")
    differ = {"lineage", "evaluation"}
    assert marked.manifest.model_dump(exclude=differ) == unmarked.manifest.model_dump(exclude=differ)
    assert marked.evaluation is not None
    assert marked.evaluation.pooled["heavy_auc"] > 0.9

    for part in (slice(450, 480), slice(700, 780)):  # of the rows that are held out, and of those that are fitted on
        labels[part] = 1
        values[part] = 50.0
    clean = plain([recording(values, labels=labels)], tmp_path / "c")
    assert "windows with a labelled anomaly are left out" in notes_of(clean)
    kept = plain([recording(values, labels=np.zeros(3_000, np.uint8))], tmp_path / "d")
    assert clean.manifest.scaling.scale[0] < kept.manifest.scaling.scale[0]
    assert clean.manifest.levels.raise_at < kept.manifest.levels.raise_at


def test_nothing_after_the_learned_share_changes_the_models(recording: Write, tmp_path: Path) -> None:
    values = wave(3_000)
    other = values.copy()
    other[2_150:] = np.random.default_rng(3).normal(9.0, 4.0, (850, 2))
    one, two = (plain([recording(v)], tmp_path / name) for name, v in (("a", values), ("b", other)))
    differ = {"lineage", "evaluation"}
    assert one.manifest.model_dump(exclude=differ) == two.manifest.model_dump(exclude=differ)


def test_recordings_without_labels_count_alarms_and_claim_nothing_else(recording: Write, tmp_path: Path) -> None:
    report = plain([recording(wave(4_000))], tmp_path / "p")
    assert report.evaluation is not None
    assert {"windows", "escalated", "raised", "confirmed"} <= set(report.evaluation.pooled)
    assert not any("auc" in name for name in report.evaluation.pooled)
    page = (tmp_path / "p" / "report.html").read_text()
    assert "alarms can be counted here, not judged" in page


def test_about_as_many_normal_windows_are_alarms_as_was_stated(recording: Write, tmp_path: Path) -> None:
    report = plain([recording(wave(60_000, 1))], tmp_path / "p", false_alarms=FalseAlarms.parse("2%"))
    assert report.evaluation is not None
    found = report.evaluation.pooled
    assert 0.005 < found["raised"] < 0.05
    assert 0.005 < found["confirmed"] < 0.05


def test_later_readings_that_are_unlike_what_was_learned_from_are_called_that(recording: Write, tmp_path: Path) -> None:
    values = wave(4_000)
    alike = plain([recording(values)], tmp_path / "a")
    assert "not like those learned from" not in notes_of(alike)
    values[2_900:] += 3.0
    report = plain([recording(values)], tmp_path / "b")
    assert "pump-1: of the later windows " in notes_of(report)
    assert "% raise the edge's alarm (made for 0.005 of them) and " in notes_of(report)
    assert "they are not like those learned from" in notes_of(report)


def test_the_page_needs_nothing_else_and_escapes_what_recordings_say(recording: Write, tmp_path: Path) -> None:
    values, labels = wave(3_000), (np.arange(3_000) // 50 % 8 == 7).astype(np.uint8)
    values[labels > 0] += 2.0
    path = recording(values, labels=labels)
    nasty = tmp_path / "nasty.avro"
    with path.open("rb") as file, nasty.open("wb") as out:
        writer = ContainerWriter(out, SensorBlock)
        for block in read(file, SensorBlock):
            assert isinstance(block, SensorBlock)
            writer.write(dataclasses.replace(block, channels=["<script>alert(1)</script>", "b & c"]))
        writer.close()
    plain([nasty], tmp_path / "p")
    page = (tmp_path / "p" / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 5  # two distributions, ROC, precision and recall, one device
    assert "://" not in page
    assert "NaN" not in page.replace("–", "")
    evaluation = json.loads((tmp_path / "p" / "evaluation.json").read_text())
    assert evaluation["false_alarms"]["stated"] == "0.5%"
    assert evaluation["devices"]["pump-1"]["heavy_auc"] == evaluation["pooled"]["heavy_auc"] > 0.8


def test_long_recordings_are_fitted_on_a_bounded_number_of_windows(
    recording: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.train.choices.MAX_FIT_WINDOWS", 300)
    monkeypatch.setattr("deploy.train.learning._SAMPLE_NUMBERS", 1_000)
    monkeypatch.setattr("deploy.train.reading._BATCH_NUMBERS", 500)
    monkeypatch.setattr("deploy.train.reading._LONG_BYTES", 1_000)
    said: list[str] = []
    path = recording(wave(20_000))
    report = train([path], tmp_path / "p", name="any", seed=1, options=PLAIN, progress=said.append)
    assert "one window every 47 readings to fit on, 2" in notes_of(report)
    assert "evenly taken because the recordings are long" in notes_of(report)
    assert next(line for line in said if line.startswith("learning:")).endswith("0 %")


def test_of_many_devices_each_is_learned_from(
    recording: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.train.choices.MAX_FIT_WINDOWS", 300)
    paths = [recording(wave(1_000, 1, seed=i), device=f"pump-{i}") for i in range(20)]
    report = plain(paths, tmp_path / "p")
    assert len(report.manifest.device_levels) == 20


def test_more_devices_than_a_manifest_holds_are_refused_before_any_work(recording: Write, tmp_path: Path) -> None:
    paths = [recording(wave(20, 100, seed=i), device=f"pump-{i}") for i in range(150)]
    with pytest.raises(ConfigError, match=r"too large for so many devices .*devices=150, channels=100\); train fewer"):
        plain(paths, tmp_path / "p")
