"""`tidegate doctor`: what is there, what is missing, what to do about it."""

from __future__ import annotations

import argparse
from dataclasses import asdict

HELP = "check everything that Tidegate needs, each with the next step"
EXAMPLES = """\
examples:
  tidegate doctor
  tidegate doctor -o json | jq '.[] | select(.level != "ok")'

exit codes: 0 nothing failed (warnings are possible), 1 a check failed
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    from deploy import address, output

    address.add_options(parser)
    output.add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Print every check. Returns 1 when one failed."""
    from deploy import address, checkup, output

    checks = checkup.run_all(address.resolve(args.bootstrap_servers), args.prefix)
    rows = [asdict(check) for check in checks]
    if args.output == "json":
        output.print_json(rows)
    else:
        output.print_table(rows, {"level": "", "name": "check", "found": "found", "fix": "next step"})
    return 1 if any(check.level == "fail" for check in checks) else 0
