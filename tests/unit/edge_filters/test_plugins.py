"""Code of somebody else: found by name, named in every sentence, and never able to harm more than itself."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_filters import plugins
from edge_filters.assemble import assemble, build_scorer
from edge_filters.blocks import Block
from edge_filters.config import EdgeConfig, read_config
from edge_filters.plugins import DetectorScorer, PluginSensor, add_feature, load
from pipelines.publish import read_package
from schemas import features
from schemas.errors import ConfigError, ModelError
from schemas.manifest import MANIFEST_FILE, load_package
from schemas.records import EdgeEvent
from tests.doubles import edge_model, recording
from tests.doubles.edge_parts import T0, ManualClock, block, model_update

VALID = """
[edge]
state_dir = "state"
[kafka]
bootstrap_servers = "127.0.0.1:9092"
[model]
path = "model"
"""
DEVICE = '[[device]]\nid = "pump-7"\nsensor = { kind = "recorded", path = "r.avro" }\n'


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module `own` to put plug-ins into."""
    module = types.ModuleType("own")
    monkeypatch.setitem(sys.modules, "own", module)
    return module


@pytest.fixture(autouse=True)
def _statistics_as_before() -> Iterator[None]:
    before = dict(features.STATISTICS)
    yield
    features.STATISTICS.clear()
    features.STATISTICS.update(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    edge_model.write(tmp_path / "model")
    recording.write(tmp_path / "r.avro", range(20))
    return tmp_path


def config(folder: Path, text: str) -> EdgeConfig:
    (folder / "edge.toml").write_text(text)
    return read_config(folder / "edge.toml", {})


# -- finding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["sensor", "feature", "detector", "sink"])
def test_a_name_that_is_not_there_or_cannot_be_imported_is_said_with_what_it_is(what: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no {what} of kind 'nonsense'; known are .*; one of your own is"):
        load(what, "nonsense")
    with pytest.raises(ConfigError, match=f"the {what} 'no_such_module:x' cannot be loaded .*ModuleNotFoundError"):
        load(what, "no_such_module:x")
    with pytest.raises(ConfigError, match=f"the {what} 'os:no_such_name' cannot be loaded .*AttributeError"):
        load(what, "os:no_such_name")


def test_a_module_that_fails_when_it_is_imported_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "broken_at_import.py").write_text("raise RuntimeError('no licence')")
    plugins.look_in(tmp_path)
    with pytest.raises(ConfigError, match=r"the sink 'broken_at_import:x' cannot be loaded .*RuntimeError: no licence"):
        load("sink", "broken_at_import:x")


def test_a_folder_of_plugins_cannot_replace_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "json.py").write_text("mine = 1")
    plugins.look_in(tmp_path)
    plugins.look_in(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1
    assert sys.path[-1] == str(tmp_path)


# -- sensors ------------------------------------------------------------------------------------------------------


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


# -- features -----------------------------------------------------------------------------------------------------


def crest(options: Any) -> Callable[[Any], Any]:
    return lambda windows: np.abs(windows).max(axis=1) * options.get("gain", 1.0)


def with_statistic(folder: Path, name: str) -> None:
    """The package of the folder lists another statistic in place of the mean."""
    made = folder / "model" / "manifest.json"
    text = made.read_text()
    assert text.count('"statistics": ["mean"]') == 1
    made.write_text(text.replace('"statistics": ["mean"]', f'"statistics": ["{name}"]'))


def test_a_feature_of_ones_own_feeds_the_model_that_lists_it(folder: Path, own: types.ModuleType) -> None:
    own.crest = crest  # type: ignore[attr-defined]
    with_statistic(folder, "crest")
    with pytest.raises(ConfigError, match="unknown statistics"):
        assemble(config(folder, VALID + DEVICE), 1)
    made = config(folder, VALID + '[features.crest]\nkind = "own:crest"\n' + DEVICE)
    engine = assemble(made, 1).engine
    step = engine.step([block([0.0, 0.0, 0.0, 5.0])], ManualClock())
    assert [r.score for r in step.records if isinstance(r, EdgeEvent)] == [5.0]
    # with other options it is not the feature that the package was made with, and the self-test says so
    wrong = config(folder, VALID + '[features.crest]\nkind = "own:crest"\ngain = 2.0\n' + DEVICE)
    with pytest.raises(ConfigError, match="the model fails its self-test"):
        assemble(wrong, 1)


def test_a_package_with_a_feature_is_published_by_a_program_that_makes_it_known(folder: Path) -> None:
    with_statistic(folder, "crest")
    with pytest.raises(ModelError, match=r"unknown statistics \(unknown=\['crest'\]\); .* see docs/plugins.md"):
        read_package(str(folder / "model"))
    features.add_statistic("crest", crest({}))
    assert read_package(str(folder / "model")).manifest.edge.statistics == ["crest"]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: x, r"the feature 'own:f' gave a wrong shape \(name='f', got=\(2, 8, 3\), want=\(2, 3\)\)"),
        (lambda x: x.mean(axis=1) * np.nan, "the feature 'own:f' gave a number that is not finite"),
        (lambda x: 1 / 0, "the feature 'own:f' failed .*ZeroDivisionError"),
        (lambda x: np.negative(x, out=x).mean(axis=1), "the feature 'own:f' failed .*read-only"),
        (lambda x: "abc", "the feature 'own:f' failed .*could not convert"),
    ],
)
def test_a_feature_that_is_none_is_refused_at_the_start(
    function: Callable[[Any], Any], said: str, own: types.ModuleType
) -> None:
    own.f = lambda options: function  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=said):
        add_feature("f", "own:f", {})
    assert "f" not in features.STATISTICS


def test_a_feature_takes_no_name_of_ours(own: types.ModuleType) -> None:
    own.crest = crest  # type: ignore[attr-defined]
    mean = features.STATISTICS["mean"]
    with pytest.raises(ConfigError, match="'mean' is a statistic that exists already"):
        add_feature("mean", "own:crest", {})
    assert features.STATISTICS["mean"] is mean
    with pytest.raises(ConfigError, match="'a b' is not a plain name"):
        add_feature("a b", "own:crest", {})


def test_a_feature_that_fails_later_costs_a_score_and_no_reading(folder: Path, own: types.ModuleType) -> None:
    calls = [0]

    def late(options: Any) -> Callable[[Any], Any]:
        def of(windows: Any) -> Any:
            calls[0] += 1
            out = np.abs(windows).max(axis=1)
            return np.where(out > 6.0, np.nan, out)

        return of

    own.late = late  # type: ignore[attr-defined]
    with_statistic(folder, "late")
    engine = assemble(config(folder, VALID + '[features.late]\nkind = "own:late"\n' + DEVICE), 1).engine
    step = engine.step([block([5.0] * 4 + [7.0] * 4)], ManualClock())
    assert [r.score for r in step.records if isinstance(r, EdgeEvent)] == [5.0]
    (notice,) = step.notices
    assert "the feature 'own:late' gave a number that is not finite (name='late')" in notice
    counters = engine.devices["pump-7"].counters
    assert (counters["windows_scored"], counters["windows_unscored"], counters["readings_sensed"]) == (1, 1, 8)
    flushed = engine.flush(ManualClock()).records
    assert sum(getattr(r, "sketch", r).readings for r in flushed if type(r).__name__ == "EdgeAggregate") == 8


# -- detectors ----------------------------------------------------------------------------------------------------


class Peak:
    """Scores by the highest value; what is above 100 is no number."""

    def __init__(self, channels: Any, window_readings: int, options: Any) -> None:
        self.made_for = list(channels), window_readings
        self.gain = options.get("gain", 1.0)

    def score(self, windows: Any, devices: Any) -> Any:
        peaks = windows.max(axis=(1, 2)) * self.gain
        return np.where(peaks > 100.0, np.nan, peaks)


def test_a_detector_scores_in_place_of_the_model_and_says_who_it_is(folder: Path, own: types.ModuleType) -> None:
    own.Peak = Peak  # type: ignore[attr-defined]
    made = config(folder, VALID + 'detector = { kind = "own:Peak" }\n' + DEVICE)
    engine = assemble(made, 1).engine
    (event,) = (r for r in engine.step([block([0, 0, 0, 9])], ManualClock()).records if isinstance(r, EdgeEvent))
    package = edge_model.package()
    assert (event.score, event.model_name) == (9.0, package.manifest.name)
    assert event.model_sha256 != package.sha256
    again = DetectorScorer(package, "own:Peak", {})
    other = DetectorScorer(package, "own:Peak", {"gain": 2.0})
    assert event.model_sha256 == again.package.sha256 != other.package.sha256


def test_a_device_may_have_its_own_detector_or_none(folder: Path, own: types.ModuleType) -> None:
    own.Peak = Peak  # type: ignore[attr-defined]
    text = VALID + 'detector = { kind = "own:Peak" }\n' + DEVICE
    text += DEVICE.replace("pump-7", "pump-8").replace("sensor", 'detector = { kind = "own:Peak", gain = 2.0 }\nsensor')
    text += DEVICE.replace("pump-7", "pump-9").replace("sensor", 'model = "model"\nsensor')
    engine = assemble(config(folder, text), 1).engine
    blocks = [block([0, 0, 0, 4], name) for name in ("pump-7", "pump-8", "pump-9")]
    scores = {r.device_id: r.score for r in engine.step(blocks, ManualClock()).records if isinstance(r, EdgeEvent)}
    assert scores == {"pump-7": 4.0, "pump-8": 8.0}
    assert engine.devices["pump-9"].counters["windows_answered"] == 1  # the package's own model: the mean is 1


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (lambda w, d: [1.0] * (len(w) + 1), r"the detector 'own:D' must give one score per window \(got=\(3,\)"),
        (lambda w, d: np.zeros((len(w), 2)), "the detector 'own:D' must give one score per window"),
        (lambda w, d: [float("nan")] * len(w), "the detector 'own:D' gave a score that is not finite"),
        (lambda w, d: ["high"] * len(w), "the detector 'own:D' failed .*could not convert"),
        (lambda w, d: w.fill(0), "the detector 'own:D' failed .*read-only"),
        (lambda w, d: {}["x"], "the detector 'own:D' failed .*KeyError"),
    ],
)
def test_a_detector_that_is_none_is_refused_at_the_start(
    score: Callable[..., Any], said: str, folder: Path, own: types.ModuleType
) -> None:
    own.D = lambda channels, readings, options: types.SimpleNamespace(score=score)  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=said):
        DetectorScorer(edge_model.package(), "own:D", {})
    with pytest.raises(ConfigError, match=said):
        assemble(config(folder, VALID + 'detector = { kind = "own:D" }\n' + DEVICE), 1)


def test_a_window_that_a_detector_chokes_on_does_not_cost_the_others_their_score(
    folder: Path, own: types.ModuleType
) -> None:
    own.Peak = Peak  # type: ignore[attr-defined]
    engine = assemble(config(folder, VALID + 'detector = { kind = "own:Peak" }\n' + DEVICE), 1).engine
    step = engine.step([block([9.0] * 4 + [200.0] * 4 + [8.0] * 4)], ManualClock())
    assert [r.score for r in step.records if isinstance(r, EdgeEvent)] == [9.0, 8.0]
    assert "the detector 'own:Peak' gave a score that is not finite" in step.notices[0]
    assert engine.devices["pump-7"].counters["windows_unscored"] == 1


def test_feedback_cannot_put_a_model_in_the_place_of_a_detector(folder: Path, own: types.ModuleType) -> None:
    own.Peak = Peak  # type: ignore[attr-defined]
    engine = assemble(config(folder, VALID + 'detector = { kind = "own:Peak" }\n' + DEVICE), 1).engine
    update, _ = model_update(version=2)
    (notice,) = engine.offer_model(update, T0)
    assert "the detector 'own:Peak' scores here, and updates bring models" in notice
    assert not engine.wanted
    same, _ = model_update(version=1)  # the package that it stands on, as a pipeline publishes it at its start
    assert engine.offer_model(same, T0) == []


def test_a_manifest_that_comes_over_the_wire_names_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def imported(name: str) -> None:
        raise AssertionError(f"{name} was imported")

    monkeypatch.setattr(plugins.importlib, "import_module", imported)
    for name in ("os:system", "my_plugins:crest", "__import__"):
        made = edge_model.files()
        made[MANIFEST_FILE] = made[MANIFEST_FILE].replace(b'["mean"]', json.dumps([name]).encode())
        with pytest.raises(ModelError, match="unknown statistics"):
            build_scorer(load_package(lambda file, made=made: made[file], ("edge",)))  # type: ignore[misc]


def test_a_detector_that_remembers_sees_the_windows_of_a_device_in_order(folder: Path, own: types.ModuleType) -> None:
    seen: list[tuple[str, float]] = []

    class Notes:
        def __init__(self, channels: Any, readings: int, options: Any) -> None: ...

        def score(self, windows: Any, devices: Any) -> list[float]:
            seen.extend((d, float(w[0, 0])) for w, d in zip(windows, devices, strict=True) if d)
            return [0.0] * len(windows)

    own.Notes = Notes  # type: ignore[attr-defined]
    text = VALID + 'detector = { kind = "own:Notes" }\n' + DEVICE + DEVICE.replace("pump-7", "pump-8")
    engine = assemble(config(folder, text), 1).engine
    engine.step([block(range(8), "pump-7"), block(range(100, 112), "pump-8")], ManualClock())
    engine.step([block(range(8, 16), "pump-7", start_us=T0 + 8000)], ManualClock())
    assert [v for d, v in seen if d == "pump-7"] == [0.0, 4.0, 8.0, 12.0]
    assert [v for d, v in seen if d == "pump-8"] == [100.0, 104.0, 108.0]
