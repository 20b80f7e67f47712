"""Write or check the pages; see the package."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.reference import asyncapi, commands, configuration, topics
from schemas import metrics

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": configuration.page,
    "topics.md": topics.page,
    "asyncapi.json": asyncapi.page,
    "commands.md": commands.page,
    "metrics.md": metrics.markdown,
}


def render() -> dict[str, str]:
    """Pages by file name, as the code describes itself now."""
    os.environ["COLUMNS"] = "100"  # argparse wraps its help at the width of the terminal
    return {name: make() for name, make in PAGES.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 when --check found a page that is out of date."""
    parser = argparse.ArgumentParser(prog="python -m deploy.reference", description="Write docs/reference.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is out of date")
    args = parser.parse_args(argv)
    old = []
    for name, text in render().items():
        path = FOLDER / name
        if path.exists() and path.read_text() == text:
            continue
        old.append(name)
        if not args.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if args.check:
        for name in old:
            print(f"docs/reference/{name} is out of date; `make docs` writes it anew", file=sys.stderr)
        return 1 if old else 0
    print(f"{len(old)} of {len(PAGES)} pages written" if old else "every page is up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
