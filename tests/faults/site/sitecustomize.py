"""Found by every Python process below `python -m tests.faults.broken`: patches the product before its main starts."""

import os

if _mutant := os.environ.get("TIDEGATE_FAULTS_MUTANT"):
    from tests.faults.mutants import apply

    apply(_mutant)
