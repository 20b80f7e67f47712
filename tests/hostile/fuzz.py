"""The long run: each parser in a process of its own, guided by the code that its inputs reach.

    python -m tests.hostile.fuzz --seconds 60 record container

With atheris, where it is installed, by libFuzzer: it sees branches and comparisons, and stops a target that takes too
long or too much memory. Without it, by a loop of our own that sees lines only. What a target must not do is written to
`--findings` as a file, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

OURS = ("schemas", "edge_filters", "pipelines", "deploy")
#: A single input may take so long, and a process so much memory (Beam and Arrow included).
TIMEOUT_S, RSS_MB = 5, 2048
#: Fuzzers try small inputs first and seldom gain by large ones.
MAX_LEN = 8192


def main(argv: list[str]) -> int:
    """Run targets one after the other. Returns 1 where one did what it must not."""
    parser = argparse.ArgumentParser(description="fuzz the parsers of what comes from outside")
    parser.add_argument("targets", nargs="*", help="all of them when none is named")
    parser.add_argument("--seconds", type=int, default=60, help="of each target (60)")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (1)")
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz"), help="folder (build/fuzz)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        return _one(args.targets[0], args.seconds, args.seed, args.findings)
    from tests.hostile.targets import TARGETS

    if unknown := set(args.targets) - set(TARGETS):
        parser.error(f"there are no targets {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    how = "atheris" if find_spec("atheris") else "lines (atheris is not installed)"
    failed = []
    for name in args.targets or TARGETS:
        folder = args.findings / name
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log"
        command = [sys.executable, "-m", "tests.hostile.fuzz", "--one", name, "--seed", str(args.seed)]
        command += ["--seconds", str(args.seconds), "--findings", str(args.findings)]
        with log.open("wb") as out:
            code = subprocess.run(command, stdout=out, stderr=out, check=False).returncode
        last = log.read_text(errors="replace").splitlines()
        told = [line for line in last if line.startswith(("Done ", "tried "))]
        print(
            f"{name:14} {'ok' if not code else f'FAILED ({code}), see {log}'}  {told[-1] if told else ''}", flush=True
        )
        if code:
            failed.append(name)
    print(f"{len(failed)} of {len(args.targets or TARGETS)} targets failed, by {how}")
    return 1 if failed else 0


def _one(name: str, seconds: int, seed: int, findings: Path) -> int:
    """One target until its time is over or it fails."""
    folder = findings / name
    if find_spec("atheris") is None:
        from tests.hostile.targets import TARGETS, outcome

        return _by_lines(lambda data: outcome(TARGETS[name], data), TARGETS[name].seeds(), seconds, seed, folder)
    import atheris

    with atheris.instrument_imports(include=list(OURS)):
        from tests.hostile.targets import TARGETS, outcome
    target, corpus = TARGETS[name], folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for at, data in enumerate(target.seeds()):
        if len(data) <= MAX_LEN:
            (corpus / f"seed-{at}").write_bytes(data)

    def once(data: bytes) -> None:
        outcome(target, data)

    limits = [f"-max_total_time={seconds}", f"-max_len={MAX_LEN}", f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={RSS_MB}"]
    atheris.Setup(
        [sys.argv[0], str(corpus), *limits, f"-seed={seed}", f"-artifact_prefix={folder}/", "-print_final_stats=0"],
        once,
    )
    atheris.Fuzz()  # ends the process
    return 0


# --- without atheris -------------------------------------------------------------------------------------------------


def _by_lines(parse: Callable[[bytes], Any], seeds: Any, seconds: int, seed: int, folder: Path) -> int:
    """Keep what reaches a line that nothing has reached before, and change that."""
    chance, seen, kept = random.Random(seed), set[tuple[str, int]](), list(seeds)
    deadline_s, tried = time.monotonic() + seconds, 0
    while time.monotonic() < deadline_s:
        data = kept[tried] if tried < len(seeds) else changed(chance.choice(kept), kept, chance)
        tried += 1
        before = len(seen)
        try:
            _traced(parse, data, seen)
        except Exception as wrong:
            (folder / f"finding-{tried}").write_bytes(data)
            print(f"finding-{tried}: {type(wrong).__name__}: {str(wrong)[:300]}")
            return 1
        if len(seen) > before and tried > len(seeds):
            kept.append(data)
    print(f"tried {tried} inputs, {len(seen)} lines reached, {len(kept)} kept")
    return 0


def changed(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Some bytes of it are other ones, gone, doubled, or taken from somewhere else."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(data))
        end = min(len(data), at + chance.randint(0, 16))
        other = chance.choice(others)
        begin = chance.randint(0, len(other))
        new = chance.choice([chance.randbytes(end - at), b"", data[at:end] * 2, other[begin : begin + 16], b"\xff" * 9])
        data = (data[:at] + new + data[end:])[:MAX_LEN]
    return data


def _traced(parse: Callable[[bytes], Any], data: bytes, seen: set[tuple[str, int]]) -> None:
    def lines(frame: FrameType, event: str, _: Any) -> Any:
        seen.add((frame.f_code.co_filename, frame.f_lineno))
        return lines

    def calls(frame: FrameType, event: str, _: Any) -> Any:
        return lines if any(f"/{part}/" in frame.f_code.co_filename for part in OURS) else None

    sys.settrace(calls)
    try:
        parse(data)
    finally:
        sys.settrace(None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
