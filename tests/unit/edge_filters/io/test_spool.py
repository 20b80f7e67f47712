from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_filters.io.spool import FileSpool
from edge_filters.outgoing import Parcel, Priority
from schemas.errors import SpoolError
from tests.doubles.edge_parts import number_of, parcel

MIB = 1 << 20


def opened(folder: Path, max_bytes: int = 4 * MIB) -> FileSpool:
    return FileSpool(folder, max_bytes=max_bytes, fsync="never")


def everything(spool: FileSpool, priority: Priority = Priority.URGENT) -> list[Parcel]:
    found: list[Parcel] = []
    number = spool.first(priority)
    while (number := spool.next(priority, number)) < spool.end(priority):
        part = spool.read(priority, number, 7, 4096)
        assert part or spool.next(priority, number) > number
        found += part
        number += len(part)
    return found


def segments(folder: Path, lane: str = "urgent") -> list[Path]:
    return sorted((folder / lane).glob("*.seg"))


def test_what_was_kept_is_there_after_a_restart_but_for_what_was_acknowledged(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    kept = [parcel(n, size=50) for n in range(20)]
    assert spool.append(kept[:5]) == {Priority.URGENT: 0}
    assert spool.append(kept[5:]) == {Priority.URGENT: 5}
    spool.ack(Priority.URGENT, kept[:8])
    spool.close()
    again = opened(tmp_path)
    assert everything(again) == kept[8:]
    assert again.waiting_records == 12
    assert again.waiting_bytes == 12 * (16 + 2 + len("edge.events") + 6 + 50)
    assert again.waiting_by_key == {b"pump-7": 12}
    again.close()


def test_lanes_are_numbered_and_kept_apart(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    assert spool.append([parcel(0), parcel(1, Priority.BULK), parcel(2)]) == {Priority.URGENT: 0, Priority.BULK: 0}
    assert [number_of(p) for p in everything(spool)] == [0, 2]
    assert [number_of(p) for p in everything(spool, Priority.BULK)] == [1]
    spool.close()


def test_a_record_larger_than_the_read_size_is_read_all_the_same(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append([parcel(0, size=500_000), parcel(1)])
    assert [number_of(p) for p in everything(spool)] == [0, 1]
    spool.close()


def test_reading_may_go_back_to_any_parcel_that_is_not_acknowledged(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append([parcel(n) for n in range(10)])
    assert [number_of(p) for p in spool.read(Priority.URGENT, 6, 2, MIB)] == [6, 7]
    assert [number_of(p) for p in spool.read(Priority.URGENT, 3, 2, MIB)] == [3, 4]
    assert spool.read(Priority.URGENT, 10, 2, MIB) == []
    spool.close()


def test_acknowledged_segments_are_removed_and_the_disk_use_stays_flat(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for n in range(500):
        sent = [parcel(n, size=10_000)]
        spool.append(sent)
        spool.ack(Priority.URGENT, sent)
    assert len(segments(tmp_path)) <= 2
    assert spool.fullness < 0.2
    spool.close()


def test_a_full_spool_throws_out_the_oldest_bulk_first_and_counts_it(tmp_path: Path) -> None:
    spool = opened(tmp_path, 1 * MIB)
    spool.append([parcel(n, size=10_000) for n in range(40)])
    for n in range(100):
        spool.append([parcel(n, Priority.BULK, 10_000, b"pump-8")])
    assert len(everything(spool)) == 40
    left = [number_of(p) for p in everything(spool, Priority.BULK)]
    assert left == list(range(100 - len(left), 100))
    assert spool.take_dropped() == {b"pump-8": 100 - len(left)}
    assert spool.take_dropped() == {}
    assert spool.fullness <= 1.0
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.seg")) <= MIB
    spool.close()


def test_without_bulk_the_oldest_urgent_records_make_room(tmp_path: Path) -> None:
    spool = opened(tmp_path, 1 * MIB)
    for n in range(200):
        spool.append([parcel(n, size=10_000)])
    left = [number_of(p) for p in everything(spool)]
    assert left == list(range(200 - len(left), 200))
    assert spool.take_dropped() == {b"pump-7": 200 - len(left)}
    assert spool.waiting_records == len(left)
    spool.close()


def test_a_record_that_is_larger_than_the_whole_spool_is_an_error(tmp_path: Path) -> None:
    spool = opened(tmp_path, 1 * MIB)
    with pytest.raises(SpoolError, match=r"a record is larger than the whole spool .*; raise spool\.max_bytes"):
        spool.append([parcel(0, size=MIB)])
    spool.close()


def test_a_torn_record_at_the_end_is_cut_off_and_said(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append([parcel(n) for n in range(5)])
    spool.close()
    (path,) = segments(tmp_path)
    whole = path.read_bytes()
    for cut in range(1, 30):
        path.write_bytes(whole[:-cut])
        again = opened(tmp_path)
        assert [number_of(p) for p in everything(again)] == list(range(5))[: -1 - (cut - 1) // 37]
        assert again.take_notices()[0].startswith(f"a torn record at the end of {path} was cut off: ")
        again.append([parcel(9)])
        assert number_of(everything(again)[-1]) == 9
        again.close()
        path.write_bytes(whole)


def test_a_flipped_bit_costs_the_record_that_it_is_in_and_nothing_else(tmp_path: Path) -> None:
    spool = opened(tmp_path, 1 * MIB)  # segments of 64 KiB
    kept = [parcel(n, size=10_000) for n in range(14)]
    spool.append(kept[:7])
    spool.append(kept[7:])
    spool.close()
    first, second = segments(tmp_path)
    assert second.name == "00000000000000000007.seg"
    raw = bytearray(first.read_bytes())
    raw[35_000] ^= 4
    first.write_bytes(raw)
    again = opened(tmp_path, 1 * MIB)
    left = [*range(3), *range(4, 14)]
    assert [number_of(p) for p in everything(again)] == left
    assert again.waiting_records == len(left)
    assert again.take_dropped() == {b"": 1}
    assert again.take_notices() == [f"damage in {first}: numbers 3 to 3 are lost"]
    again.ack(Priority.URGENT, everything(again)[:5])  # 0, 1, 2, 4, 5: the hole is no record
    assert again.first(Priority.URGENT) == 6
    again.append([parcel(14)])
    again.close()
    once_more = opened(tmp_path, 1 * MIB)
    assert [number_of(p) for p in everything(once_more)] == list(range(6, 15))
    assert once_more.take_dropped() == {}
    once_more.close()


def test_a_record_that_is_damaged_after_the_start_is_passed_over_and_counted(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append([parcel(n, size=1000) for n in range(10)])
    (path,) = segments(tmp_path)
    with path.open("r+b") as file:
        file.seek(4500)
        file.write(b"\xff\xff\xff")
    assert [number_of(p) for p in everything(spool)] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert spool.take_dropped() == {b"": 1}
    spool.ack(Priority.URGENT, everything(spool))
    assert spool.waiting_records == 0
    spool.close()


def test_segments_that_were_swapped_copied_or_brought_from_elsewhere_never_deliver_a_wrong_record(
    tmp_path: Path,
) -> None:
    spool, other = opened(tmp_path / "a", 1 * MIB), opened(tmp_path / "b", 1 * MIB)
    kept = [parcel(n, size=10_000) for n in range(28)]
    for begin in range(0, 28, 7):
        spool.append(kept[begin : begin + 7])
        other.append([parcel(100 + n, size=10_000) for n in range(7)])
    spool.close()
    other.close()
    first, second, third, _ = segments(tmp_path / "a")
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    third.with_name("00000000000000000090.seg").write_bytes(third.read_bytes())
    (tmp_path / "a" / "bulk" / third.name).write_bytes(third.read_bytes())
    (tmp_path / "a" / "urgent" / "00000000000000000100.seg").write_bytes(segments(tmp_path / "b")[0].read_bytes())
    again = opened(tmp_path / "a", 1 * MIB)
    assert everything(again) == kept
    assert everything(again, Priority.BULK) == []
    notices = "\n".join(again.take_notices())
    assert notices.count("lay in the wrong place and was put back") == 2
    assert notices.count("is a copy of") == 2
    assert notices.count("does not belong to this spool") == 1
    assert len(list((tmp_path / "a").rglob("*.aside"))) == 3
    again.close()


def test_a_file_in_which_nothing_is_ours_is_put_aside_and_not_thrown_away(tmp_path: Path) -> None:
    opened(tmp_path).close()
    old = tmp_path / "urgent" / "00000000000000000000.seg"
    old.write_bytes(b"an older format " * 20)
    again = opened(tmp_path)
    assert again.append([parcel(1)])[Priority.URGENT] > 0
    assert everything(again) == [parcel(1)]
    (notice,) = again.take_notices()
    assert "can be read; it was renamed to 00000000000000000000.aside" in notice
    assert old.with_suffix(".aside").read_bytes() == b"an older format " * 20
    again.close()


def test_whatever_is_done_to_its_bytes_it_opens_and_gives_back_nothing_but_what_was_kept(tmp_path: Path) -> None:
    draw = random.Random(7)
    spool = opened(tmp_path / "s", 1 * MIB)
    kept = [parcel(n, size=draw.randrange(8, 3000)) for n in range(60)]
    for begin in range(0, 60, 5):
        spool.append(kept[begin : begin + 5])
    spool.close()
    files = sorted(path for path in (tmp_path / "s").rglob("*") if path.is_file() and path.name != "reserve")
    whole = {path: path.read_bytes() for path in files}
    for _ in range(120):
        path = draw.choice([path for path in files if path.name not in ("lock", "id")])
        data = bytearray(whole[path])
        where = draw.randrange(len(data))
        match draw.randrange(4):
            case 0:
                data[where] ^= 1 << draw.randrange(8)
            case 1:
                del data[where:]
            case 2:
                data[where:where] = data[draw.randrange(len(data)) :][: draw.randrange(5000)]
            case _:
                data[where : where + draw.randrange(1, 400)] = draw.randbytes(draw.randrange(400))
        path.write_bytes(data)
        again = opened(tmp_path / "s", 1 * MIB)
        found = everything(again)
        numbers = [number_of(p) for p in found]
        assert [kept[n] for n in numbers] == found
        assert numbers == sorted(set(numbers))
        again.append([parcel(99)])
        assert number_of(everything(again)[-1]) == 99
        again.close()
        for extra in (tmp_path / "s").rglob("*"):
            if extra.is_file() and extra not in whole:
                extra.unlink()
        for path, data_before in whole.items():
            path.write_bytes(data_before)


def test_a_lost_count_of_acknowledgements_only_makes_records_go_out_again(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    kept = [parcel(n) for n in range(5)]
    spool.append(kept)
    spool.ack(Priority.URGENT, kept[:3])
    spool.close()
    (tmp_path / "urgent" / "acked").write_bytes(b"garbage?" * 100)
    again = opened(tmp_path)
    assert everything(again) == kept
    again.close()


def test_a_second_process_is_told_who_has_the_spool(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    code = (
        "import sys; from pathlib import Path; from edge_filters.io.spool import FileSpool\n"
        "try: FileSpool(Path(sys.argv[1]), max_bytes=1 << 20)\n"
        "except Exception as e: print(e)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == (
        f"the spool is in use by another process (spool='{tmp_path}', pid='{os.getpid()}'); "
        "stop that process, or give this one a spool of its own"
    )
    spool.close()
    opened(tmp_path).close()


def test_what_append_returned_for_survives_kill_9(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from edge_filters.io.spool import FileSpool; from tests.doubles.edge_parts import parcel\n"
        "spool = FileSpool(Path(sys.argv[1]), max_bytes=64 << 20)\n"
        "n = 0\n"
        "while True:\n"
        "    spool.append([parcel(n + i, size=1000) for i in range(16)]); n += 16\n"
        "    print(n, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for _ in range(200):
        promised = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    child.wait()
    rest = child.stdout.read().split()
    promised = max([promised, *map(int, rest)])
    spool = opened(tmp_path, 64 * MIB)
    numbers = [number_of(p) for p in everything(spool)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= promised
    spool.close()


def test_a_disk_that_fails_is_a_sentence_and_half_a_record_is_never_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path)
    spool.append([parcel(0)])
    real = os.write

    def half(fd: int, data: bytes) -> int:
        if len(data) > 20:
            return real(fd, bytes(data)[:20])
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(
        SpoolError, match=r"the spool's disk failed .*Input/output error.*; free space or mend the disk"
    ):
        spool.append([parcel(1)])
    monkeypatch.undo()
    spool.append([parcel(2)])
    assert [number_of(p) for p in everything(spool)] == [0, 2]
    spool.close()
    again = opened(tmp_path)
    assert [number_of(p) for p in everything(again)] == [0, 2]
    assert again.take_notices() == []
    again.close()


def test_after_a_failed_fsync_nothing_more_is_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = FileSpool(tmp_path, max_bytes=MIB, fsync="interval", fsync_every_s=60.0)
    spool.append([parcel(0)])

    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    spool._sync()
    monkeypatch.undo()
    with pytest.raises(SpoolError, match="the disk failed to keep the spool"):
        spool.append([parcel(1)])
    spool.close()


def test_always_forces_each_append_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = FileSpool(tmp_path, max_bytes=MIB, fsync="always")
    spool.append([parcel(0)])
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    spool.append([parcel(1), parcel(2)])
    assert len(calls) == 1
    monkeypatch.undo()
    spool.close()
