"""`tidegate` as a user runs it: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from deploy.paths import ROOT


def tidegate(
    *words: object, folder: Path = ROOT, timeout_s: float = 240, **env: str | None
) -> subprocess.CompletedProcess[str]:
    """Run it in `folder` to its end. `env`: variables that are set, or unset by None. Raises TimeoutExpired."""
    around = {key: value for key, value in (os.environ | {"PYTHONPATH": str(ROOT)} | env).items() if value is not None}
    return subprocess.run(
        [sys.executable, "-m", "deploy", *map(str, words)],
        cwd=folder,
        env=around,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
