"""`python -m tests.faults.broken MUTANT -- edge_filters run edge.toml`: the product, broken on purpose.

The proof that a scenario can fail: with the right mutant it must. Child processes are broken in the same way.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.faults.mutants import MUTANTS


def main(argv: list[str]) -> None:
    """Become the module's process, with the mutant in it."""
    if len(argv) < 3 or argv[1] != "--" or argv[0] not in MUTANTS:
        known = "\n".join(f"  {name:18} {found.__doc__}" for name, found in MUTANTS.items())
        sys.exit(f"usage: python -m tests.faults.broken MUTANT -- MODULE [ARGUMENT…]\nmutants:\n{known}")
    site = str(Path(__file__).parent / "site")
    path = [site, *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = {**os.environ, "TIDEGATE_FAULTS_MUTANT": argv[0], "PYTHONPATH": os.pathsep.join(path)}
    os.execve(sys.executable, [sys.executable, "-m", *argv[2:]], environ)


if __name__ == "__main__":
    main(sys.argv[1:])
