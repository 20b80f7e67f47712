"""The environment in which foreign programs of the set-up write inside the project only. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping

from deploy.paths import TOOLS


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` for pip, Maven and Java: caches and temporary files in `.tools`, the user's settings still read."""
    env = dict(environ)
    env.pop("PYTHONPATH", None)
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # pip compiles once; without it every process would compile again
    tmp = TOOLS / "tmp"
    tmp.mkdir(parents=True, exist_ok=True)
    env.update(
        TMPDIR=str(tmp),
        PIP_CACHE_DIR=str(TOOLS / "pip"),
        MAVEN_OPTS=f"{env.get('MAVEN_OPTS', '')} -XX:-UsePerfData -Djava.io.tmpdir={tmp}".strip(),
    )
    env.setdefault("RUSTUP_HOME", str(TOOLS / "rustup"))  # pip asks rustc for its version, and that may write
    return env


def for_go(environ: Mapping[str, str]) -> dict[str, str]:
    """`environment` for Go. Its telemetry counters follow XDG_CONFIG_HOME; the user's settings stay where they are."""
    config = environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    go = TOOLS / "go"
    return {
        "GOENV": os.path.join(config, "go", "env"),
        **environment(environ),
        "XDG_CONFIG_HOME": str(go / "config"),
        "GOBIN": str(TOOLS / "bin"),
        "GOPATH": str(go / "path"),
        "GOMODCACHE": str(go / "mod"),
        "GOCACHE": str(go / "build"),
    }
