"""The checks of `tidegate doctor`. Each looks at one thing, never changes anything, and knows the next step."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from deploy import broker, paths, toolchain, topics, versions
from deploy.cluster import Cluster
from schemas.errors import MissingToolError, UnavailableError

Level = Literal["ok", "warn", "fail"]

#: Below these the broker stops, or is about to. Bytes.
DISK_FAIL, DISK_WARN = 512 << 20, 2 << 30
#: A clock before this release is wrong. Seconds since 1970: 2026-01-01 UTC.
NOT_BEFORE_S = 1_767_225_600


@dataclass(frozen=True)
class Check:
    """One line of the doctor: what was looked at, what was found, and what to do unless it is ok."""

    name: str
    level: Level
    found: str
    fix: str = ""


def run_all(bootstrap_servers: str, prefix: str = "") -> list[Check]:
    """Every check, in the order in which to mend things."""
    local: list[Callable[[], Check]] = [python, packages, crc32c, clock, lambda: disk(paths.home())]
    out = [check() for check in local]
    jars, engine = kafka_jars(), prism()
    out += [tool(toolchain.JAVA), tool(toolchain.MAVEN, made=jars), jars, tool(toolchain.GO, made=engine), engine]
    out += cluster(bootstrap_servers, prefix)
    return out


def python() -> Check:
    """The interpreter that runs this."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] >= versions.MIN_PYTHON:
        return Check("python", "ok", found)
    return Check("python", "fail", found, f"install it with `{toolchain.PYTHON.install}` and run `make setup`")


def packages(lock: Path = paths.ROOT / "requirements" / "cloud.txt") -> Check:
    """Installed packages against the lock file."""
    if not lock.exists():
        return Check("packages", "warn", "no lock file to compare with", "run from the checkout")
    missing, other = [], []
    for name, version in locked(lock.read_text()):
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
        else:
            if installed != version:
                other.append(f"{name} {installed} (locked: {version})")
    if missing:
        return Check("packages", "fail", f"missing: {', '.join(missing)}", "run `make setup`")
    if other:
        return Check("packages", "warn", ", ".join(other), "run `make setup` to have the tested versions")
    return Check("packages", "ok", f"as in requirements/{lock.name}")


def locked(text: str) -> Iterator[tuple[str, str]]:
    r"""Name and version of each line of a lock file that holds on every platform.

    >>> list(locked("numpy==2.4.6 --hash=sha256:00\\ncolorama==1 ; sys_platform == 'win32'"))
    [('numpy', '2.4.6')]
    """
    for name, version, marker in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)( *;)?", text, re.MULTILINE):
        if not marker:
            yield name, version


def crc32c() -> Check:
    """Whether kafka-python uses the compiled checksum. Without it, it reads twenty times slower, in silence."""
    fix = "run `make setup`; without the package crc32c the Kafka client reads 20 times slower"
    try:
        from kafka.record import util
    except ImportError:
        return Check("crc32c", "fail", "kafka-python is not installed", "run `make setup`")
    if util.crc32c_c is None:
        return Check("crc32c", "fail", "kafka-python computes checksums in Python", fix)
    import crc32c as native

    return Check("crc32c", "ok", "compiled" + (", by the processor" if native.hardware_based else ", in software"))


def clock() -> Check:
    """Whether this clock can be believed: events carry its time."""
    now = time.time()
    found = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    fix = "set the clock, for example with `apt-get install systemd-timesyncd`"
    if now < NOT_BEFORE_S:
        return Check("clock", "fail", f"{found} is before this release", fix)
    if not clock_is_synchronised():
        return Check("clock", "warn", f"{found}; the kernel knows of no time server", fix)
    return Check("clock", "ok", f"{found}, synchronised")


def clock_is_synchronised() -> bool:
    """What the kernel says about its clock; true where it cannot be asked (not Linux)."""
    if sys.platform != "linux":
        return True
    timex = ctypes.create_string_buffer(512)  # struct timex, all zero: modes = 0 only asks
    time_error = 5
    return int(ctypes.CDLL(None).adjtimex(timex)) != time_error


def disk(folder: Path) -> Check:
    """Free space where the local stack keeps its data."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    found = f"{free / (1 << 30):.1f} GiB free at {there}"
    if free < DISK_FAIL:
        return Check("disk", "fail", found, "make room, or name another folder with TIDEGATE_HOME")
    if free < DISK_WARN:
        return Check("disk", "warn", found, "make room before a long run")
    return Check("disk", "ok", found)


def tool(wanted: toolchain.Tool, made: Check | None = None) -> Check:
    """A program from outside; only a warning where what it is needed to make is there already."""
    try:
        found = toolchain.find(wanted)
    except MissingToolError as missing:
        level: Level = "warn" if made is not None and made.level == "ok" else "fail"
        return Check(wanted.name, level, missing.problem, missing.fix)
    return Check(wanted.name, "ok", f"{found.version} ({found.path})")


def kafka_jars() -> Check:
    """The broker's jars, at the version of the pom."""
    try:
        libs = broker.jars()
    except MissingToolError as missing:
        return Check("kafka jars", "fail", f"none in {paths.kafka_libs()}", missing.fix)
    found = sorted(jar.stem.rpartition("-")[2] for jar in libs.glob("kafka_*.jar"))
    if found != [versions.kafka()]:
        return Check("kafka jars", "warn", f"{', '.join(found)}, the pom says {versions.kafka()}", "run `make setup`")
    return Check("kafka jars", "ok", f"{found[0]} in {libs}")


def prism() -> Check:
    """The Prism program: there, and it runs on this machine."""
    try:
        program = toolchain.prism()
    except MissingToolError as missing:
        return Check("prism", "fail", f"not at {paths.prism()}", missing.fix)
    try:
        done = subprocess.run(
            [program, "--help"], capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as cause:
        return Check("prism", "fail", f"{program} does not run: {cause}", "remove .tools and run `make setup`")
    if b"job_port" not in done.stderr + done.stdout:
        return Check("prism", "fail", f"{program} is not Prism", "remove .tools and run `make setup`")
    return Check("prism", "ok", f"{program} (Beam {versions.beam()})")


def cluster(bootstrap_servers: str, prefix: str) -> list[Check]:
    """The broker and its topics. A broker that is not up is a warning: nothing is broken."""
    try:
        with Cluster(bootstrap_servers, timeout_s=5.0) as connection:
            changes = [change for change in topics.look(connection, prefix) if change.action != "none"]
            brokers = connection.brokers()
    except UnavailableError as error:
        return [Check("broker", "warn", error.problem, error.fix)]
    out = [Check("broker", "ok", f"{bootstrap_servers} answers ({len(brokers)} in the cluster)")]
    if changes:
        found = "; ".join(f"{c.topic}: {c.action}" + (f" ({c.difference})" if c.before else "") for c in changes)
        out.append(Check("topics", "warn", found, "see `tidegate topics plan`, then `tidegate topics apply`"))
    else:
        out.append(Check("topics", "ok", "as in the catalogue"))
    return out
