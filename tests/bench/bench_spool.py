"""One append of 16 records of 2 kB: our segment files against SQLite (WAL), without forcing to disk. Prints JSON.

python tests/bench/bench_spool.py
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from edge_filters.io.spool import FileSpool
from edge_filters.outgoing import Parcel, Priority

ROUNDS, RECORDS = 1000, 16


def median_us(append: Callable[[], object]) -> float:
    """Median microseconds of a call."""
    taken = []
    for _ in range(ROUNDS):
        clock = time.perf_counter()
        append()
        taken.append(time.perf_counter() - clock)
    return round(statistics.median(taken) * 1e6, 1)


def main() -> None:
    """Measure and print."""
    parcels = [Parcel(Priority.URGENT, "edge.events", b"plant1/pump-7", bytes(2150)) for _ in range(RECORDS)]
    with tempfile.TemporaryDirectory() as folder:
        spool = FileSpool(Path(folder) / "spool", max_bytes=256 << 20, fsync="never")

        def segments() -> None:
            spool.append(parcels)
            spool.ack(Priority.URGENT, parcels)

        ours = median_us(segments)
        spool.close()
        database = sqlite3.connect(Path(folder) / "spool.db", isolation_level=None)
        database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;")
        database.execute("CREATE TABLE spool (n INTEGER PRIMARY KEY, topic TEXT, key BLOB, payload BLOB)")
        rows = [(p.topic, p.key, p.payload) for p in parcels]

        def sqlite() -> None:
            database.execute("BEGIN")
            database.executemany("INSERT INTO spool (topic, key, payload) VALUES (?, ?, ?)", rows)
            database.execute("COMMIT")
            database.execute("DELETE FROM spool")

        theirs = median_us(sqlite)
    print(json.dumps({"records": RECORDS, "segments_us": ours, "sqlite_us": theirs}))


if __name__ == "__main__":
    main()
