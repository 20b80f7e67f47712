"""A missing tool is one sentence: what, how to install it, what works without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy import toolchain
from deploy.toolchain import GO, JAVA, MAVEN, PYTHON, Tool
from schemas.errors import MissingToolError


def fake(folder: Path, command: str, output: str, code: int = 0) -> None:
    program = folder / command
    program.write_text(f"#!/bin/sh\ncat <<'E'\n{output}\nE\nexit {code}\n")
    program.chmod(0o755)


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing of ours on it but what the test puts there."""
    (tmp_path / "cat").symlink_to("/bin/cat")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("tool", "sentence"),
    [
        (
            JAVA,
            "java 17 or newer is needed for the local Kafka broker and was not found; install it with "
            "`apt-get install openjdk-17-jdk-headless`; offline replay (`tidegate replay`) works without it, and so "
            "does a broker elsewhere (KAFKA_BOOTSTRAP_SERVERS)",
        ),
        (
            MAVEN,
            "mvn 3.6 or newer is needed for fetching the Kafka jars and was not found; install it with "
            "`apt-get install maven`; offline replay (`tidegate replay`) works without it, and so does a folder of "
            "Kafka jars named by TIDEGATE_KAFKA_LIBS",
        ),
        (
            GO,
            "go 1.21 or newer is needed for building Prism, the engine that runs the pipeline and was not found; "
            "install it with `apt-get install golang-go (on Debian 12: -t bookworm-backports)`; offline replay "
            "(`tidegate replay`) works without it, and so does a Prism program named by TIDEGATE_PRISM",
        ),
        (
            PYTHON,
            "python 3.11 or newer is needed for everything and was not found; install it with "
            "`apt-get install python3.11 python3.11-venv`; nothing works without it",
        ),
    ],
)
@pytest.mark.usefixtures("only")
def test_a_missing_tool_is_one_sentence(tool: Tool, sentence: str) -> None:
    with pytest.raises(MissingToolError) as error:
        toolchain.find(tool)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("tool", "output", "version"),
    [
        (JAVA, 'openjdk version "17.0.15" 2025-04-15', "17.0.15"),
        (JAVA, 'openjdk version "21" 2023-09-19', "21"),
        (MAVEN, "Apache Maven 3.8.7\nMaven home: /usr/share/maven", "3.8.7"),
        (GO, "go version go1.26.8 linux/amd64", "1.26.8"),
        (PYTHON, "Python 3.11.2", "3.11.2"),
    ],
)
def test_versions_are_read_as_each_tool_prints_them(only: Path, tool: Tool, output: str, version: str) -> None:
    fake(only, tool.commands[0], output)
    assert toolchain.find(tool) == toolchain.Found(str(only / tool.commands[0]), version)


def test_a_tool_that_is_too_old_is_named_with_its_version(only: Path) -> None:
    fake(only, "java", 'openjdk version "11.0.2" 2019-01-15')
    with pytest.raises(MissingToolError, match=r"was not found \(.*java is 11\.0\.2\)"):
        toolchain.find(JAVA)


def test_a_command_that_does_not_run_is_passed_over_for_the_next(only: Path) -> None:
    fake(only, "python3.11", "no such version is installed", code=127)
    fake(only, "python3", "Python 3.11.7")
    assert toolchain.find(PYTHON).path == str(only / "python3")


def test_java_home_goes_before_the_path(only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(only, "java", 'openjdk version "17.0.1"')
    home = tmp_path / "jdk"
    (home / "bin").mkdir(parents=True)
    fake(home / "bin", "java", 'openjdk version "21.0.1"')
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert toolchain.find(JAVA) == toolchain.Found(os.path.join(home, "bin", "java"), "21.0.1")


def test_a_missing_prism_says_how_to_build_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_PRISM", str(tmp_path / "prism"))
    with pytest.raises(MissingToolError, match=r"is not at .*prism; run `make setup` \(needs go\)"):
        toolchain.prism()
