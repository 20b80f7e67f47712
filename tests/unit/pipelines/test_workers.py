"""The pool of workers: what it refuses, and that a worker ends when it is told to or its pool is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import grpc
import psutil
import pytest
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

from deploy.ports import choose, is_free
from pipelines.workers import Pool
from tests.wait import until


def request(worker: str, control: str) -> beam_fn_api_pb2.StartWorkerRequest:
    """As an engine asks."""
    asked = beam_fn_api_pb2.StartWorkerRequest(worker_id=worker)
    asked.control_endpoint.url = control
    return asked


@pytest.mark.parametrize(
    ("worker", "control"),
    [("1-1", "--help"), ("1-1", ""), ("1-1", "host:port"), ("--x y", "localhost:1"), ("", "localhost:1")],
)
def test_what_is_no_worker_or_no_address_starts_nothing(worker: str, control: str) -> None:
    pool = Pool()
    before = len(psutil.Process().children())
    assert "refused" in pool.StartWorker(request(worker, control), None).error
    assert len(psutil.Process().children()) == before


def workers_of(pid: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(pid).children() if "pipelines.worker" in p.cmdline()]


@pytest.fixture
def pool() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    (port,) = choose([None])
    process = subprocess.Popen([sys.executable, "-m", "pipelines", "workers", f"--port={port}"])
    until(lambda: not is_free(port), "the pool", within_s=90)
    yield process, port
    process.kill()
    process.wait()


def test_a_pool_listens_on_loopback_starts_workers_ends_them_and_takes_them_with_it(
    pool: tuple[subprocess.Popen[bytes], int],
) -> None:
    process, port = pool
    listening = [c.laddr for c in psutil.Process(process.pid).net_connections("tcp") if c.status == "LISTEN"]
    assert [(address.ip.removeprefix("::ffff:"), address.port) for address in listening] == [("127.0.0.1", port)]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
        engine = "127.0.0.1:1"  # nobody: a worker waits for its engine
        assert stub.StartWorker(request("1-1", engine)).error == ""
        (first,) = until(lambda: workers_of(process.pid), "a worker")
        stub.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="1-1"))
        until(lambda: not workers_of(process.pid), "its end")
        assert not first.is_running(), "a zombie is left"
        for worker in ("1-1", "1-1", "2-1"):
            assert stub.StartWorker(request(worker, engine)).error == ""
        three = until(lambda: (found := workers_of(process.pid)) and len(found) == 3 and found, "three workers")
        assert three
        stub.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="1-1"))  # which of two?
        assert len(workers_of(process.pid)) == 3
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: not any(p.is_running() for p in three), "the workers to go with their pool")
