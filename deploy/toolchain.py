"""Programs from outside that the set-up needs, and the sentence when one is not there. Standard library only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from deploy import contained, paths, versions
from schemas.errors import MissingToolError


@dataclass(frozen=True)
class Tool:
    """A program, the least version of it that will do, and what to tell a user who has none."""

    name: str
    commands: tuple[str, ...]  # looked for in this order
    version_args: tuple[str, ...]
    version_pattern: str  # one group: dotted numbers
    min_version: tuple[int, ...]
    install: str  # a whole command
    needed_for: str
    without: str  # what still works


@dataclass(frozen=True)
class Found:
    """A tool that is there and new enough."""

    path: str
    version: str


_REPLAY = "offline replay (`tidegate replay`) works without it"

PYTHON = Tool(
    name="python",
    commands=("python3.11", "python3", "python"),
    version_args=("-c", "import sys; print('Python %d.%d.%d' % sys.version_info[:3])"),
    version_pattern=r"Python (\d+\.\d+\.\d+)",
    min_version=versions.MIN_PYTHON,
    install="apt-get install python3.11 python3.11-venv",
    needed_for="everything",
    without="nothing works without it",
)
JAVA = Tool(
    name="java",
    commands=("java",),
    version_args=("-XX:-UsePerfData", "-version"),
    version_pattern=r'version "(\d+(?:\.\d+)*)',
    min_version=versions.MIN_JAVA,
    install="apt-get install openjdk-17-jdk-headless",
    needed_for="the local Kafka broker",
    without=f"{_REPLAY}, and so does a broker elsewhere (KAFKA_BOOTSTRAP_SERVERS)",
)
MAVEN = Tool(
    name="mvn",
    commands=("mvn",),
    version_args=("-v",),
    version_pattern=r"Apache Maven (\d+\.\d+(?:\.\d+)?)",
    min_version=versions.MIN_MAVEN,
    install="apt-get install maven",
    needed_for="fetching the Kafka jars",
    without=f"{_REPLAY}, and so does a folder of Kafka jars named by TIDEGATE_KAFKA_LIBS",
)
GO = Tool(
    name="go",
    commands=("go",),
    version_args=("version",),
    version_pattern=r"go(\d+\.\d+(?:\.\d+)?)",
    min_version=versions.MIN_GO,
    install="apt-get install golang-go (on Debian 12: -t bookworm-backports)",
    needed_for="building Prism, the engine that runs the pipeline",
    without=f"{_REPLAY}, and so does a Prism program named by TIDEGATE_PRISM",
)


def find(tool: Tool) -> Found:
    """The first command of `tool` that runs and is new enough.

    Raises: MissingToolError: there is none; says what, how to install it and what works without it.
    """
    too_old = ""
    for command in tool.commands:
        path = _which(command)
        if path is None:
            continue
        version = _version(tool, path)
        if version is None:
            continue
        if numbers(version) >= tool.min_version:
            return Found(path, version)
        too_old = too_old or f" ({path} is {version})"
    least = ".".join(map(str, tool.min_version))
    raise MissingToolError(
        f"{tool.name} {least} or newer is needed for {tool.needed_for} and was not found{too_old}",
        fix=f"install it with `{tool.install}`; {tool.without}",
    )


def prism() -> Path:
    """The Prism program. Raises MissingToolError: it was not built."""
    program = paths.prism()
    if not os.access(program, os.X_OK):
        raise MissingToolError(
            f"Prism, the engine that runs the pipeline, is not at {program}",
            fix=f"run `make setup` (needs go); {_REPLAY}",
        )
    return program


def numbers(version: str) -> tuple[int, ...]:
    """Dotted numbers as a tuple that compares.

    >>> numbers("1.26.8") >= (1, 21)
    True
    """
    return tuple(int(part) for part in version.split("."))


def _which(command: str) -> str | None:
    """Like shutil.which; java is looked for under JAVA_HOME first, as Maven does."""
    java_home = os.environ.get("JAVA_HOME")
    if command == "java" and java_home:
        return shutil.which(os.path.join(java_home, "bin", "java")) or shutil.which("java")
    return shutil.which(command)


def _version(tool: Tool, path: str) -> str | None:
    """What the program calls itself, or None when it does not run (a shim without a version behind it, say)."""
    try:
        done = subprocess.run(
            [path, *tool.version_args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=contained.for_go(os.environ),
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(tool.version_pattern, done.stdout.decode(errors="replace"))
    return match[1] if match and done.returncode == 0 else None
