#!/usr/bin/env python3
"""Set everything up inside this folder: `.venv` (Python packages), `.tools` (Kafka and Flink jars, Prism).

Runs on any plain Python 3, standard library only, because it makes the environment that everything else runs in.
A second run finds its stamps and does nothing. Nothing is written outside the project folder.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

if __package__ in (None, ""):  # started as a file: the packages stand one folder up, not beside us
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from deploy import contained, toolchain, versions
from deploy.paths import FLINK_POM, POM, ROOT, TOOLS, VENV
from schemas.errors import ConfigError, MissingToolError, TidegateError, UnavailableError, exit_code

LOCK = ROOT / "requirements" / "dev.txt"

# ---------------------------------------------------------------- the three steps


def venv_stamp() -> str:
    """What the environment was made from; a moved folder counts, because a venv knows its own path."""
    return _digest(LOCK.read_bytes(), (ROOT / "pyproject.toml").read_bytes(), str(VENV).encode())


def make_venv(run: Runner) -> None:
    """`.venv` with every package of requirements/dev.txt, each checked against its hash, and this project itself."""
    python = toolchain.find(toolchain.PYTHON)
    probe = subprocess.run([python.path, "-c", "import ensurepip, venv"], stderr=subprocess.DEVNULL, check=False)
    if probe.returncode != 0:
        raise MissingToolError(
            f"{python.path} has no venv module",
            fix="install it with `apt-get install python3.11-venv`; nothing works without it",
        )
    shutil.rmtree(VENV, ignore_errors=True)
    run("creating .venv", [python.path, "-m", "venv", str(VENV)])
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    # The lock is complete (--no-deps) and every line carries hashes; wheels only, so nothing is built from source.
    run(
        "installing packages",
        [*pip, "install", "--require-hashes", "--only-binary", ":all:", "--no-deps", "-r", str(LOCK)],
    )
    # The build backend is in the lock too: no isolated, unpinned download.
    run("installing tidegate", [*pip, "install", "--no-build-isolation", "--no-deps", "--no-index", "-e", str(ROOT)])


def kafka_stamp() -> str:
    """What the jars were fetched by."""
    return _digest(POM.read_bytes())


def fetch_kafka(run: Runner) -> None:
    """The broker's jars in `.tools/kafka/libs`, fetched by Maven from the committed pom."""
    _fetch_jars(run, f"fetching Kafka {versions.kafka()}", "kafka", POM)


def flink_stamp() -> str:
    """What the jars of the cluster were fetched by."""
    return _digest(FLINK_POM.read_bytes())


def fetch_flink(run: Runner) -> None:
    """Flink and Beam's job server in `.tools/flink/libs`, fetched by Maven from the committed pom."""
    _fetch_jars(run, f"fetching Flink {versions.flink()}", "flink", FLINK_POM)


def _fetch_jars(run: Runner, doing: str, name: str, pom: Path) -> None:
    """Everything that `pom` needs to run, in `.tools/NAME/libs`."""
    toolchain.find(toolchain.JAVA)
    maven = toolchain.find(toolchain.MAVEN)
    libs, repository = TOOLS / name / "libs", TOOLS / "m2" / name  # two of these may run side by side
    shutil.rmtree(libs, ignore_errors=True)
    # --strict-checksums: a jar that does not match its published checksum fails the build.
    arguments = [
        "--batch-mode",
        "--no-transfer-progress",
        "--strict-checksums",
        f"--file={pom}",
        f"-Dmaven.repo.local={repository}",
        f"-DoutputDirectory={libs}",
        "-DincludeScope=runtime",
        "dependency:copy-dependencies",
    ]
    run(doing, [maven.path, *arguments])
    shutil.rmtree(repository, ignore_errors=True)  # the jars are copied


#: -trimpath keeps this machine's paths out of the program, -s -w the debug tables that nobody reads, -modcacherw lets
#: the downloads be changed and removed again.
_GO_FLAGS = ("-trimpath", "-modcacherw", "-ldflags=-s -w")

#: Prism waits for the end of a bundle in a `select` on two channels. One of them is closed as soon as the bundle's
#: outputs are in, and from then on, for a stage without outputs from its beginning, the loop spins on it until the
#: worker answers: on the core that the worker needs. A nil channel is never ready. See docs/adr/0028.
_SPINS = Path("go", "pkg", "beam", "runners", "prism", "internal", "stage.go")
_SPINNING = "case <-dataReady:\n\t\t\tdataFinished = true\n"
_WAITING = _SPINNING + "\t\t\tdataReady = nil\n"


def prism_stamp() -> str:
    """Which Prism was built, and how."""
    return _digest(versions.beam().encode(), " ".join(_GO_FLAGS).encode(), _WAITING.encode())


def build_prism(run: Runner) -> None:
    """The Prism program in `.tools/bin`, built by Go from the sources of the pinned apache-beam with one line added."""
    go = toolchain.find(toolchain.GO)
    module = f"github.com/apache/beam/sdks/v2@v{versions.beam()}"
    # Without cgo the result does not depend on whether the machine has a C compiler.
    environ = {**contained.for_go(os.environ), "CGO_ENABLED": "0"}
    run(
        f"fetching the sources of Prism {versions.beam()}", [go.path, "mod", "download", "-modcacherw", module], environ
    )
    sources = Path(environ["GOMODCACHE"], *module.split("/"))
    mend(sources / _SPINS)
    build = ["build", *_GO_FLAGS, "-o", str(TOOLS / "bin" / "prism"), "./go/cmd/prism"]
    run(f"building Prism {versions.beam()}", [go.path, "-C", str(sources), *build], environ)
    shutil.rmtree(TOOLS / "go", ignore_errors=True)  # 1 GB of sources and objects that nothing reads again


def mend(source: Path) -> None:
    """Let Prism wait where it would spin. Raises ConfigError: the source is not the one that this was written for."""
    text = source.read_text()
    if text.count(_SPINNING) != 1:
        raise ConfigError(
            f"{source.name} of Prism {versions.beam()} is not what it was when its busy loop was found",
            fix="see whether the loop is gone; if so, remove `mend` from deploy/bootstrap.py",
        )
    source.write_text(text.replace(_SPINNING, _WAITING))


# ---------------------------------------------------------------- running them


class Step:
    """One part of the set-up: what it makes, the stamp that says it is made, and how."""

    def __init__(self, name: str, made: Path, stamp: Callable[[], str], make: Callable[[Runner], None]) -> None:
        self.name, self.made, self._stamp, self._make = name, made, stamp, make
        self.stamp_file = TOOLS / "stamps" / name
        self.doing = "waiting"
        self.error: TidegateError | None = None

    def done(self) -> bool:
        """Whether what stands on disk was made from what stands in the tree."""
        return self.made.exists() and self.stamp_file.exists() and self.stamp_file.read_text() == self._stamp()

    def run(self) -> None:
        """Make it. A failure is kept in `error`: the other steps go on."""
        began = time.monotonic()
        try:
            self.stamp_file.unlink(missing_ok=True)
            self._make(Runner(self))
            self.stamp_file.parent.mkdir(parents=True, exist_ok=True)
            self.stamp_file.write_text(self._stamp())
            say(f"{self.name}: ready after {time.monotonic() - began:.0f} s")
        except TidegateError as error:
            self.error = error
            say(f"{self.name}: failed after {time.monotonic() - began:.0f} s")


class Runner:
    """Runs the programs of one step, with their output in a log file and everything they write inside the project."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._log = TOOLS / "log" / f"{step.name}.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_bytes(b"")

    def __call__(self, doing: str, command: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
        """Run one program. Raises UnavailableError: it failed; with the last lines of its output."""
        self._step.doing = doing
        say(f"{self._step.name}: {doing}")
        with self._log.open("ab") as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environ or contained.environment(os.environ),
                check=False,
            )
        if done.returncode != 0:
            tail = self._log.read_text(errors="replace").splitlines()[-15:]
            raise UnavailableError(
                f"{doing} failed with exit code {done.returncode}",
                fix=f"see the whole output in {self._log.relative_to(ROOT)} and run the command again; it ends with:\n"
                + "\n".join(f"    {line}" for line in tail),
            )


def say(line: str) -> None:
    """Progress goes to stderr, one line at a time."""
    print(f"set-up: {line}", file=sys.stderr, flush=True)


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


STEPS: dict[str, Callable[[], Step]] = {
    "venv": lambda: Step("venv", VENV / "bin" / "tidegate", venv_stamp, make_venv),
    "kafka": lambda: Step("kafka", TOOLS / "kafka" / "libs", kafka_stamp, fetch_kafka),
    "flink": lambda: Step("flink", TOOLS / "flink" / "libs", flink_stamp, fetch_flink),
    "prism": lambda: Step("prism", TOOLS / "bin" / "prism", prism_stamp, build_prism),
}


#: Made only when asked for: 150 MB that Prism does without. `make test` asks.
ON_DEMAND = frozenset({"flink"})


def set_up(names: Sequence[str]) -> list[Step]:
    """Run the named steps side by side: one waits for the network while another compiles.

    Returns: the steps that failed, each with its `error`.
    """
    steps = [step for step in (STEPS[name]() for name in names) if not step.done()]
    if not steps:
        return []
    began = time.monotonic()
    threads = {step.name: threading.Thread(target=step.run, daemon=True) for step in steps}
    for thread in threads.values():
        thread.start()
    beat = began
    while any(thread.is_alive() for thread in threads.values()):
        next(thread for thread in threads.values() if thread.is_alive()).join(timeout=0.2)
        if time.monotonic() - beat >= 15:
            beat = time.monotonic()
            busy = ", ".join(f"{s.name} ({s.doing})" for s in steps if threads[s.name].is_alive())
            say(f"{beat - began:.0f} s, still under way: {busy}")
    return [step for step in steps if step.error]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of `make setup`. Returns 0, or the exit code of the first failure (docs/exit-codes.md)."""
    parser = argparse.ArgumentParser(
        prog="deploy/bootstrap.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python3 deploy/bootstrap.py --only venv   # enough for offline replay",
    )
    parser.add_argument("--only", action="append", choices=sorted(STEPS), help="only this part (repeatable)")
    names = parser.parse_args(argv).only or [name for name in STEPS if name not in ON_DEMAND]
    failed = set_up(names)
    for step in failed:
        print(f"set-up: {step.name}: {step.error}", file=sys.stderr)
    return exit_code(failed[0].error) if failed and failed[0].error else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
