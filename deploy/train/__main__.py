"""`python -m deploy.train`: a model package from recordings of normal operation."""

import sys

from deploy.train.cli import main

sys.exit(main())
