from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_filters.blocks import Block
from edge_filters.io import sensors
from edge_filters.io.sensors import RecordedSensor, SyntheticSensor, make_sensor, recorded_channels
from schemas.errors import ConfigError, DecodeError
from tests.doubles import recording
from tests.doubles.recording import T0

WALL = 1_800_000_000_000_000
SECOND = 1_000_000


class Clock:
    """time.monotonic, by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def play(sensor: RecordedSensor | SyntheticSensor, clock: Clock, most: int = 1000) -> list[tuple[float, Block]]:
    """Read each block when it says it is due: seconds since the start, block."""
    start = clock.now_s
    sensor.start(start, WALL)
    out = []
    while (due := sensor.due_s()) is not None and len(out) < most:
        clock.now_s = max(clock.now_s, due)
        block = sensor.read()
        if block is not None:
            out.append((clock.now_s - start, block))
    return out


def offsets(played: list[tuple[float, Block]]) -> list[int]:
    return np.concatenate([block.times for _, block in played]).tolist() if played else []


def test_a_recording_comes_at_its_speed_with_its_times_moved_to_now(tmp_path: Path, clock: Clock) -> None:
    path = recording.write(tmp_path / "r.avro", range(8))
    played = play(RecordedSensor("pump-1", path, speed=2.0, max_readings=4), clock)
    assert [at for at, _ in played] == pytest.approx([1.5, 3.5])
    assert offsets(played) == [WALL + n * SECOND // 2 for n in range(8)]
    assert [block.device_id for _, block in played] == ["pump-1", "pump-1"]
    assert np.concatenate([b.values for _, b in played])[:, 1].tolist() == list(range(8))


def test_a_block_is_given_out_after_max_wait_even_if_it_is_not_full(tmp_path: Path, clock: Clock) -> None:
    path = recording.write(tmp_path / "r.avro", range(6))
    played = play(RecordedSensor("x", path, max_readings=4, max_wait_us=SECOND), clock)
    assert [len(block.times) for _, block in played] == [2, 2, 2]


def test_at_full_speed_everything_is_due_at_once(tmp_path: Path, clock: Clock) -> None:
    path = recording.write(tmp_path / "r.avro", range(10))
    sensor = RecordedSensor("x", path, speed=None, keep_times=True, max_readings=4)
    played = play(sensor, clock)
    assert [at for at, _ in played] == [0.0] * 3
    assert offsets(played) == [T0 + n * SECOND for n in range(10)]
    assert sensor.can_wait


def test_long_gaps_are_shortened_and_equal_times_and_jumps_back_are_kept(tmp_path: Path, clock: Clock) -> None:
    times = [0, 1, 1, 100, 98, 99, 102]
    path = recording.write(tmp_path / "r.avro", range(7), times=[t * SECOND for t in times])
    played = play(RecordedSensor("x", path, max_pause_us=5 * SECOND, max_readings=1), clock)
    assert [(t - WALL) // SECOND for t in offsets(played)] == [0, 1, 1, 6, 4, 5, 8]
    # what lies behind a jump back is due at once, until event time is where it was
    assert [round(at) for at, _ in played] == [0, 1, 1, 6, 6, 6, 8]


def test_a_gap_between_two_blocks_of_the_file_counts_like_one_within(tmp_path: Path, clock: Clock) -> None:
    times = [0, 1, 50, 51]
    path = recording.write(tmp_path / "r.avro", range(4), times=[t * SECOND for t in times], per_block=2)
    played = play(RecordedSensor("x", path, max_pause_us=3 * SECOND), clock)
    assert [(t - WALL) // SECOND for t in offsets(played)] == [0, 1, 4, 5]


def test_a_repeated_recording_goes_on_in_time(tmp_path: Path, clock: Clock) -> None:
    path = recording.write(tmp_path / "r.avro", range(3))
    played = play(RecordedSensor("x", path, max_readings=3, repeat=True), clock, most=3)
    assert [(t - WALL) // SECOND for t in offsets(played)] == list(range(9))


def test_a_truncated_recording_gives_what_is_whole_and_then_says_where_it_ends(tmp_path: Path, clock: Clock) -> None:
    path = recording.write(tmp_path / "r.avro", np.arange(30_000), per_block=100)
    path.write_bytes(path.read_bytes()[:-5000])
    sensor = RecordedSensor("x", path, speed=None, max_readings=1000)
    sensor.start(clock.now_s, WALL)
    rows = 0
    with pytest.raises(DecodeError) as damage:  # noqa: PT012  # the rows before the damage are part of the contract
        while sensor.due_s() is not None:
            block = sensor.read()
            assert block is not None
            rows += len(block.times)
    assert 20_000 < rows < 30_000
    assert rows % 100 == 0
    assert str(damage.value).startswith(f"the file ends inside of a block (recording='{path}', offset=")
    assert sensor.due_s() is None


def test_a_foreign_file_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "r.avro"
    path.write_text("time,value\n")
    with pytest.raises(DecodeError, match=r"not an Avro container file \(recording='"):
        RecordedSensor("x", path)


def test_several_devices_in_one_file_need_a_choice(tmp_path: Path, clock: Clock) -> None:
    other = next(sensors.recorded_blocks(recording.write(tmp_path / "o.avro", [7.0], device_id="pump-8")))
    path = recording.write(tmp_path / "r.avro", range(3), append=[other])
    with pytest.raises(DecodeError, match="the recording holds several devices"):
        play(RecordedSensor("x", path, speed=None), clock)
    assert len(play(RecordedSensor("x", path, speed=None, device="pump-8"), clock)) == 1
    with pytest.raises(DecodeError, match="the recording holds nothing of that device"):
        RecordedSensor("x", path, device="pump-9")


def test_channels_are_read_from_the_first_block(tmp_path: Path) -> None:
    assert recorded_channels(recording.write(tmp_path / "r.avro", range(3), channels=("u", "v"))) == ["u", "v"]


def test_a_synthetic_signal_is_the_same_for_the_same_seed_and_ends_where_told(clock: Clock) -> None:
    def signal(seed: int) -> list[float]:
        sensor = SyntheticSensor("x", channels=("a", "b"), rate_hz=10.0, readings=25, max_readings=10, seed=seed)
        played = play(sensor, clock)
        assert [len(block.times) for _, block in played] == [10, 10, 5]
        assert [at for at, _ in played] == pytest.approx([0.9, 1.9, 2.4])
        return np.concatenate([block.values for _, block in played]).ravel().tolist()

    assert signal(1) == signal(1) != signal(2)


class OwnSensor:
    channels = ("a",)
    can_wait = False

    def __init__(self, device_id: str, options: dict[str, Any]) -> None:
        self.device_id, self.options = device_id, options
        if options.get("broken"):
            raise RuntimeError("no such port")


def test_a_sensor_of_ones_own_is_found_by_module_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("own_sensors")
    module.modbus = OwnSensor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_sensors", module)
    made = make_sensor("own_sensors:modbus", "x", {"address": "10.0.0.8"})
    assert isinstance(made, OwnSensor)
    assert made.options == {"address": "10.0.0.8"}
    with pytest.raises(ConfigError) as wrong:
        make_sensor("own_sensors:modbus", "x", {"broken": True})
    assert str(wrong.value) == (
        "the sensor 'own_sensors:modbus' cannot be made (device='x', cause='RuntimeError: no such port')"
    )


def test_a_sensor_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(ConfigError) as wrong:
        make_sensor("recored", "x", {})
    assert str(wrong.value).startswith("there is no sensor of kind 'recored'; known are recorded, synthetic")
    with pytest.raises(ConfigError, match="the sensor 'no_such_module:x' cannot be loaded"):
        make_sensor("no_such_module:x", "x", {})
