"""Commands that are handed a recording which kills whoever reads it: the child dies, the command does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy import cli, suspect
from tests.doubles import edge_model, recording
from tests.hostile import avro
from tests.hostile.test_suspect import large_block

GOOD = 40


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Some good blocks, then one that takes more memory than a child of this test may have."""
    monkeypatch.setattr(suspect, "LIMITS", suspect.Limits(memory_bytes=8 << 20))
    path = recording.write(tmp_path / "deadly.avro", [0.1] * GOOD + [5.0] * GOOD)
    count, body = large_block()
    with path.open("ab") as file:
        file.write(avro.block(count, body, path.read_bytes()[-16:]))
    return path


def test_a_replay_decides_what_lies_before_the_place_and_says_where_it_is(
    deadly: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = edge_model.write(tmp_path / "model")
    code = cli.main(
        ["replay", str(deadly), "--model", str(model), "-o", str(tmp_path / "out"), "--format", "json", "--quiet"]
    )
    out, err = capfd.readouterr()
    report: dict[str, Any] = json.loads(out)
    assert code == 65
    assert "reading it killed the process that did: it took more than 8 MiB of memory (file='" in err
    assert f"record={2 * GOOD // 10})" in err
    assert report["models"][0]["ledger"]["readings_sensed"] == 2 * GOOD


def test_a_page_is_made_of_what_lies_before_the_place(
    deadly: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", str(deadly), "-o", str(tmp_path / "page.html"), "--quiet"]) == 65
    assert "reading it killed the process that did" in capfd.readouterr().err
    assert (tmp_path / "page.html").stat().st_size > 1_000


def test_a_model_is_tried_on_what_lies_before_the_place(
    deadly: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = edge_model.write(tmp_path / "model")
    assert cli.main(["model", "try", str(model), str(deadly), "-o", "json"]) == 65
    out, err = capfd.readouterr()
    assert "reading it killed the process that did" in err
    assert sum(device["windows"] for device in json.loads(out)["devices"].values()) == 2 * GOOD // 4
