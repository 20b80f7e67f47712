"""What is made of a cluster's answers, refusals and silence; the answers themselves are tested on a real one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from deploy.flink.rest import Checkpoint, Rest
from deploy.ports import choose
from schemas.errors import ConfigError, PipelineError, UnavailableError

JOB = "a" * 32


class Recorded(HTTPServer):
    """Answers paths with what a cluster of 1.19 was seen to answer, and keeps what it was sent."""

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.sent = answers, []  # type: ignore[var-annotated]


class _Handler(BaseHTTPRequestHandler):
    server: Recorded

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.sent.append((self.command, self.path, json.loads(body) if body else None))
        answer = self.server.answers.get(self.path)
        payload = answer if isinstance(answer, bytes) else json.dumps(answer or {"errors": ["Not found"]}).encode()
        self.send_response(200 if answer is not None else 404)
        self.end_headers()
        self.wfile.write(payload)

    do_GET = do_POST = do_PATCH = _answer  # the names that the server looks for

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[Recorded] = []

    def start(answers: dict[str, Any]) -> tuple[Rest, Recorded]:
        server = Recorded(answers)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return Rest(f"http://127.0.0.1:{server.server_port}"), server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_finished_checkpoints_come_oldest_first_and_the_others_not_at_all(serve: Any) -> None:
    def one(number: int, status: str) -> dict[str, Any]:
        return {
            "id": number, "status": status, "state_size": 100 * number, "trigger_timestamp": number,
            "external_path": f"file:/c/chk-{number}",
        }  # fmt: skip

    history = [one(4, "IN_PROGRESS"), one(3, "COMPLETED"), one(2, "FAILED"), one(1, "COMPLETED")]
    rest, _ = serve({f"/jobs/{JOB}/checkpoints": {"history": history}})
    assert rest.checkpoints(JOB) == [Checkpoint(1, 100, 1, "file:/c/chk-1"), Checkpoint(3, 300, 3, "file:/c/chk-3")]


def test_a_stop_never_drains_and_returns_the_savepoint(serve: Any) -> None:
    rest, server = serve(
        {
            f"/jobs/{JOB}/stop": {"request-id": "r1"},
            f"/jobs/{JOB}/savepoints/r1": {
                "status": {"id": "COMPLETED"},
                "operation": {"location": "file:/s/savepoint-1"},
            },
        }
    )
    assert rest.stop(JOB, "file:///s") == "file:/s/savepoint-1"
    assert server.sent[0] == ("POST", f"/jobs/{JOB}/stop", {"targetDirectory": "file:///s", "drain": False})


def test_a_savepoint_that_failed_is_a_sentence_with_the_cause(serve: Any) -> None:
    failed = {"failure-cause": {"stack-trace": "CheckpointException: not all tasks run\n\tat …"}}
    rest, _ = serve(
        {
            f"/jobs/{JOB}/stop": {"request-id": "r1"},
            f"/jobs/{JOB}/savepoints/r1": {"status": {"id": "COMPLETED"}, "operation": failed},
        }
    )
    with pytest.raises(PipelineError, match=r"CheckpointException: not all tasks run$"):
        rest.stop(JOB, "file:///s")


@pytest.mark.parametrize("answers", [{}, {"/jobs": b"<html>a proxy</html>"}], ids=["404", "no JSON"])
def test_what_is_no_cluster_is_unavailable(serve: Any, answers: dict[str, Any]) -> None:
    rest, _ = serve(answers)
    with pytest.raises(UnavailableError, match="Flink cluster answers"):
        rest.jobs()


def test_nobody_there_is_unavailable() -> None:
    (port,) = choose([None])
    with pytest.raises(UnavailableError, match="no Flink cluster answers"):
        Rest(f"http://127.0.0.1:{port}").overview()


def test_an_address_that_is_no_address_is_refused() -> None:
    with pytest.raises(ConfigError, match="not the address of a cluster"):
        Rest("file:///etc/passwd")
