"""`tidegate model` as a user runs it, with a model that ships in the onnxruntime wheel and one with state."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from deploy import records
from deploy.broker import Broker
from deploy.paths import ROOT
from edge_filters.run import replay
from pipelines.io.models import Watcher, WatchSettings
from pipelines.publish import publish, read_package
from schemas.container import ContainerWriter, read
from schemas.records import EdgeEvent, SensorBlock
from tests.command import tidegate
from tests.doubles import odd_models, recording

IRIS = Path(onnxruntime.__file__).parent / "datasets" / "logreg_iris.onnx"
#: (sepal length, sepal width) -> probability of class 1; made with onnxruntime itself, on the file as it is.
FLOWERS = {(5.1, 3.5): 1.0504632e-06, (0.0, 0.0): 0.43224427}


def model(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return tidegate("model", *words, COLUMNS="200")


def flowers(path: Path, rows: list[tuple[float, float]], width: str = "width") -> Path:
    with path.open("wb") as file:
        writer = ContainerWriter(file, SensorBlock, codec="null")
        times = np.arange(len(rows), dtype="<i8") * 1_000_000 + recording.T0
        writer.write(
            SensorBlock(
                device_id="flower",
                boot_epoch=1,
                seq=0,
                cohort="garden",
                channels=["length", width],
                event_times=times.tobytes(),
                values=np.array(rows, "<f4").tobytes(),
            )
        )
        writer.close()
    return path


def test_a_classifier_is_inspected_packed_tried_described_and_run_by_an_edge(tmp_path: Path) -> None:
    looked = model("inspect", IRIS, "--window", "1", "-o", "json")
    assert looked.returncode == 0, looked.stderr
    report = json.loads(looked.stdout)
    assert report["opsets"] == {"ai.onnx.ml": 1}
    assert report["to_say"] == ["which class of probabilities is the score (0, 1, 2)? --score probabilities:CLASS"]

    rec = flowers(tmp_path / "rec.avro", list(FLOWERS) * 25)
    asked = model("pack", IRIS, "--name", "iris", "-o", tmp_path / "none", "--levels-from", rec)
    assert asked.returncode == 78
    assert "--score probabilities:CLASS" in asked.stderr
    assert not (tmp_path / "none").exists()

    out = tmp_path / "iris"
    words = ("--score", "probabilities:1", "--escalate-at", "0.2", "--raise-at", "0.4")
    packed = model("pack", IRIS, "--name", "iris", "-o", out, "--levels-from", rec, *words, "--format", "json")
    assert packed.returncode == 0, packed.stderr
    assert json.loads(packed.stdout)["cohort"] == "garden"

    tried = model("try", out, rec, "--scores", tmp_path / "s.csv", "--html", tmp_path / "p.html", "-o", "json")
    assert tried.returncode == 0, tried.stderr
    told = json.loads(tried.stdout)
    assert told["devices"]["flower"]["windows"] == 50
    assert told["devices"]["flower"]["escalated"] == 25
    assert told["timing"]["window_us_p50"] > 0
    lines = (tmp_path / "s.csv").read_text().splitlines()[1:]
    got = [float(line.rsplit(",", 1)[1]) for line in lines]
    assert got == pytest.approx(list(FLOWERS.values()) * 25, rel=1e-4)

    described = model("card", out)
    assert described.returncode == 0, described.stderr
    assert "class 1 of `probabilities`" in described.stdout

    replay([rec], out, tmp_path / "replayed", audit_rate=0.0)
    with (tmp_path / "replayed" / "edge.events.avro").open("rb") as file:
        events = [event for event in read(file, EdgeEvent) if isinstance(event, EdgeEvent)]
    # an alarm that is raised is also cleared by an event, so the windows between are there too
    assert [round(event.score, 6) for event in events if event.score > 0.2] == [0.432244] * 25


def packed_sum(folder: Path, *words: str | Path) -> Path:
    """A package of the model with state; every window is escalated, and none raised."""
    (folder / "sum.onnx").write_bytes(odd_models.running_sum())
    levels = ("--escalate-at", "0", "--raise-at", "1000000")
    made = model(
        "pack", folder / "sum.onnx", "--name", "sum", "--cohort", "pumps", "-o", folder / "sum", *levels, *words
    )
    assert made.returncode == 0, made.stderr
    return folder / "sum"


def test_state_runs_on_from_window_to_window_in_an_edge_as_in_a_trial(tmp_path: Path) -> None:
    times = [*range(12), *range(100, 108)]  # 100 - 11 s: a gap, where it starts anew
    rec = recording.write(
        tmp_path / "rec.avro",
        [1.0] * 20,
        channels=("a",),
        times=[recording.T0 + s * 1_000_000 for s in times],
        per_block=4,
    )
    out = packed_sum(tmp_path, "--levels-from", rec)
    tried = model("try", out, rec, "--scores", tmp_path / "s.csv")
    assert tried.returncode == 0, tried.stderr
    in_trial = [float(line.rsplit(",", 1)[1]) for line in (tmp_path / "s.csv").read_text().splitlines()[1:]]
    replay([rec], out, tmp_path / "replayed", audit_rate=0.0)
    with (tmp_path / "replayed" / "edge.events.avro").open("rb") as file:
        at_the_edge = [event.score for event in read(file, EdgeEvent) if isinstance(event, EdgeEvent)]
    assert in_trial == at_the_edge == [4.0, 8.0, 12.0, 4.0, 8.0]


@pytest.mark.kafka
def test_live_the_edge_carries_state_per_device_and_the_pipeline_starts_each_window_anew(
    tmp_path: Path, broker: Broker, catalogue: str
) -> None:
    steps = {"one": 1.0, "two": 2.0}
    for device, value in steps.items():
        recording.write(tmp_path / f"{device}.avro", [value] * 400, channels=("a",), device_id=device, per_block=8)
    out = packed_sum(tmp_path, "--channels", "a", "--reset-after", "1h")
    tables = "".join(
        f'[[device]]\nid = "{d}"\nsensor = {{ kind = "recorded", path = "{d}.avro", speed = "max" }}\n' for d in steps
    )
    (tmp_path / "edge.toml").write_text(
        f"""
        [edge]
        state_dir = "state"
        [kafka]
        bootstrap_servers = "{broker.bootstrap_servers}"
        topic_prefix = "{catalogue}"
        [model]
        path = "{out.name}"
        {tables}
        """
    )
    command = [sys.executable, "-m", "edge_filters", "run", str(tmp_path / "edge.toml")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert ran.returncode == 0, ran.stderr
    events: dict[str, list[tuple[int, float]]] = {device: [] for device in steps}
    for record in records.follow(broker.bootstrap_servers, f"{catalogue}edge.events", start="beginning", follow=False):
        event = record.record
        assert isinstance(event, EdgeEvent)
        events[event.device_id].append((event.seq, event.score))
    for device, value in steps.items():
        assert [score for _, score in sorted(events[device])] == [4.0 * value * n for n in range(1, 101)]

    publish(read_package(str(out)), broker.bootstrap_servers, catalogue)
    watcher = Watcher(WatchSettings(broker.bootstrap_servers, catalogue))
    try:
        heavy = watcher.wait_ready().heavy("sum")
        assert heavy is not None
        assert heavy.score(np.ones((3, 4, 1), np.float32), ["one"] * 3).tolist() == [4.0, 4.0, 4.0]
    finally:
        watcher.close()


def test_of_two_files_each_has_its_own_options(tmp_path: Path) -> None:
    (tmp_path / "light.onnx").write_bytes(odd_models.mean_of(["b", 4]))
    (tmp_path / "heavy.onnx").write_bytes(odd_models.first_number(["b", 8, 2]))
    words = ("pack", tmp_path / "light.onnx", tmp_path / "heavy.onnx", "--name", "two", "-o", tmp_path / "two")
    words += ("--channels", "p,q", "--window", "8", "--feed", "features", "--statistics", "mean,max")
    words += ("--escalate-at", "1", "--raise-at", "2", "--format", "json")
    made = model(*words)
    assert made.returncode == 0, made.stderr
    halves = json.loads(made.stdout)["halves"]
    assert halves["edge"]["understood"]["feeds"] == ["`x`: mean, max of each channel"]
    assert halves["heavy"]["understood"]["feeds"] == ["`x`: float32 [batch, readings, channels]"]
    assert halves["heavy"]["understood"]["score"] == "class 1 of `out`"
    flipped = model(*words, "--heavy-score", "out:max", "--heavy-flip", "negate")
    assert json.loads(flipped.stdout)["halves"]["heavy"]["understood"]["score"] == "minus max of `out`"
    assert json.loads(flipped.stdout)["halves"]["edge"]["understood"]["score"] == "`score`"


def test_a_page_escapes_what_comes_from_a_recording_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    hostile = "</svg><script>alert(1)</script>"
    rec = flowers(tmp_path / "rec.avro", list(FLOWERS) * 5, width=hostile)
    tried = model("try", IRIS, rec, "--score", "probabilities:1", "--html", tmp_path / "p.html")
    assert tried.returncode == 0, tried.stderr
    page = (tmp_path / "p.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(src|href)=|https?:", page)


@pytest.mark.parametrize(
    ("data", "code", "sentence"),
    [
        (odd_models.takes_strings(), 65, "cannot run: an input of the model takes strings"),
        (odd_models.unknown_operator(), 65, "cannot run: onnxruntime does not take the model"),
    ],
)
def test_inspect_of_what_cannot_run_shows_what_it_is_and_why(
    tmp_path: Path, data: bytes, code: int, sentence: str
) -> None:
    (tmp_path / "odd.onnx").write_bytes(data)
    looked = model("inspect", tmp_path / "odd.onnx")
    assert looked.returncode == code
    assert sentence in looked.stdout
    assert "1 Shape" in looked.stdout or "1 com.example.Guess" in looked.stdout


def test_what_is_no_model_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "odd.onnx").write_bytes(b"hello")
    looked = model("inspect", tmp_path / "odd.onnx")
    assert looked.returncode == 65
    assert "this is no ONNX file" in looked.stderr
    assert model("card", tmp_path).returncode == 65
