"""Writes the golden bytes of schema versions that have none yet. What is there is never written again.

    python -m tests.golden.write

A file holds one framed record of tests/golden/samples.py, as the first program with that schema version wrote it.
"""

from __future__ import annotations

from pathlib import Path

from schemas.codec import BOOK, encode
from tests.golden.samples import SAMPLES

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Write what is missing."""
    for name, sample in SAMPLES.items():
        record = sample()
        path = HERE / f"{name}.v{BOOK.newest(type(record)).version}.bin"
        if not path.exists():
            path.write_bytes(encode(record))
            print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
