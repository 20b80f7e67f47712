"""Recordings of strangers: each is walked by a child process with limits first, and only what that survives is read.

The reader checks everything, but it stands on native code: a decompressor, a JSON parser, a decoder made for friends.
A file that kills the child costs a sentence with the place instead of the command; what lies before the place is kept.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.scan import PLACE
from schemas.container import Block
from schemas.errors import DecodeError


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the child. A block is 16 MiB at most, and takes a few times that."""

    memory_bytes: int = 512 * 1024 * 1024
    cpu_s: int = 60
    cpu_s_per_mib: float = 0.5


LIMITS = Limits()


@contextmanager
def survivors(paths: Sequence[Path], limits: Limits | None = None) -> Iterator[tuple[list[Path], list[str]]]:
    """Paths that are safe to read, in the same order, and a sentence for each file that is not safe to its end.

    A file that killed the child is replaced by a copy of what is before the place, a folder with one by a folder with
    that copy and links to its other files. Both are gone afterwards.

    Raises DecodeError: a file killed the child before its first record.
    """
    deaths: list[str] = []
    with TemporaryDirectory(prefix="tidegate-kept-") as scratch:
        made = [_kept(path, Path(scratch) / str(at), deaths, limits or LIMITS) for at, path in enumerate(paths)]
        yield made, deaths


@contextmanager
def guarded(args: argparse.Namespace, *names: str) -> Iterator[list[str]]:
    """The recordings that these options of a command name, replaced by what is safe to read of them.

    Yields a sentence for each that killed the child; each is also said on stderr. Raises as `survivors`.
    """
    given: dict[str, list[Path]] = {}
    for name in names:
        value = getattr(args, name)
        given[name] = [value] if isinstance(value, Path) else list(value or ())
    with survivors([path for paths in given.values() for path in paths]) as (safe, deaths):
        for name, paths in given.items():
            mine, safe = safe[: len(paths)], safe[len(paths) :]
            if paths:
                setattr(args, name, mine[0] if isinstance(getattr(args, name), Path) else mine)
        for line in deaths:
            print(f"tidegate: {line}", file=sys.stderr)
        yield deaths


def _kept(path: Path, into: Path, deaths: list[str], limits: Limits) -> Path:
    if not path.is_dir():
        died = _died(path, limits)
        return path if died is None else _cut(path, into, died, deaths)
    files = sorted(path.glob("*.avro"))
    found = {file: died for file in files if (died := _died(file, limits)) is not None}
    if not found:
        return path
    into = into / path.name
    into.mkdir(parents=True)
    for entry in path.iterdir():
        if entry not in found:
            (into / entry.name).symlink_to(entry.resolve())
    for file, died in found.items():
        _cut(file, into, died, deaths)
    return into


def _cut(path: Path, into: Path, died: tuple[Block, str], deaths: list[str]) -> Path:
    """A copy that ends where the deadly block begins."""
    block, how = died
    wrong = DecodeError(
        f"reading it killed the process that did: {how}",
        file=str(path),
        offset=block.start,
        record=block.records,
        fix="it was made to do that, or is damaged; what lies before the place was used" if block.records else "",
    )
    if not block.records:
        raise wrong
    into.mkdir(parents=True, exist_ok=True)
    with path.open("rb") as whole, (into / path.name).open("wb") as kept:
        left = block.start
        while left and (piece := whole.read(min(left, 1 << 20))):
            kept.write(piece)
            left -= len(piece)
    deaths.append(str(wrong))
    return into / path.name


def _died(path: Path, limits: Limits) -> tuple[Block, str] | None:
    """Where and how a child died of a file; None: it did not, or there is no such file, which others say better."""
    try:
        file = path.open("rb")
    except OSError:
        return None
    with file:
        cpu_s = limits.cpu_s + int(os.fstat(file.fileno()).st_size / (1 << 20) * limits.cpu_s_per_mib)
        root = str(Path(__file__).parents[1])
        child = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("scan.py")), str(limits.memory_bytes), str(cpu_s)],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])},
        )
        assert child.stdout is not None
        last = Block(0, 0)
        with child, child.stdout as places:
            while len(place := places.read(PLACE.size)) == PLACE.size:
                last = Block(*PLACE.unpack(place))
    if not child.returncode:
        return None
    if child.returncode > 0:
        return last, f"it took more than {limits.memory_bytes >> 20} MiB of memory"
    if -child.returncode in (signal.SIGXCPU, signal.SIGKILL):
        return last, f"it took more than {cpu_s} s"
    return last, f"signal {-child.returncode}"
