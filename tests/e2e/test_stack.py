"""The local stack as a user works with it: up, status, topics, records, tail, down, each a command of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from kafka import KafkaProducer

from schemas.codec import encode
from schemas.records import Failure
from schemas.topics import CATALOGUE
from tests import command
from tests.wait import until

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tidegate(tmp_path: Path) -> Iterator[Command]:
    """Runs the command with a home of its own; whatever happens, no broker is left behind."""
    nowhere = dict.fromkeys(name for name in os.environ if name.endswith("BOOTSTRAP_SERVERS"))

    def run(*words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = command.tidegate(*words, **nowhere, TIDEGATE_HOME=str(tmp_path))
        assert done.returncode == expect, done.stdout + done.stderr
        return done

    yield run
    run("down", "--wipe")


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_up_status_topics_tail_and_down(tidegate: Command, tmp_path: Path) -> None:
    started = json.loads(tidegate("up", "-o", "json").stdout)
    address, pid = started["bootstrap_servers"], started["pid"]
    assert started["started"] is True
    assert started["topics_changed"] == [topic.name for topic in CATALOGUE]

    again = json.loads(tidegate("up", "-o", "json").stdout)
    assert (again["pid"], again["started"], again["topics_changed"]) == (pid, False, [])

    assert tidegate("topics", "apply").stdout == "every topic is as the catalogue says\n"

    producer = KafkaProducer(bootstrap_servers=address)
    failure = Failure(
        source="edge.events",
        partition=0,
        offset=1,
        key=None,
        payload=b"x",
        stage="decode",
        reason="CORRUPT",
        problem="as a test",
        failed_at=0,
    )
    producer.send("cloud.deadletter", encode(failure), key=b"edge.events")
    producer.send("cloud.deadletter", b"not a record")
    producer.close()

    status = json.loads(tidegate("status", "-o", "json").stdout)
    assert status["broker"] == {
        "bootstrap_servers": address,
        "answers": True,
        "pid": pid,
        "log": str(tmp_path / "kafka" / "broker.log"),
    }
    assert {t["topic"]: t["records"] for t in status["topics"] if t["records"]} == {"cloud.deadletter": 2}

    seen = tidegate("tail", "cloud.deadletter", "--from", "beginning", "-n", "2", "-o", "json").stdout.splitlines()
    good, bad = map(json.loads, seen)
    assert good["record"]["problem"] == "as a test"
    assert bad["problem"].startswith("not a record")

    tidegate("down")
    until(
        lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "end of the broker"
    )
    tidegate("status", "-b", address, expect=69)

    # The data outlived it, and a broker that was killed is no obstacle.
    second = json.loads(tidegate("up", "-o", "json").stdout)
    assert second["topics_changed"] == []
    psutil.Process(second["pid"]).kill()
    third = json.loads(tidegate("up", "-o", "json").stdout)
    assert third["started"] is True
    kept = tidegate("tail", "cloud.deadletter", "--from", "beginning", "--no-follow").stdout
    assert len(kept.splitlines()) == 2
