"""`python -m deploy` is the `tidegate` command."""

import sys

from deploy.cli import main

sys.exit(main())
