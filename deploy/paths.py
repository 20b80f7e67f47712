"""Where things lie: the checkout, what the set-up made, and what the local stack keeps. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

VENV = ROOT / ".venv"
TOOLS = ROOT / ".tools"
POM = ROOT / "deploy" / "kafka" / "pom.xml"
FLINK_POM = ROOT / "deploy" / "flink" / "pom.xml"
LOG4J = ROOT / "deploy" / "kafka" / "log4j2.properties"


def kafka_libs() -> Path:
    """Folder of the broker's jars; TIDEGATE_KAFKA_LIBS names another one."""
    return Path(os.environ.get("TIDEGATE_KAFKA_LIBS") or TOOLS / "kafka" / "libs")


def flink_libs() -> Path:
    """Folder of the jars of Flink and of Beam's job server; TIDEGATE_FLINK_LIBS names another one."""
    return Path(os.environ.get("TIDEGATE_FLINK_LIBS") or TOOLS / "flink" / "libs")


def prism() -> Path:
    """The Prism program; TIDEGATE_PRISM names another one."""
    return Path(os.environ.get("TIDEGATE_PRISM") or TOOLS / "bin" / "prism")


def home() -> Path:
    """Folder of the local stack: broker data, logs, state. TIDEGATE_HOME names another one."""
    return Path(os.environ.get("TIDEGATE_HOME") or ROOT / ".tidegate").absolute()
