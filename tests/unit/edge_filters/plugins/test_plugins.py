"""Code of somebody else: found by name, named in every sentence, and never able to harm more than itself."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_filters import plugins
from edge_filters.assemble import assemble, build_scorer
from edge_filters.plugins import DetectorScorer, add_feature, load
from pipelines.publish import read_package
from schemas import features
from schemas.errors import ConfigError, ModelError
from schemas.manifest import MANIFEST_FILE, load_package
from schemas.records import EdgeEvent
from tests.doubles import edge_model
from tests.doubles.edge_parts import T0, ManualClock, block, model_update
from tests.doubles.plugin_site import DEVICE, VALID, config

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
