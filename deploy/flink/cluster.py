"""A real Flink cluster as child processes: JobManager, TaskManagers, Beam's job server, and the pool of Python workers.

Loopback only: none of them asks who is calling. Every one can be stopped, killed and started again while the others
run; addresses stay the same. The JobManager keeps its jobs in memory: one that was killed forgets them, and a job goes
on from a savepoint or from a retained checkpoint (docs/flink.md).
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy import ports, toolchain, versions
from deploy.flink.member import Member
from deploy.flink.rest import Rest
from deploy.paths import ROOT, flink_libs
from schemas.errors import MissingToolError, TidegateError, UnavailableError

USUAL_WEB_PORT = 8081

#: What a cluster on one machine needs to differ in; everything else is Flink's default.
CONF = """\
jobmanager.rpc.address: {host}
jobmanager.rpc.port: {rpc}
jobmanager.bind-host: {host}
jobmanager.memory.process.size: 1g
blob.server.port: {blob}
rest.address: {host}
rest.bind-address: {host}
rest.port: {web}
# the page's own upload of programs is of no use to us, and anybody on this machine could use it
web.submit.enable: {uploads}
taskmanager.host: {host}
taskmanager.bind-host: {host}
taskmanager.numberOfTaskSlots: {slots}
state.backend.type: hashmap
state.checkpoints.dir: file://{checkpoints}
execution.checkpointing.interval: {checkpoint_ms}ms
# after a TaskManager died its slots come back only with a new one; a job waits for that
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 2147483647
restart-strategy.fixed-delay.delay: 1s
# a process that hangs is noticed by silence (default 50 s), one that is dead by its closed connection
heartbeat.timeout: {silence_ms}
heartbeat.interval: {beat_ms}
io.tmp.dirs: {tmp}
"""

_OPENS = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in ("lang", "util", "nio", "time")]
#: Without Flink's shell scripts nobody works the parts of a TaskManager's memory out; they are stated here.
_MEMORY = {
    "taskmanager.memory.network.min": "64mb",
    "taskmanager.memory.network.max": "64mb",
    "taskmanager.memory.task.heap.size": "320mb",
    "taskmanager.memory.managed.size": "64mb",
    "taskmanager.memory.task.off-heap.size": "0b",
    "taskmanager.memory.framework.heap.size": "128mb",
    "taskmanager.memory.framework.off-heap.size": "128mb",
    "taskmanager.memory.jvm-metaspace.size": "256mb",
    "taskmanager.memory.jvm-overhead.min": "196mb",
    "taskmanager.memory.jvm-overhead.max": "196mb",
}


class FlinkCluster:
    """One cluster over its whole life.

    Args:
        folder: everything it writes is here: configuration, logs, checkpoints, staged files. Made when missing.
        taskmanagers, slots: how many, and slots of each.
        checkpoint_s: time between checkpoints of a job that does not state its own, seconds.
        silence_s: a process that says nothing for so long counts as dead, seconds. Starved processes are silent too.
        leashed: all of it dies with this process, whatever kills it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        taskmanagers: int = 2,
        slots: int = 1,
        checkpoint_s: float = 2.0,
        silence_s: float = 15.0,
        leashed: bool = True,
    ) -> None:
        self.folder = folder.absolute()
        self._slots, self._checkpoint_s, self._leashed = slots, checkpoint_s, leashed
        self._count, self._silence_s = taskmanagers, silence_s
        self._ports: dict[str, int] = {}
        self.jobmanager: Member | None = None
        self.jobserver: Member | None = None
        self.workers: Member | None = None
        self.taskmanagers: list[Member] = []

    @property
    def url(self) -> str:
        """Where the cluster's REST interface and its page are. Known once started; the same over a restart."""
        return f"http://{ports.LOOPBACK}:{self._ports['web']}"

    @property
    def rest(self) -> Rest:
        """Questions to it."""
        return Rest(self.url)

    @property
    def job_endpoint(self) -> str:
        """Where jobs are handed in: --job_endpoint."""
        return f"{ports.LOOPBACK}:{self._ports['job']}"

    @property
    def worker_pool(self) -> str:
        """Where TaskManagers ask for Python workers: --environment_config."""
        return f"{ports.LOOPBACK}:{self._ports['workers']}"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.folder / "checkpoints"

    def options(self) -> list[str]:
        """Options with which `python -m pipelines run` runs on this cluster, one worker per TaskManager."""
        return [
            "--runner=FlinkRunner",
            f"--job_endpoint={self.job_endpoint}",
            "--environment_type=EXTERNAL",
            f"--environment_config={self.worker_pool}",
            f"--parallelism={self._count * self._slots}",
        ]

    @property
    def members(self) -> list[Member]:
        """Every process, the JobManager first."""
        known = [self.jobmanager, *self.taskmanagers, self.jobserver, self.workers]
        return [member for member in known if member is not None]

    def start(self, *, timeout_s: float = 90.0) -> Self:
        """Start what does not run, and wait until all TaskManagers are registered and jobs can be handed in.

        Raises:
            MissingToolError: no Java, or no jars.
            UnavailableError: a process ended or was not ready within `timeout_s`; with what it said last.
        """
        self._prepare()
        try:
            for member in self.members:
                member.start()
            self.wait_ready(timeout_s=timeout_s)
        except BaseException:  # Ctrl-C too: half a cluster may not stay behind
            self.kill()
            raise
        return self

    def wait_ready(self, *, timeout_s: float = 90.0) -> None:
        """Wait until every TaskManager is registered with free slots known. Raises UnavailableError."""
        deadline_s = time.monotonic() + timeout_s
        for what, ready in (
            ("the TaskManagers did not register", self._registered),
            ("the job server does not listen", lambda: not ports.is_free(self._ports["job"])),
            ("the worker pool does not listen", lambda: not ports.is_free(self._ports["workers"])),
        ):
            self._wait(ready, what, deadline_s)

    def stop(self) -> None:
        """End all of it in order: jobs are not stopped with savepoints; see Rest.stop for that."""
        for member in reversed(self.members):
            member.stop()

    def kill(self) -> None:
        """Kill -9 for all of it."""
        for member in reversed(self.members):
            member.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _registered(self) -> bool:
        try:
            return self.rest.overview().taskmanagers >= self._count
        except TidegateError:
            return False

    def _wait(self, ready: Callable[[], bool], what: str, deadline_s: float) -> None:
        while not ready():
            for member in self.members:
                if not member.running:
                    raise UnavailableError(f"{member.name} ended", log=str(member.log), fix="it says: " + member.said())
            if time.monotonic() > deadline_s:
                raise UnavailableError(what, logs=str(self.folder), fix="; ".join(m.said(1) for m in self.members))
            time.sleep(0.1)

    def _prepare(self) -> None:
        """Choose addresses, write the configuration, and name the processes; once."""
        if self._ports:
            return
        java, libs = toolchain.find(toolchain.JAVA).path, jars()
        names = ("web", "rpc", "blob", "job", "artifacts", "expansion", "workers")
        preferred = [None if self._leashed else USUAL_WEB_PORT, *[None] * (len(names) - 1)]
        self._ports = dict(zip(names, ports.choose(preferred), strict=True))
        conf, tmp = self.folder / "conf", self.folder / "tmp"
        for made in (conf, tmp, self.checkpoints, self.folder / "staged"):
            made.mkdir(parents=True, exist_ok=True)
        (conf / "flink-conf.yaml").write_text(
            CONF.format(
                host=ports.LOOPBACK,
                rpc=self._ports["rpc"],
                blob=self._ports["blob"],
                web=self._ports["web"],
                uploads="false",
                slots=self._slots,
                checkpoints=self.checkpoints,
                checkpoint_ms=round(self._checkpoint_s * 1000),
                silence_ms=round(self._silence_s * 1000),
                beat_ms=round(self._silence_s * 250),
                tmp=tmp,
            )
        )

        # The quick compiler alone: a local cluster is started far more often than it is pushed to its limits, and the
        # heavy work is done by Python.
        def jvm(name: str, main: str, *arguments: str, heap: str = "512m", flags: list[str] | None = None) -> Member:
            command = [
                java, f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
                *_OPENS, *(flags or []),
                f"-Djava.io.tmpdir={tmp}", "-Dorg.slf4j.simpleLogger.showDateTime=true",
                "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
                "-cp", f"{libs}/*", main, *arguments,
            ]  # fmt: skip
            return Member(name, command, self.folder / f"{name}.log", leashed=self._leashed)

        runtime = "org.apache.flink.runtime"
        self.jobmanager = jvm("jobmanager", f"{runtime}.entrypoint.StandaloneSessionClusterEntrypoint", "-c", str(conf))
        memory = [f"-D{name}={value}" for name, value in _MEMORY.items()]
        for number in range(1, self._count + 1):
            self.taskmanagers.append(
                jvm(
                    f"taskmanager-{number}",
                    f"{runtime}.taskexecutor.TaskManagerRunner",
                    *("-c", str(conf), *memory, f"-Dtaskmanager.cpu.cores={float(self._slots)}"),
                    f"-Dtaskmanager.resource-id=taskmanager-{number}",
                    flags=["-XX:MaxDirectMemorySize=320m"],
                )
            )
        self.jobserver = jvm(
            "jobserver",
            "org.apache.beam.runners.flink.FlinkJobServerDriver",
            f"--flink-master={ports.LOOPBACK}:{self._ports['web']}",
            f"--job-host={ports.LOOPBACK}",
            f"--job-port={self._ports['job']}",
            f"--artifact-port={self._ports['artifacts']}",
            f"--expansion-port={self._ports['expansion']}",
            f"--artifacts-dir={self.folder / 'staged'}",
        )
        self.workers = Member(
            "workers",
            [sys.executable, "-m", "pipelines", "workers", f"--port={self._ports['workers']}"],
            self.folder / "workers.log",
            # the packages of this checkout, from wherever this is called
            {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))},
            leashed=self._leashed,
        )

    def command(self) -> str:
        """The line with which the pipeline is run here."""
        return shlex.join(["python", "-m", "pipelines", "run", *self.options()])


def jars() -> Path:
    """Folder of the jars. Raises MissingToolError: there are none."""
    libs = flink_libs()
    if not any(libs.glob("beam-runners-flink*.jar")):
        raise MissingToolError(
            f"the jars of Flink {versions.flink()} are not there",
            folder=str(libs),
            fix="run `make setup-flink` (needs java and mvn; 150 MB); Prism works without them",
        )
    return libs
