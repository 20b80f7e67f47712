"""What a process remembers over a restart, as small files: fsync, rename, fsync of the folder."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from schemas.errors import SpoolError

_SAFE = re.compile(r"[A-Za-z0-9._-]{1,80}")


class FileStore:
    """Implements ports.Store in a folder."""

    def __init__(self, folder: Path) -> None:
        """Make the folder where it is missing. Raises SpoolError: it cannot be written to."""
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise SpoolError("the state folder cannot be made", folder=str(folder), cause=str(cause)) from cause

    @property
    def is_new(self) -> bool:
        """Whether no start was ever counted here. Raises SpoolError: the disk failed."""
        return self.load("boot_epoch") is None

    def next_boot_epoch(self, above: int = 0) -> int:
        """Count this start: one more than the last one here, and than `above`, which others have told.

        Raises SpoolError: the disk failed, or the count is damaged. Guessing it could give two records one identity.
        """
        raw = self.load("boot_epoch")
        text = raw.decode(errors="replace").strip() if raw is not None else "0"
        if not text.isdecimal() or len(text) > 18:
            raise SpoolError(
                "the count of starts is damaged",
                file=str(self._folder / "boot_epoch"),
                got=text[:40],
                fix="write a number into it that is larger than any boot_epoch this device has sent",
            )
        epoch = max(int(text), above) + 1
        self.save("boot_epoch", f"{epoch}\n".encode())
        return epoch

    def load(self, name: str) -> bytes | None:
        """What was saved under a name. Raises SpoolError: the disk failed."""
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as cause:
            raise SpoolError("state cannot be read", file=str(self._path(name)), cause=str(cause)) from cause

    def save(self, name: str, data: bytes) -> None:
        """Save under a name. Raises SpoolError: the disk failed; what was saved before is still there."""
        path = self._path(name)
        beside = path.with_name(path.name + ".new")
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.rename(path)
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as cause:
            raise SpoolError("state cannot be written", file=str(path), cause=str(cause)) from cause

    def _path(self, name: str) -> Path:
        """Names with a slash, such as those of devices, become a hash."""
        return self._folder / (name if _SAFE.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest())
