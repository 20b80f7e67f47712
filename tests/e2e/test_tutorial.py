"""docs/tutorial.md, run from top to bottom as a reader would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.paths import ROOT
from tests.wait import until

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """`tidegate` and `python` on the PATH, a home of its own; nothing is left running."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in (("tidegate", "-m deploy"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (programs / name).chmod(0o755)
    bare = {k: v for k, v in os.environ.items() if not k.endswith("BOOTSTRAP_SERVERS") and k != "KAFKA"}
    env = bare | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TIDEGATE_HOME": str(tmp_path / "home"),
    }
    yield env
    subprocess.run([str(programs / "tidegate"), "down", "--wipe"], env=env, check=True, capture_output=True)


@pytest.mark.kafka
@pytest.mark.prism
@pytest.mark.timeout(400)
def test_the_tutorial_runs_from_top_to_bottom(environment: dict[str, str], prism: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    log = folder / "tutorial.log"
    with log.open("wb") as out:
        shell = subprocess.Popen(
            ["bash", "-euc", "\n".join(BLOCKS)],
            cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            until(lambda: shell.poll() is not None, "the tutorial ends", within_s=360)
        finally:
            subprocess.run(["pkill", "-TERM", "-s", str(shell.pid)], check=False)
    said = log.read_text()
    assert shell.returncode == 0, said[-4000:]

    assert "22,695 rows" in said
    assert "jumps back in time" in said
    assert "sensed" in said.partition("final: ")[2]
    for page in ("model/report.html", "replayed.html", "event.html", "live.html"):
        assert "<svg" in (folder / page).read_text(), page
    manifest = json.loads((folder / "site/models/model/manifest.json").read_text())
    assert manifest["edge"]["file"] == "edge.onnx"
    assert (folder / "live" / "cloud.decisions.avro").stat().st_size > 1000
    assert "stopped" in (folder / "pipeline.log").read_text()
