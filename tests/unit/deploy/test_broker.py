"""The local broker over its whole life."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from deploy import ports
from deploy.broker import Broker, jars
from deploy.cluster import Cluster, TopicState
from schemas.errors import MissingToolError, UnavailableError
from tests.wait import until


def test_missing_jars_are_one_sentence_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_KAFKA_LIBS", str(tmp_path))
    with pytest.raises(MissingToolError, match=r"Kafka jars are not there .*; run `make setup` .*works without them$"):
        jars()


@pytest.mark.kafka
def test_topics_survive_a_stop_and_a_kill_on_the_same_ports(tmp_path: Path) -> None:
    with Broker(tmp_path / "kafka") as broker:
        address = broker.bootstrap_servers
        with Cluster(address) as cluster:
            cluster.create([TopicState("kept", 3, {"retention.ms": "60000"})])
        for end in (broker.stop, broker.kill):
            end()
            assert not broker.running
            with pytest.raises(UnavailableError, match=r"no Kafka broker answers at .* start one with `tidegate up`"):
                Cluster(address, timeout_s=1.0)
            broker.start()
            assert broker.bootstrap_servers == address
            with Cluster(address) as cluster:
                assert cluster.topics() == {"kept": TopicState("kept", 3, {"retention.ms": "60000"})}


@pytest.mark.kafka
def test_only_the_loopback_address_listens(broker: Broker) -> None:
    assert broker.process is not None
    listening = {c.laddr for c in psutil.Process(broker.process.pid).net_connections("tcp") if c.status == "LISTEN"}
    # A JVM binds loopback as an IPv4 address mapped into IPv6.
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {ports.LOOPBACK}
    assert {address.port for address in listening} == {broker.port, broker.controller_port}


@pytest.mark.kafka
def test_a_taken_port_is_avoided_and_a_demanded_one_refused(broker: Broker, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="the port is taken"):
        Broker(tmp_path / "demanding", port=broker.port).start()


@pytest.mark.kafka
def test_it_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "kafka")
    starter = threading.Thread(target=broker.start)
    starter.start()
    starter.join()
    try:
        with Cluster(broker.bootstrap_servers) as cluster:
            assert cluster.brokers() == [broker.bootstrap_servers]
    finally:
        broker.stop()


@pytest.mark.kafka
def test_it_dies_with_an_owner_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from deploy.broker import Broker\n"
        f"b = Broker(pathlib.Path({str(tmp_path / 'kafka')!r})).start()\n"
        "print(b.process.pid, flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    orphan = psutil.Process(int(owner.stdout.readline()))
    assert orphan.name() == "java"
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    # A zombie is dead: in a container nobody may be there to bury it.
    until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, "the end of the broker")


@pytest.mark.kafka
def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    with Broker(tmp_path / "kafka"):
        pass
    meta = tmp_path / "kafka" / "data" / "meta.properties"
    meta.write_text(meta.read_text().replace("node.id=1", "node.id=7"))
    with pytest.raises(UnavailableError, match=r"the broker did not start: its process ended .*node.id"):
        Broker(tmp_path / "kafka").start()


@pytest.mark.kafka
def test_a_broker_that_another_one_answers_for_is_not_taken_for_started(broker: Broker, tmp_path: Path) -> None:
    other = Broker(tmp_path)
    other.port, other.controller_port = broker.port, ports.choose([None])[0]  # as if both had found the port free
    with pytest.raises(UnavailableError, match=r"did not start: (another broker was faster|its process ended)"):
        other.start()
    assert not other.running
