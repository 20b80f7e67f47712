"""The doctor: every line has a level, and a next step unless it is ok."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy import checkup, cli, ports
from deploy.broker import Broker
from deploy.cluster import Cluster
from schemas.topics import CATALOGUE, EVENTS


def test_a_bare_machine_is_told_everything_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    for name in ("TIDEGATE_KAFKA_LIBS", "TIDEGATE_PRISM", "TIDEGATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    [port] = ports.choose([None])
    assert cli.main(["doctor", "-o", "json", "-b", f"127.0.0.1:{port}"]) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert {name for name, check in checks.items() if check["level"] == "fail"} >= {
        "java",
        "mvn",
        "go",
        "kafka jars",
        "prism",
    }
    assert checks["broker"]["level"] == "warn"
    assert all(check["fix"] for check in checks.values() if check["level"] != "ok")
    assert checks["crc32c"]["level"] == "ok"


def test_a_tool_is_only_a_warning_when_what_it_makes_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    made = checkup.Check("prism", "ok", "")
    assert checkup.tool(checkup.toolchain.GO, made=made).level == "warn"
    assert checkup.tool(checkup.toolchain.GO).level == "fail"


def test_a_program_that_is_not_prism_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "prism"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    monkeypatch.setenv("TIDEGATE_PRISM", str(program))
    assert checkup.prism().level == "fail"
    assert checkup.prism().found == f"{program} is not Prism"


@pytest.mark.prism
def test_the_prism_of_the_set_up_runs() -> None:
    assert checkup.prism().level == "ok"


def test_missing_and_other_packages_are_named(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("numpy==0.0.1 \\\n    --hash=sha256:00\n")
    check = checkup.packages(lock)
    assert check.level == "warn"
    assert check.found.endswith("(locked: 0.0.1)")
    lock.write_text("no-such-package==1 \\\n    --hash=sha256:00\n")
    assert checkup.packages(lock) == checkup.Check("packages", "fail", "missing: no-such-package", "run `make setup`")


def test_a_full_disk_fails_and_a_filling_one_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkup.disk(tmp_path / "not" / "there").level in ("ok", "warn")
    monkeypatch.setattr(checkup, "DISK_WARN", 1 << 62)
    assert checkup.disk(tmp_path).level == "warn"
    monkeypatch.setattr(checkup, "DISK_FAIL", 1 << 62)
    assert checkup.disk(tmp_path).level == "fail"


def test_a_clock_before_the_release_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "NOT_BEFORE_S", 1 << 40)
    assert checkup.clock().level == "fail"


@pytest.mark.kafka
def test_topics_that_differ_are_a_warning_with_the_difference(broker: Broker, catalogue: str) -> None:
    connected, topics = checkup.cluster(broker.bootstrap_servers, catalogue)
    assert (connected.level, topics.level) == ("ok", "ok")
    with Cluster(broker.bootstrap_servers) as cluster:
        cluster.set_config(EVENTS.named(catalogue), {"retention.ms": "1"})
    _, topics = checkup.cluster(broker.bootstrap_servers, catalogue)
    assert topics.level == "warn"
    assert f"{catalogue}edge.events: configure (retention.ms: 1 -> 604800000)" in topics.found
    _, topics = checkup.cluster(broker.bootstrap_servers, "nothing.")
    assert topics.found.count(": create") == len(CATALOGUE)
