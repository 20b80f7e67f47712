"""A real Kafka broker as a child process: one node, KRaft, loopback only, data in one folder.

`Broker` is what tests and the demo hold; `deploy.stack` is the same broker run in the background by `tidegate up`.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy import leash, ports, toolchain
from deploy.cluster import wait_ready
from deploy.paths import LOG4J, kafka_libs
from schemas.errors import MissingToolError, UnavailableError

USUAL_PORT = 9092

#: What one node on a laptop needs to differ in from a cluster; everything else is Kafka's default.
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
# one node: every internal topic has one replica, and few partitions keep start and stop fast
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
# after kill -9 the controller waits for the old session to end before it lets the broker in again (default 9 s)
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# a new consumer group starts at once instead of waiting 3 s for more members
group.initial.rebalance.delay.ms=0
# the cleaner's buffer is 128 MB by default, a quarter of our heap
log.cleaner.dedupe.buffer.size=16777216
"""


#: For Linux the parent is the thread that forked: a leashed child dies when that thread ends. This one lives as long as
#: the process, so a broker may be started from any thread.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


class Broker:
    """One broker over its whole life; start, stop and kill may follow each other, data and ports stay.

    Args:
        folder: everything it writes is here: data, server.properties, logs. Made when missing.
        port: where clients connect; None takes any that is free, and 9092 first where it is not leashed: a broker
            that other programs shall find.
        leashed: the broker dies with this process, whatever kills it.
    """

    def __init__(self, folder: Path, *, port: int | None = None, leashed: bool = True) -> None:
        self.folder = folder.absolute()
        self._wanted_port, self._leashed = port, leashed
        self.port = self.controller_port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """Address for clients, `127.0.0.1:PORT`. Known once started; stays the same over a restart."""
        return f"{ports.LOOPBACK}:{self.port}"

    @property
    def log(self) -> Path:
        """The broker's own log."""
        return self.folder / "broker.log"

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self.process is not None and self.process.poll() is None

    def start(self, *, timeout_s: float = 60.0) -> Self:
        """Start and wait until it answers clients. Does nothing when it runs.

        Raises:
            MissingToolError: no Java, or no Kafka jars.
            UnavailableError: it ended or did not answer within `timeout_s`; the sentence has the end of its log.
        """
        self.launch()
        try:
            self.wait_ready(timeout_s=timeout_s)
        except BaseException:
            self.kill()
            raise
        return self

    def launch(self) -> None:
        """Start the process without waiting; does nothing when it runs. Raises as `start`."""
        if self.running:
            return
        java, libs = toolchain.find(toolchain.JAVA).path, jars()
        if not self.port:
            wanted = self._wanted_port or (None if self._leashed else USUAL_PORT)
            self.port, self.controller_port = ports.choose([wanted, None])
            if self._wanted_port and self.port != self._wanted_port:
                taken, self.port = self.port, 0
                raise UnavailableError(
                    "the port is taken", port=self._wanted_port, fix=f"leave --port out, or take {taken}, which is free"
                )
        self._prepare(java, libs)
        self._spawn(java, libs)

    def wait_ready(self, *, timeout_s: float) -> None:
        """Wait until it answers clients. Raises UnavailableError: with the reason from its log."""
        try:
            wait_ready(
                self.bootstrap_servers,
                timeout_s=timeout_s,
                alive=lambda: self.running,
                cluster_id=self._cluster_id(),
            )
        except UnavailableError as error:
            problem = f"the broker did not start: {error.problem}"
            raise UnavailableError(problem, log=str(self.log), fix=self._why()) from error

    def release(self) -> None:
        """Let go of the process: it stays alive in the background and is no longer ours to end."""
        if self.process is not None:
            self.process.returncode = 0  # else Popen warns that a child was left behind, which is the point
        self.process = None

    def stop(self, *, timeout_s: float = 30.0) -> None:
        """End it in order: it writes its files out first. Kills it when that takes longer than `timeout_s`."""
        self._end(signal.SIGTERM, timeout_s)

    def kill(self) -> None:
        """End it as a power cut would: kill -9."""
        self._end(signal.SIGKILL, 10.0)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _end(self, how: signal.Signals, timeout_s: float) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def _cluster_id(self) -> str:
        """The id in the storage's own properties."""
        lines = (self.folder / "data" / "meta.properties").read_text().splitlines()
        return next((line.partition("=")[2] for line in lines if line.startswith("cluster.id=")), "")

    def _prepare(self, java: str, libs: Path) -> None:
        """Write server.properties and, for a new folder, format the storage."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        properties = self.folder / "server.properties"
        properties.write_text(
            PROPERTIES.format(host=ports.LOOPBACK, port=self.port, controller_port=self.controller_port, data=data)
        )
        if (data / "meta.properties").exists():
            return
        command = [
            *self._java(java, libs, "64m"),
            "kafka.tools.StorageTool",
            "format",
            "-t",
            _new_cluster_id(),
            "-c",
            str(properties),
        ]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode != 0:
            raise UnavailableError(
                "the broker's storage could not be formatted",
                folder=str(data),
                fix=done.stdout.decode(errors="replace")[-800:],
            )

    def _spawn(self, java: str, libs: Path) -> None:
        command = [*self._java(java, libs, "512m"), "kafka.Kafka", str(self.folder / "server.properties")]
        if self._leashed:
            command = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *command]
        with (self.folder / "broker.out").open("wb") as out:
            # Its own session: Ctrl-C in the terminal reaches us, and we stop it in order.
            self.process = _SPAWNER.submit(
                subprocess.Popen,
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ).result()

    def _java(self, java: str, libs: Path, heap: str) -> list[str]:
        tmp = self.folder / "tmp"  # where the JVM unpacks its native codecs
        tmp.mkdir(exist_ok=True)
        return [
            java, f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:-UsePerfData", f"-Djava.io.tmpdir={tmp}",
            f"-Dlog4j2.configurationFile={LOG4J}", f"-Dtidegate.broker.log={self.log}", "-cp", f"{libs}/*",
        ]  # fmt: skip

    def _why(self) -> str:
        """The last lines that say something, for the sentence of a failed start."""
        lines = [
            line
            for file in (self.folder / "broker.out", self.log)
            if file.exists()
            for line in file.read_text(errors="replace").splitlines()
            if "ERROR" in line or "FATAL" in line or "Exception" in line
        ]
        return "it says: " + " | ".join(lines[-3:]) if lines else "read its log"


def _new_cluster_id() -> str:
    """A new cluster id as Kafka writes them: a UUID in base64. The prefix keeps it from looking like an option."""
    return "T" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]


def jars() -> Path:
    """Folder of the broker's jars. Raises MissingToolError: there are none."""
    libs = kafka_libs()
    if not any(libs.glob("kafka_*.jar")):
        raise MissingToolError(
            "the Kafka jars are not there",
            folder=str(libs),
            fix="run `make setup` (needs java and mvn); offline replay (`tidegate replay`) works without them",
        )
    return libs
