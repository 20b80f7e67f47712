"""The recordings that ship: all of the sources' rows, their oddities kept, their licences beside them."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from deploy.demo.make_recordings import BLOCK_READINGS, SMD_CHANNELS, SMD_MACHINES, live_slice, main
from deploy.demo.recordings import DATA, WINDOW_READINGS, DemoDevice, demo_devices
from schemas.container import read
from schemas.errors import ConfigError, DecodeError
from schemas.records import SensorBlock
from tests.doubles.recording import read_series

DEVICES = demo_devices()
BY_NAME = {device.device_id: device for device in DEVICES}
HOUR_US = 3_600_000_000


def test_eight_devices_ship_in_two_cohorts() -> None:
    assert [d.cohort for d in DEVICES] == ["servers"] * 6 + ["temperature"] * 2
    assert set(WINDOW_READINGS) == {d.cohort for d in DEVICES}
    assert len({d.device_id for d in DEVICES}) == 8


def test_everything_together_is_at_most_three_megabytes() -> None:
    assert sum(path.stat().st_size for path in DATA.iterdir()) <= 3_000_000


@pytest.mark.parametrize(
    ("file", "holder"), [("LICENSE.SMD", "NetManAIOps"), ("LICENSE.InterFusion", "zhhlee"), ("LICENSE.NAB", "Numenta")]
)
def test_the_licence_of_each_source_is_beside_the_data(file: str, holder: str) -> None:
    text = (DATA / file).read_text()
    assert holder in text
    assert "Permission is hereby granted, free of charge" in text


def test_the_source_note_names_every_device_and_its_origin() -> None:
    note = (DATA / "SOURCE.md").read_text()
    assert all(device.device_id in note for device in DEVICES)
    assert all(commit in note for commit in ("8c85d511c1f070669ba8c5cf097b8fa4a202d15b", "ea702d75cc2258d9d7dd35ca8e5"))


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.device_id)
@pytest.mark.parametrize("part", ["normal", "live"])
def test_a_file_holds_what_its_header_says(device: DemoDevice, part: str) -> None:
    recording = getattr(device, part)
    series = read_series(recording.path)
    assert (series.device_id, series.cohort, series.channels) == (device.device_id, device.cohort, device.channels)
    assert len(series.times) == recording.readings
    assert (int(series.times[0]), int(series.times[-1])) == (recording.first_time, recording.last_time)
    assert (0 if series.labels is None else int(series.labels.sum())) == recording.labelled
    assert np.isfinite(series.values).all()


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.device_id)
def test_only_the_live_part_has_labelled_rows_and_they_come_early(device: DemoDevice) -> None:
    labels = read_series(device.live.path).labels
    assert labels is not None
    assert device.normal.labelled == 0
    assert set(np.unique(labels)) == {0, 1}
    assert int(labels.argmax()) < 1_000


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.device_id)
def test_blocks_are_numbered_and_full_but_for_the_last(device: DemoDevice) -> None:
    with device.live.path.open("rb") as file:
        blocks = [block for block in read(file, SensorBlock) if isinstance(block, SensorBlock)]
    assert [block.seq for block in blocks] == list(range(len(blocks)))
    assert {len(block.times) for block in blocks[:-1]} == {BLOCK_READINGS}


@pytest.mark.parametrize("device", DEVICES[:6], ids=lambda d: d.device_id)
def test_server_metrics_come_once_a_minute_and_each_of_them_varies(device: DemoDevice) -> None:
    for recording, rows in ((device.normal, 8_000), (device.live, 6_000)):
        series = read_series(recording.path)
        assert len(series.times) == rows
        assert (np.diff(series.times) == 60_000_000).all()
    assert device.channels == SMD_CHANNELS
    assert (read_series(device.normal.path).values.std(axis=0) > 0).all()


def test_every_row_of_the_machine_temperature_file_is_there_with_its_jump_back_and_its_repeats() -> None:
    device = BY_NAME["machine-temperature"]
    times = np.concatenate([read_series(part.path).times for part in (device.normal, device.live)])
    assert len(times) == 22_695
    back = np.flatnonzero(np.diff(times) < 0)
    assert back.tolist() == [10_148]
    assert (times[10_148] - times[10_149]) / 60_000_000 == 55
    assert len(times) - len(np.unique(times)) == 12


def test_every_row_of_the_ambient_temperature_file_is_there_with_its_gaps() -> None:
    device = BY_NAME["ambient-temperature"]
    times = np.concatenate([read_series(part.path).times for part in (device.normal, device.live)])
    assert len(times) == 7_267
    assert np.diff(times).max() == 174 * HOUR_US
    assert datetime.fromtimestamp(times[0] / 1e6, UTC) == datetime(2013, 7, 4, tzinfo=UTC)


def test_a_missing_recording_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a recording of the demo is missing .*restore deploy/demo/data"):
        demo_devices(tmp_path)


def test_a_foreign_file_among_the_recordings_is_named(tmp_path: Path) -> None:
    (tmp_path / "machine-1-7.normal.avro").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(DecodeError, match=r"not an Avro container file \(file='.*machine-1-7\.normal\.avro'"):
        demo_devices(tmp_path)


# How they are made, on small sources of the same form.


def small_sources(folder: Path) -> list[str]:
    """Sources in the form of the originals: few rows, known values."""
    random = np.random.default_rng(3)
    smd, nab = folder / "smd", folder / "nab"
    smd.mkdir(parents=True)
    for part, rows in (("train", 8_010), ("test", 6_300)):
        table = random.random((rows, len(SMD_CHANNELS) + 1)).round(2)
        table[:, -1] = np.arange(rows) // 50 % 20 == 15
        names = [*SMD_CHANNELS, "label" if part == "test" else "c37"]
        lines = [",".join(names), *(",".join(map(str, row)) for row in table.tolist())]
        packed = gzip.compress("\n".join(lines).encode(), compresslevel=1)
        for machine in SMD_MACHINES:
            (smd / f"machine-{machine}_{part}.csv.gz").write_bytes(packed)
    windows = {}
    for name, rows in (("machine", 2_400), ("ambient", 3_200)):
        path = f"realKnownCause/{name}_temperature_system_failure.csv"
        (nab / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        moments = [datetime(2014, 1, 1) + timedelta(minutes=5 * i) for i in range(rows)]  # noqa: DTZ001
        moments[2_350:] = [moment - timedelta(minutes=30) for moment in moments[2_350:]]
        with (nab / "data" / path).open("w", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(["timestamp", "value"])
            writer.writerows((str(moment), float(i)) for i, moment in enumerate(moments))
        windows[path] = [[f"{moments[rows - 30]}.000000", f"{moments[rows - 20]}.000000"]]
    (nab / "labels").mkdir()
    (nab / "labels" / "combined_windows.json").write_text(json.dumps(windows))
    return ["--smd", str(smd), "--nab", str(nab)]


def test_recordings_are_made_from_the_sources_with_the_same_bytes_every_time(tmp_path: Path) -> None:
    sources = small_sources(tmp_path)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        assert main([*sources, "-o", str(folder)]) == 0
    files = sorted(path.name for path in folders[0].iterdir())
    assert len(files) == 16
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in files)
    device = {d.device_id: d for d in demo_devices(folders[0])}["machine-temperature"]
    series = read_series(device.live.path)
    assert series.values[:, 0].tolist() == list(range(2_100, 2_400))
    assert np.flatnonzero(np.diff(series.times) < 0).tolist() == [249]
    assert series.labels is not None
    assert np.flatnonzero(series.labels).tolist() == list(range(270, 281))


def test_a_missing_source_ends_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--smd", str(tmp_path), "--nab", str(tmp_path), "-o", str(tmp_path / "out")]) == 78
    assert "a source file cannot be read" in capsys.readouterr().err


def test_the_live_part_is_where_most_anomalies_lie_whole() -> None:
    labels = np.zeros(5_000, np.uint8)
    for first in (100, 2_600, 3_000, 3_400):
        labels[first : first + 20] = 1
    assert live_slice(labels, 1_500) == (2_100, 3_600)


def test_a_live_part_without_anomalies_begins_at_the_beginning() -> None:
    assert live_slice(np.zeros(500, np.uint8), 300) == (0, 300)
