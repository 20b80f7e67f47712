from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.train import reading
from deploy.train.reading import _Steps, batches, survey
from schemas.errors import ConfigError, DecodeError

from .conftest import MINUTE_US, wave

Write = Callable[..., Path]


def quiet(_: str) -> None:
    """Say nothing."""


def test_a_first_pass_counts_what_is_there_and_what_is_not(recording: Write) -> None:
    values = wave(600, channels=3)
    values[10:20, 1] = np.nan
    values[15:30, 2] = np.inf
    values[:, 0] = np.arange(600)
    labels = np.zeros(600, np.uint8)
    labels[5:25] = 1
    device = survey([recording(values, labels=labels)], quiet).devices["pump-1"]
    assert (device.readings, device.incomplete) == (580, 20)
    assert device.missing.tolist() == [0, 10, 15]
    assert device.anomalous == 5  # of the rows that are complete
    assert (device.labelled, device.step_us, device.max_gap_us) == (True, MINUTE_US, 5 * MINUTE_US)
    assert device.counters == ["c0"]
    assert device.still == []
    assert (device.first_us, device.last_us) == (0, 599 * MINUTE_US)


def test_rows_come_out_once_and_in_order_however_they_are_batched(
    recording: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = wave(3_000)
    values[::7, 0] = np.nan
    found = survey([recording(values)], quiet)
    for numbers in (1, 1_000, 1 << 20):
        monkeypatch.setattr(reading, "_BATCH_NUMBERS", numbers)
        got = list(batches(found, "reading", quiet))
        assert (np.concatenate([batch.values for batch in got]) == values[np.isfinite(values).all(axis=1)]).all()
        assert [batch.first for batch in got] == np.cumsum([0, *(len(batch.values) for batch in got)])[:-1].tolist()


def test_recordings_are_taken_in_order_of_time(recording: Write) -> None:
    times = np.arange(2_000, dtype=np.int64) * MINUTE_US
    late, early = (
        recording(wave(1_000, seed=i), times=times[part]) for i, part in enumerate((slice(1_000, None), slice(1_000)))
    )
    found = survey([late, early], quiet)
    assert found.paths == [early, late]
    assert len(found.devices["pump-1"].files) == 2
    assert (np.diff(np.concatenate([batch.times for batch in batches(found, "reading", quiet)])) == MINUTE_US).all()


@given(st.lists(st.lists(st.integers(-5, 50), max_size=40), max_size=30))
def test_the_usual_step_is_the_median_of_all_forward_steps_while_they_are_few(parts: list[list[int]]) -> None:
    steps = _Steps()
    for part in parts:
        steps.add(np.array(part, np.int64))
    forward = [step for part in parts for step in part if step > 0]
    assert steps.usual() == (np.median(forward) if forward else 0.0)


def test_of_many_steps_few_are_kept_and_the_usual_one_is_still_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MAX_STEPS", 1_000)
    steps, random = _Steps(), np.random.default_rng(0)
    for _ in range(200):
        steps.add(random.integers(900, 1_100, 500))
    assert sum(map(len, steps._kept)) <= 1_500
    assert steps.usual() == pytest.approx(1_000, rel=0.02)


def test_a_damaged_recording_names_itself_and_the_place(recording: Write) -> None:
    good, bad = recording(wave(2_000)), recording(wave(2_000, seed=1), device="pump-2")
    bad.write_bytes(bad.read_bytes()[:-1_000])
    with pytest.raises(DecodeError, match=r"the recording is damaged: .* \(file='.*pump-2.*offset"):
        survey([good, bad], quiet)


@pytest.mark.parametrize("rows", [900, 1_100])
def test_a_recording_that_changes_between_two_passes_is_noticed(recording: Write, rows: int) -> None:
    path = recording(wave(1_000))
    found = survey([path], quiet)
    path.write_bytes(recording(wave(rows)).read_bytes())
    with pytest.raises(DecodeError, match="a recording changed while it was read"):
        list(batches(found, "reading", quiet))


def test_a_recording_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the recording cannot be read \(file='.*gone\.avro', cause='No such file"):
        survey([tmp_path / "gone.avro"], quiet)
