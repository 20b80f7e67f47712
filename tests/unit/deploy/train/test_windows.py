from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.train.windows import Series, cut_windows, held_out, read_series, scaling_of, window_starts
from schemas.errors import ConfigError, DecodeError

from .conftest import MINUTE_US, wave


def series(times: list[int], values: np.ndarray | None = None) -> Series:
    rows = np.zeros((len(times), 1), np.float32) if values is None else values
    return Series("pump-1", "pumps", ("c0",), np.array(times, np.int64), rows, None, "")


def test_no_window_reaches_across_a_jump_back_or_a_gap() -> None:
    item = series([0, 1, 2, 3, 1, 2, 3, 4, 50, 51, 52])
    assert window_starts(item, readings=3, stride=1).tolist() == [0, 1, 4, 5, 8]


def test_repeated_times_end_no_window() -> None:
    assert window_starts(series([0, 1, 1, 1, 2, 3]), readings=6, stride=1).tolist() == [0]


def test_windows_with_a_value_that_is_not_finite_are_left_out() -> None:
    values = np.zeros((8, 1), np.float32)
    values[3] = np.nan
    assert window_starts(series(list(range(8)), values), readings=2, stride=1).tolist() == [0, 1, 4, 5, 6]


def test_windows_are_the_rows_from_their_start() -> None:
    cut = cut_windows(np.arange(6), np.array([0, 3]), 3)
    assert cut.tolist() == [[0, 1, 2], [3, 4, 5]]


@given(rows=st.integers(40, 2_000), readings=st.integers(2, 20), stride=st.integers(1, 9))
def test_no_reading_is_both_fitted_on_and_held_out(rows: int, readings: int, stride: int) -> None:
    starts = np.arange(0, rows - readings + 1, stride)
    fitting, checked = held_out(starts, readings, rows)
    spans = [starts[flags][:, None] + np.arange(readings) for flags in (fitting, checked)]
    assert not set(spans[0].ravel().tolist()) & set(spans[1].ravel().tolist())


def test_scaling_ignores_a_few_wild_readings() -> None:
    rows = np.random.default_rng(0).normal(20.0, 2.0, (2_000, 1)).astype(np.float32)
    rows[:10] = 60.0
    whole, (own,) = scaling_of([rows])
    assert own == whole
    assert own.centre[0] == pytest.approx(20.0, abs=0.2)
    assert own.scale[0] == pytest.approx(2.0, rel=0.1)


def test_a_channel_that_stands_still_on_one_device_takes_a_share_of_what_is_usual_in_its_cohort() -> None:
    moving = np.random.default_rng(0).normal(0.0, 5.0, (1_000, 1)).astype(np.float32)
    still = np.full((1_000, 1), 7.0, np.float32)
    _, (_, _, own) = scaling_of([moving, moving, still])
    assert own.centre == [7.0]
    assert own.scale[0] == pytest.approx(0.05, rel=0.2)


def test_a_channel_that_never_moves_anywhere_keeps_its_own_unit() -> None:
    whole, _ = scaling_of([np.full((10, 1), 3.0, np.float32)])
    assert (whole.centre, whole.scale) == ([3.0], [1.0])


def test_a_recording_is_read_in_file_order_with_its_labels_apart(recording: Callable[..., Path]) -> None:
    values, labels = wave(600), np.arange(600) % 7 == 0
    times = np.arange(600, dtype=np.int64) * MINUTE_US
    times[300:] -= 55 * MINUTE_US
    item = read_series(recording(values, labels=labels.astype(np.uint8), times=times))
    assert (item.times == times).all()
    assert (item.values == values).all()
    assert item.labels is not None
    assert (item.labels == labels).all()


def test_a_truncated_recording_says_where_it_ends(recording: Callable[..., Path]) -> None:
    path = recording(wave(2_000))
    path.write_bytes(path.read_bytes()[:-1_000])
    with pytest.raises(DecodeError, match=r"the recording is damaged: the file ends inside of a block \(file=.*offset"):
        read_series(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the recording cannot be read \(file='.*gone\.avro', cause='No such file"):
        read_series(tmp_path / "gone.avro")


def test_a_recording_of_two_devices_is_refused(recording: Callable[..., Path], tmp_path: Path) -> None:
    import fastavro

    from schemas.codec import BOOK
    from schemas.records import SensorBlock

    records = []
    for device in ("pump-1", "pump-2"):
        with recording(wave(100), device=device).open("rb") as file:
            records += list(fastavro.reader(file))
    for record in records:  # fastavro gives bytes back as they are
        record.setdefault("labels", None)
    path = tmp_path / "two.avro"
    with path.open("wb") as file:
        fastavro.writer(file, BOOK.newest(SensorBlock).source, records)
    with pytest.raises(DecodeError, match=r"holds more than one device or set of channels .*record=1"):
        read_series(path)
