"""The set-up: what it pins, what it does twice (nothing), and what it says when it fails."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from deploy import bootstrap, contained, versions
from deploy.checkup import locked
from deploy.paths import ROOT, TOOLS
from schemas.errors import ConfigError, UnavailableError

LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_files_pin_every_package_by_hash_and_name_no_address(lock: Path) -> None:
    text = lock.read_text()
    requirements = re.findall(r"^(\S+)==\S+.*\\\n((?:    --hash=sha256:[0-9a-f]{64}.*\n)+)", text, re.MULTILINE)
    starts = re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE)
    assert len(requirements) == len(starts) > 15
    assert "://" not in text
    assert "--index-url" not in text
    assert "--find-links" not in text
    assert str(ROOT) not in text


def test_the_smaller_locks_have_the_versions_of_the_whole_one() -> None:
    whole = dict(locked((ROOT / "requirements" / "dev.txt").read_text()))
    for name in ("edge.txt", "cloud.txt"):
        part = dict(locked((ROOT / "requirements" / name).read_text()))
        assert part.items() <= whole.items()


def test_an_edge_install_brings_no_beam_and_nothing_heavy() -> None:
    names = {name for name, _ in locked((ROOT / "requirements" / "edge.txt").read_text())}
    assert {"kafka-python", "onnxruntime", "fastavro", "crc32c"} <= names
    assert not names & {"apache-beam", "pyarrow", "scikit-learn", "scipy", "grpcio", "rich"}


def test_the_lock_answers_every_dependency_of_pyproject() -> None:
    whole = {name for name, _ in locked((ROOT / "requirements" / "dev.txt").read_text())}
    text = (ROOT / "pyproject.toml").read_text()
    wanted = set(re.findall(r'^    "([A-Za-z0-9-]+)(?:\[[^]]*\])?[<>=~]', text, re.MULTILINE))
    assert wanted
    assert wanted <= whole


def test_prism_has_the_version_of_the_installed_beam() -> None:
    assert versions.beam() == metadata.version("apache-beam")


def test_everything_a_foreign_program_writes_stays_inside() -> None:
    env = contained.for_go({"HOME": "/home/user", "PYTHONPATH": "elsewhere", "MAVEN_OPTS": "-Dmine=1"})
    for name in ("TMPDIR", "PIP_CACHE_DIR", "GOPATH", "GOMODCACHE", "GOCACHE", "GOBIN", "XDG_CONFIG_HOME"):
        assert Path(env[name]).is_relative_to(TOOLS), name
    assert env["MAVEN_OPTS"].startswith("-Dmine=1 ")
    assert env["GOENV"].endswith("/.config/go/env")
    assert not Path(env["GOENV"]).is_relative_to(TOOLS)
    assert "PYTHONPATH" not in env


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bootstrap.Step:
    """A step of the set-up that makes one file, in a folder of its own."""
    monkeypatch.setattr(bootstrap, "TOOLS", tmp_path)
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    made = tmp_path / "made"
    return bootstrap.Step(
        "part", made, lambda: "version 1", lambda run: run("making", ["/bin/sh", "-c", f"echo 1 > {made}"])
    )


def test_a_finished_step_is_done_until_its_input_changes(step: bootstrap.Step) -> None:
    assert not step.done()
    step.run()
    assert step.error is None
    assert step.done()
    step._stamp = lambda: "version 2"
    assert not step.done()


def test_a_step_whose_work_was_removed_is_not_done(step: bootstrap.Step) -> None:
    step.run()
    step.made.unlink()
    assert not step.done()


def test_a_failed_step_leaves_no_stamp_and_ends_with_the_programs_own_words(step: bootstrap.Step) -> None:
    step.run()
    step._make = lambda run: run("fetching", ["/bin/sh", "-c", "echo the mirror said no; exit 3"])
    step.run()
    assert not step.done()
    assert isinstance(step.error, UnavailableError)
    assert re.search(
        r"fetching failed with exit code 3; see .*part\.log.*the mirror said no", str(step.error), re.DOTALL
    )


def test_it_runs_as_a_file_with_nothing_on_the_path(tmp_path: Path) -> None:
    script = str(ROOT / "deploy" / "bootstrap.py")
    done = subprocess.run(
        [sys.executable, "-I", "-S", script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--only venv" in done.stdout


SELECT = """\
		select {
		case <-dataReady:
			dataFinished = true
			if bundleFinished {
"""


def test_prism_is_told_to_wait_where_it_would_spin(tmp_path: Path) -> None:
    source = tmp_path / "stage.go"
    source.write_text(SELECT)
    bootstrap.mend(source)
    assert source.read_text().splitlines()[1:4] == [
        "\t\tcase <-dataReady:",
        "\t\t\tdataFinished = true",
        "\t\t\tdataReady = nil",
    ]


@pytest.mark.parametrize("text", ["", SELECT * 2, SELECT.replace("true", "ready.Load()")])
def test_a_prism_that_is_not_what_was_mended_before_is_not_touched(tmp_path: Path, text: str) -> None:
    source = tmp_path / "stage.go"
    source.write_text(text)
    with pytest.raises(ConfigError, match=r"stage\.go of Prism .* busy loop"):
        bootstrap.mend(source)
    assert source.read_text() == text
