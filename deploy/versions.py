"""Versions of the parts that are not Python packages, each read from the one file that states it. Standard library."""

from __future__ import annotations

import re

from deploy.paths import FLINK_POM, POM, ROOT
from schemas.errors import ConfigError

#: The broker and its tools are compiled for this Java.
MIN_JAVA = (17,)
#: Below this Go cannot fetch by itself the newer Go that Prism's module asks for.
MIN_GO = (1, 21)
MIN_MAVEN = (3, 6)
MIN_PYTHON = (3, 11)


def kafka() -> str:
    """Version of Kafka, as deploy/kafka/pom.xml states it. Raises ConfigError: it does not."""
    return _find(r"<kafka\.version>([^<]+)</kafka\.version>", "deploy/kafka/pom.xml", POM.read_text())


def flink() -> str:
    """Version of Flink, MAJOR.MINOR, as deploy/flink/pom.xml states it. Raises ConfigError: it does not."""
    return _find(r"<flink\.version>([^<]+)</flink\.version>", "deploy/flink/pom.xml", FLINK_POM.read_text())


def beam() -> str:
    """Version of Beam, and so of Prism, as pyproject.toml pins it. Raises ConfigError: it does not."""
    return _find(r'"apache-beam==([0-9.]+)"', "pyproject.toml", (ROOT / "pyproject.toml").read_text())


def _find(pattern: str, file: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise ConfigError("no version found", file=file, fix=f"the file must contain {pattern}")
    return match[1].strip()
