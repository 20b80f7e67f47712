from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_filters.io.state import FileStore
from schemas.errors import SpoolError


def test_each_start_is_counted(tmp_path: Path) -> None:
    assert [FileStore(tmp_path / "state").next_boot_epoch() for _ in range(3)] == [1, 2, 3]


def test_a_damaged_count_is_never_guessed(tmp_path: Path) -> None:
    (tmp_path / "boot_epoch").write_bytes(b"")
    with pytest.raises(SpoolError, match=r"the count of starts is damaged .*; write a number into it that is larger"):
        FileStore(tmp_path).next_boot_epoch()


def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path)
    store.save("a", b"one")

    def broken(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(SpoolError, match="state cannot be written"):
        store.save("a", b"two")
    monkeypatch.undo()
    assert FileStore(tmp_path).load("a") == b"one"


def test_file_and_folder_are_forced_to_disk_around_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path)
    calls: list[str] = []
    real_rename = Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("fsync"))
    monkeypatch.setattr(Path, "rename", lambda path, to: (calls.append("rename"), real_rename(path, to))[1])
    store.save("a", b"one")
    assert calls == ["fsync", "rename", "fsync"]


def test_names_of_devices_with_slashes_stay_inside_of_the_folder(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "state")
    store.save("thresholds:DEVICE:../../plant1/pump-7", b"x")
    assert store.load("thresholds:DEVICE:../../plant1/pump-7") == b"x"
    assert [path.parent for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "state"]


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="the state folder cannot be made"):
        FileStore(tmp_path / "file" / "state")
