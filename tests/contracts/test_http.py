"""The two HTTP servers for scrapes and probes, against good clients and bad ones, over real sockets."""

from __future__ import annotations

import inspect
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_filters.io import http as edge_http
from pipelines.io import http as pipeline_http
from pipelines.io.probe import listen
from schemas.errors import ConfigError
from schemas.probes import DEADLINE_S, MAX_CONNECTIONS, Page, Readiness
from tests.doubles import scrape
from tests.wait import until

BODY = b"a 1\n" * 50_000  # more than a socket takes at once


def broken() -> Page:
    raise RuntimeError("a secret detail")


@pytest.fixture(params=[edge_http.HttpServer, pipeline_http.HttpServer], ids=["edge", "pipeline"])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    pages = {
        "/metrics": lambda: Page(BODY),
        "/readyz": Readiness({"broker": "away", "models": ""}).page,
        "/broken": broken,
    }
    made = request.param("127.0.0.1", 0, pages)
    yield made
    made.close()


def connect(server: Any) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=DEADLINE_S + 10)


def everything(client: socket.socket) -> bytes:
    """What comes until the server closes; a reset ends it too."""
    parts = []
    try:
        while part := client.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def exchange(server: Any, request: bytes) -> bytes:
    with connect(server) as client:
        client.sendall(request)
        return everything(client)


def is_well(server: Any) -> bool:
    return scrape.get(f"http://{server.host}:{server.port}/metrics") == (200, BODY)


def test_both_are_the_same_lines() -> None:
    edge, pipeline = (inspect.getsource(module).partition('"""\n\n')[2] for module in (edge_http, pipeline_http))
    assert edge == pipeline != ""


def test_a_page_is_shown_whole_to_get_and_its_head_to_head(server: Any) -> None:
    assert is_well(server)
    head, _, body = exchange(server, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(BODY)}".encode() in head
    assert body == b""
    assert exchange(server, b"GET /metrics?debug=1 HTTP/1.0\r\n\r\n").endswith(BODY)


def test_readiness_says_in_json_what_is_missing(server: Any) -> None:
    status, said = scrape.ready(f"http://{server.host}:{server.port}")
    assert status == 503
    assert said == {"ready": False, "missing": {"broker": "away"}, "checks": {"broker": False, "models": True}}


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"POST /metrics HTTP/1.1", b"405"),
        (b"DELETE /metrics HTTP/1.1", b"405"),
        (b"GET /etc/passwd HTTP/1.1", b"404"),
        (b"GET /../../etc/passwd HTTP/1.1", b"404"),
        (b"GET http://elsewhere/metrics HTTP/1.1", b"400"),
        (b"GET /metrics HTTP/2.0", b"400"),
        (b"GET /metrics", b"400"),
        (b"\x16\x03\x01\x02\x00\x01", b"400"),
        (b"GET /" + b"a" * 3000 + b" HTTP/1.1", b"400"),
        (b"GET /\xff\x00 HTTP/1.1", b"400"),
        (b"", b"400"),
    ],
)
def test_what_is_not_for_us_gets_its_status_and_a_sentence(server: Any, request_line: bytes, status: bytes) -> None:
    said = exchange(server, request_line + b"\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 " + status)
    assert len(said) < 1000
    assert is_well(server)


def test_a_page_that_fails_is_a_500_without_details_and_the_server_goes_on(server: Any) -> None:
    said = exchange(server, b"GET /broken HTTP/1.1\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 500")
    assert b"secret" not in said
    assert is_well(server)


def test_a_request_of_many_megabytes_is_answered_and_takes_no_memory(server: Any) -> None:
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    is_well(server)
    before = resident_bytes()
    with connect(server) as client:
        block = b"X-Junk: " + b"a" * 65528
        sent = 0
        try:
            for _ in range(1024):
                sent += client.send(block)
        except OSError:  # it hung up on us, which is right
            pass
        client.close()
    assert resident_bytes() - before < 16 * 1024 * 1024
    assert is_well(server)


def test_a_request_byte_by_byte_is_understood(server: Any) -> None:
    with connect(server) as client:
        for byte in b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n":
            client.sendall(bytes([byte]))
        assert everything(client).startswith(b"HTTP/1.1 503")


def test_clients_that_say_nothing_keep_nobody_waiting_and_are_closed(server: Any) -> None:
    silent = [connect(server) for _ in range(3 * MAX_CONNECTIONS)]
    try:
        assert is_well(server)
        closed: list[bytes] = []
        for client in silent:  # each is closed by the server: the oldest for the newer ones, these by the deadline
            closed.append(everything(client))
        assert closed == [b""] * len(silent)
    finally:
        for client in silent:
            client.close()
    assert is_well(server)


def test_a_client_that_never_reads_is_closed(server: Any) -> None:
    with connect(server) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        until(lambda: not server._open, "the server to let go of it", within_s=DEADLINE_S + 10)
    assert is_well(server)


def test_closing_lets_go_of_the_port_and_the_thread(server: Any) -> None:
    waiting = connect(server)
    until(lambda: server._open, "the connection to be accepted")
    server.close()
    assert not server._thread.is_alive()
    assert everything(waiting) == b""
    waiting.close()
    again = type(server)("127.0.0.1", server.port, {})
    again.close()


def test_a_port_that_is_taken_is_a_sentence(server: Any) -> None:
    threads = threading.active_count()
    with pytest.raises(ConfigError, match="cannot listen for scrapes and probes"):
        type(server)("127.0.0.1", server.port, {})
    with pytest.raises(ConfigError, match="cannot listen for scrapes and probes"):
        type(server)("no.such.host.invalid", 0, {})
    assert threading.active_count() == threads


def test_the_pipeline_waits_for_a_port_that_an_earlier_worker_still_has(
    server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        listen("127.0.0.1", server.port, {}, patience_s=0.0)
    threading.Timer(0.5, server.close).start()
    again = listen("127.0.0.1", server.port, {"/livez": lambda: Page(b"new")})
    try:
        assert scrape.get(f"http://127.0.0.1:{again.port}/livez") == (200, b"new")
        assert f"port {again.port} is in use" in caplog.text
    finally:
        again.close()


def test_an_address_that_can_never_be_had_is_not_waited_for() -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        listen("192.0.2.1", 0, {}, patience_s=3600.0)


def test_the_twins_are_the_same_but_for_what_they_say_of_each_other() -> None:
    edge, pipeline = (Path(module.__file__).read_text() for module in (edge_http, pipeline_http))
    assert edge.replace("The pipelines have", "The edge has") == pipeline
