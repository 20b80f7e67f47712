"""The spool: append, durable acknowledgements and drain, each beside the raw disk in the same run. Prints JSON.

python tests/bench/bench_spool.py [FOLDER]

`append` is records of 2 kB in batches of 16 without forcing to disk, beside os.write of the same bytes and beside
SQLite (WAL, synchronous off). `durable` is fsync = "always": one caller with a batch of 16 records, and 16 callers with
one record each that share an fsync, beside a bare loop of write + fsync of the same batch. `drain` is a backlog read
back and acknowledged by the courier through an outbox that takes everything at once, as a multiple of the append rate.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from edge_filters.courier import Courier
from edge_filters.io.spool import FileSpool
from edge_filters.outgoing import Parcel, Priority
from edge_filters.ports import Delivery, Report

ROUNDS, RECORDS, CALLERS = 1000, 16, 16
DURABLE_S = 3.0
PAYLOAD = bytes(2150)


class Hole:
    """An outbox that takes everything at once."""

    ready, problem = True, ""
    done = Report(Delivery.DELIVERED)

    def send(self, parcel: Parcel) -> Any:
        """Gone."""

    def report(self, receipt: Any) -> Report:
        """Always well."""
        return self.done

    def restart(self) -> None:
        """Never lost anything."""

    def close(self, timeout_s: float) -> None:
        """Nothing is open."""


def median_us(append: Callable[[], object]) -> float:
    """Median microseconds of a call."""
    taken = []
    for _ in range(ROUNDS):
        clock = time.perf_counter()
        append()
        taken.append(time.perf_counter() - clock)
    return round(statistics.median(taken) * 1e6, 1)


def batch(count: int = RECORDS) -> list[Parcel]:
    """Records as events are: 2 kB each."""
    return [Parcel(Priority.URGENT, "edge.events", b"plant1/pump-7", PAYLOAD)] * count


def append(folder: Path) -> dict[str, float]:
    """Append and acknowledge, beside the raw write and SQLite."""
    parcels = batch()
    spool = FileSpool(folder / "spool", max_bytes=256 << 20, fsync="never")

    def segments() -> None:
        spool.append(parcels)
        spool.ack(Priority.URGENT, parcels)

    ours = median_us(segments)
    spool.close()
    raw_file = os.open(folder / "raw", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    data = PAYLOAD * RECORDS
    raw = median_us(lambda: os.write(raw_file, data))
    os.close(raw_file)
    database = sqlite3.connect(folder / "spool.db", isolation_level=None)
    database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;")
    database.execute("CREATE TABLE spool (n INTEGER PRIMARY KEY, topic TEXT, key BLOB, payload BLOB)")
    rows = [(p.topic, p.key, p.payload) for p in parcels]

    def sqlite() -> None:
        database.execute("BEGIN")
        database.executemany("INSERT INTO spool (topic, key, payload) VALUES (?, ?, ?)", rows)
        database.execute("COMMIT")
        database.execute("DELETE FROM spool")

    theirs = median_us(sqlite)
    database.close()
    return {
        "segments_us": ours,
        "raw_write_us": raw,
        "sqlite_us": theirs,
        "mb_per_s": round(len(data) / ours, 1),
        "of_raw": round(raw / ours, 3),
    }


def durable(folder: Path) -> dict[str, float]:
    """Durable acknowledgements per second."""
    file = os.open(folder / "raw-durable", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    data = PAYLOAD * RECORDS

    def raw() -> None:
        os.write(file, data)
        os.fsync(file)

    bare = _per_second(raw, 1) * RECORDS
    os.close(file)
    out = {"raw_acks_per_s": bare}
    for name, callers, count in (("one_caller_of_16", 1, RECORDS), ("callers_of_1", CALLERS, 1)):
        spool = FileSpool(folder / name, max_bytes=1 << 30, fsync="always")
        parcels = batch(count)
        out[f"{name}_acks_per_s"] = _per_second(lambda s=spool, p=parcels: s.append(p), callers) * count  # type: ignore[misc]
        spool.close()
    out["of_raw"] = round(out["one_caller_of_16_acks_per_s"] / bare, 3)
    return {name: round(value, 3) for name, value in out.items()}


def _per_second(call: Callable[[], object], callers: int) -> float:
    stop = time.perf_counter() + DURABLE_S
    counts = [0] * callers

    def work(me: int) -> None:
        while time.perf_counter() < stop:
            call()
            counts[me] += 1

    threads = [threading.Thread(target=work, args=(me,)) for me in range(callers)]
    clock = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - clock)


def drain(folder: Path) -> dict[str, float]:
    """A backlog of 100 MB out again, while as much comes in as before: what is there goes out how many times faster."""
    spool = FileSpool(folder / "drain", max_bytes=1 << 30, fsync="interval")
    parcels = batch()
    rounds = 3000
    clock = time.perf_counter()
    for _ in range(rounds):
        spool.append(parcels)
    filled_s = time.perf_counter() - clock
    spool.close()
    spool = FileSpool(folder / "drain", max_bytes=1 << 30, fsync="interval")
    courier = Courier(spool, Hole())
    clock = time.perf_counter()
    while not courier.idle:
        courier.pump()
    drained_s = time.perf_counter() - clock
    spool.close()
    return {
        "records": rounds * RECORDS,
        "append_records_per_s": round(rounds * RECORDS / filled_s),
        "drain_records_per_s": round(rounds * RECORDS / drained_s),
        "drain_mb_per_s": round(rounds * RECORDS * len(PAYLOAD) / drained_s / 1e6, 1),
    }


def main() -> None:
    """Measure and print."""
    where = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=where) as name:
        folder = Path(name)
        print(json.dumps({"append": append(folder), "durable": durable(folder), "drain": drain(folder)}, indent=2))


if __name__ == "__main__":
    main()
