"""Sensors of somebody else: asked again when they fail, and never able to stop the others."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_filters import plugins
from edge_filters.assemble import assemble
from edge_filters.blocks import Block
from edge_filters.plugins import PluginSensor, add_feature
from schemas.errors import ConfigError
from tests.doubles.edge_parts import T0
from tests.doubles.plugin_site import VALID, config


class Scripted:
    """A sensor that does what it is told, one item per read; exceptions are raised."""

    channels = ("a", "b")
    can_wait = False

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.starts = 0
        self.fail_start = 0

    def start(self, monotonic_s: float, wall_us: int) -> None:
        self.starts += 1
        self.started_at = monotonic_s, wall_us
        if self.starts <= self.fail_start:
            raise OSError("no such port")

    def due_s(self) -> float | None:
        return 0.0 if self.script else None

    def read(self) -> Any:
        item = self.script.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        raise OSError("already gone")


def guarded(*script: Any) -> tuple[PluginSensor, list[str]]:
    sensor, told = PluginSensor("own:it", Scripted(*script)), []
    sensor.tell = told.append
    sensor.start(0.0, 0)
    return sensor, told


def good(n: int = 2) -> Block:
    return Block("x", np.arange(n, dtype=np.int64), np.zeros((n, 2), np.float32))


def test_a_sensor_that_fails_is_named_and_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(plugins.time, "monotonic", lambda: now[0])
    sensor, told = guarded(OSError("line down"), OSError("line down"), OSError("worse"), good(), good())
    waits = []
    for _ in range(3):
        assert sensor.read() is None
        due = sensor.due_s()
        assert due is not None
        waits.append(due - now[0])
        now[0] = due
    assert waits == [1.0, 2.0, 4.0]
    assert sensor.read() is not None
    assert told == [
        "the sensor 'own:it' failed in read(): OSError: line down",
        "the sensor 'own:it' failed in read(): OSError: worse",
        "",
    ]
    assert sensor.due_s() == 0.0


def test_the_wait_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins.time, "monotonic", lambda: 0.0)
    sensor, _ = guarded(*[OSError("down")] * 50)
    for _ in range(50):
        assert sensor.read() is None
    assert sensor.due_s() == plugins.LONGEST_RETRY_S


def test_a_sensor_that_cannot_start_yet_is_started_again_with_the_time_of_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins.time, "monotonic", lambda: 103.5)
    it = Scripted(good())
    it.fail_start = 2
    sensor, told = PluginSensor("own:it", it), []
    sensor.tell = told.append
    sensor.start(100.0, T0)
    assert told == ["the sensor 'own:it' failed in start(): OSError: no such port"]
    assert sensor.read() is None
    assert sensor.read() is not None
    assert (it.starts, told[-1]) == (3, "")
    assert it.started_at == (103.5, T0 + 3_500_000)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((np.array([1.5, 2.5]), np.zeros((2, 2))), "event times must be int64[n]"),
        ((np.zeros((2, 2), np.int64), np.zeros((2, 2))), "event times must be int64[n]"),
        ((np.arange(3), np.zeros((2, 2))), "3 event times came with values of shape [2, 2]"),
        ((np.arange(2), [["a", "b"]] * 2), "could not convert"),
        (5, "cannot unpack"),
        (object(), "cannot unpack"),
    ],
)
def test_what_is_no_block_is_said_and_the_next_one_is_taken(given: Any, said: str) -> None:
    sensor, told = guarded(given, good())
    assert sensor.read() is None
    assert said in told[0]
    assert told[0].startswith("the sensor 'own:it' failed in read(): ")
    assert sensor.read() is not None


def test_times_and_values_in_other_types_are_taken() -> None:
    sensor, _ = guarded(([1, 2], [[1, 2], [3, 4]]), Block("", np.arange(2, dtype=np.int32), np.zeros((2, 2))))
    for _ in range(2):
        made = sensor.read()
        assert made is not None
        assert (made.times.dtype, made.values.dtype) == (np.int64, np.float32)


def test_values_that_do_not_fit_are_passed_on_to_be_counted_and_the_sensor_is_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wide = Block("", np.arange(2, dtype=np.int64), np.zeros((2, 3), np.float32))
    holes = Block("", np.arange(2, dtype=np.int64), np.full((2, 2), np.nan, np.float32))
    sensor, told = guarded(wide, wide, holes, holes, good())
    assert [sensor.read() is not None for _ in range(5)] == [True] * 5
    assert [r.message for r in caplog.records] == [
        f"the sensor 'own:it' gives values {what}; such readings are left out and counted, said once"
        for what in ("of shape [2, 3] for 2 channels", "that are not finite")
    ]
    assert told == []


def test_one_that_calls_sys_exit_or_fails_in_close_ends_nothing(own: types.ModuleType, tmp_path: Path) -> None:
    sensor, told = guarded(good())
    sensor._sensor.read = lambda: sys.exit(3)  # type: ignore[method-assign]
    assert sensor.read() is None
    assert told == ["the sensor 'own:it' failed in read(): SystemExit: 3"]
    sensor.close()
    own.it = lambda options: sys.exit("no licence")  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"the feature 'own:it' cannot be made .*SystemExit: no licence"):
        add_feature("f", "own:it", {})


@pytest.mark.parametrize("due", [float("nan"), float("inf"), "soon"])
def test_a_time_that_is_none_is_a_failure_not_the_end(due: Any) -> None:
    it = Scripted()
    it.due_s = lambda: due  # type: ignore[method-assign]
    sensor, told = PluginSensor("own:it", it), []
    sensor.tell = told.append
    assert sensor.due_s() is not None
    assert told[0].startswith("the sensor 'own:it' failed in due_s(): ")


def test_a_sensor_that_does_not_know_when_it_is_due_is_not_read_meanwhile() -> None:
    it = Scripted(good())
    it.due_s = lambda: 1 / 0  # type: ignore[method-assign]
    sensor = PluginSensor("own:it", it)
    sensor.start(0.0, 0)
    assert sensor.due_s() is not None
    assert sensor.read() is None
    assert len(it.script) == 1
    it.due_s = lambda: 0.0  # type: ignore[method-assign]
    assert sensor.due_s() == 0.0
    assert sensor.read() is not None


def test_a_sensor_may_fill_the_same_buffer_again() -> None:
    buffer = good()
    sensor, _ = guarded(buffer, buffer)
    first = sensor.read()
    buffer.values[:] = 7.0
    buffer.times[:] = 7
    assert first is not None
    assert first.values.max() == 0.0
    assert first.times.tolist() == [0, 1]


@pytest.mark.parametrize(
    "times", [np.array([1_700_000_000_000_000_000]), np.array([-(2**63)]), np.array([2**63 + 5], np.uint64)]
)
def test_times_of_no_year_are_a_failure_and_the_sensor_is_asked_again(times: Any) -> None:
    sensor, told = guarded((times, np.zeros((1, 2), np.float32)), good())
    assert sensor.read() is None
    assert f"must be microseconds since 1970 UTC of the years 1 to 9999, and are {times[0]}" in told[0]
    assert sensor.read() is not None


def test_channels_that_cannot_be_asked_for_are_refused_at_the_start() -> None:
    class Offline:
        start = due_s = read = close = print

        @property
        def channels(self) -> Any:
            raise OSError("line down")

    with pytest.raises(ConfigError, match=r"cannot be asked for its channels .*OSError: line down"):
        PluginSensor("own:it", Offline())  # type: ignore[arg-type]


def test_what_is_no_sensor_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="the sensor 'own:it' is none: it has no start, due_s, read, close"):
        PluginSensor("own:it", object())  # type: ignore[arg-type]
    for channels in ("ab", [], [1], None):
        it = Scripted()
        it.channels = channels  # type: ignore[assignment]
        with pytest.raises(ConfigError, match="the sensor 'own:it' must name its channels"):
            PluginSensor("own:it", it)


def test_a_failing_sensor_is_degraded_in_the_status_of_its_device(folder: Path, own: types.ModuleType) -> None:
    own.it = lambda device_id, options: Scripted(OSError("line down"), good())  # type: ignore[attr-defined]
    parts = assemble(config(folder, VALID + '[[device]]\nid = "x"\nsensor = { kind = "own:it" }\n'), 1)
    sensor, device = parts.sensors["x"], parts.engine.devices["x"]
    sensor.start(0.0, 0)
    assert sensor.read() is None
    assert device.problem == "the sensor 'own:it' failed in read(): OSError: line down"
    assert sensor.read() is not None
    assert (device.problem, device.news) == ("", True)
