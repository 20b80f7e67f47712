"""`python -m edge_filters`."""

import os

# before numpy is imported: its thread pool costs memory for each core, and our matrices are small
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from edge_filters.cli import main

raise SystemExit(main())
