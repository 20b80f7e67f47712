"""Recordings that kill whoever reads them: a real child with real limits dies, and what was good before is kept."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.suspect import LIMITS, survivors
from schemas.container import MAX_BLOCK_BYTES, Block, ContainerWriter, read, read_header, scan
from schemas.errors import DecodeError
from schemas.records import SensorBlock
from tests.doubles import records as make
from tests.golden.samples import SAMPLES
from tests.hostile import avro

SMALL = [make.audit(seq=n) for n in range(2_000)]


def recording(path: Path, blocks: list[tuple[int, bytes]]) -> Path:
    """A recording of small blocks, and further ones as they are."""
    whole = avro.container(SMALL)
    path.write_bytes(whole + b"".join(avro.block(count, body, whole[-16:]) for count, body in blocks))
    return path


def large_block() -> tuple[int, bytes]:
    """Valid records, as many as a block may have: much memory for a process that may have little."""
    one = avro.container([make.audit(event_times=bytes(8 * 40_000), values=bytes(8 * 40_000))])
    body = one[one.index(b"pump-1") - 1 : -16]
    count = MAX_BLOCK_BYTES // len(body)
    return count, body * count


def records(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in read(file, SensorBlock))


def test_a_good_recording_a_damaged_one_and_a_missing_one_are_left_to_the_reader(tmp_path: Path) -> None:
    good = recording(tmp_path / "good.avro", [large_block()])
    damaged = tmp_path / "damaged.avro"
    damaged.write_bytes(good.read_bytes()[:-100])
    paths = [good, damaged, tmp_path / "missing.avro", tmp_path]
    with survivors(paths) as (safe, deaths):
        assert (safe, deaths) == (paths, [])


def test_of_a_file_that_takes_too_much_memory_what_is_before_the_block_is_kept(tmp_path: Path) -> None:
    path = recording(tmp_path / "r.avro", [large_block()])
    start = len(avro.container(SMALL))
    with survivors([path], replace(LIMITS, memory_bytes=8 << 20)) as ((safe,), (death,)):
        assert (safe.name, records(safe)) == ("r.avro", len(SMALL))
    assert death.startswith("reading it killed the process that did: it took more than 8 MiB of memory (file='")
    assert f"offset={start}, record={len(SMALL)})" in death
    assert not safe.exists()


def test_a_file_that_takes_too_long_is_ended_by_the_system(tmp_path: Path) -> None:
    count, body = large_block()
    one = avro.container([make.audit(event_times=b"", values=b"")])
    tiny = one[one.index(b"pump-1") - 1 : -16]
    many = MAX_BLOCK_BYTES // len(tiny)
    path = recording(tmp_path / "r.avro", [(count, body)] + [(many, tiny * many)] * 12)
    with survivors([path], replace(LIMITS, cpu_s=1, cpu_s_per_mib=0.0)) as ((safe,), (death,)):
        assert len(SMALL) <= records(safe) < len(SMALL) + count + 12 * many
    assert "it took more than 1 s" in death


def test_in_a_folder_the_other_files_stay_where_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "day"
    folder.mkdir()
    recording(folder / "bad.avro", [large_block()])
    recording(folder / "good.avro", [])
    (folder / "good.stamps.csv").write_text("partition,offset,stamped_ms\n")
    with survivors([folder], replace(LIMITS, memory_bytes=8 << 20)) as ((safe,), deaths):
        assert sorted(file.name for file in safe.iterdir()) == ["bad.avro", "good.avro", "good.stamps.csv"]
        assert [records(safe / name) for name in ("bad.avro", "good.avro")] == [len(SMALL)] * 2
    assert len(deaths) == 1


def test_a_file_that_kills_before_its_first_record_is_refused(tmp_path: Path) -> None:
    one = avro.container([make.audit()])
    count, body = large_block()
    path = tmp_path / "r.avro"
    head = _header_of(one)
    path.write_bytes(head + avro.block(count, body, head[-16:]))
    with (
        pytest.raises(DecodeError, match=r"killed the process that did: it took more than 8 MiB.*offset=\d+, record=0"),
        survivors([path], replace(LIMITS, memory_bytes=8 << 20)),
    ):
        pass


def _header_of(container: bytes) -> bytes:
    return container[: read_header(io.BytesIO(container)).length]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_scan_tells_of_each_block_before_it_looks_at_it(name: str) -> None:
    file = io.BytesIO()
    writer = ContainerWriter(file, type(SAMPLES[name]()))
    for _ in range(3):
        for _ in range(4):
            writer.write(SAMPLES[name]())
        writer.close()
    told: list[Block] = []
    scan(io.BytesIO(file.getvalue()), told.append)
    assert [block.records for block in told] == [0, 0, 4, 8]
    assert told[1].start == len(_header_of(file.getvalue()))
    assert sorted(block.start for block in told) == [block.start for block in told]


def test_a_scan_of_anything_ends_without_an_error() -> None:
    for case in avro.containers():
        scan(io.BytesIO(case.data), lambda _: None)
