"""The proxy: what it passes on, cuts, holds and loses, by the api key of a request."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from tests.faults.proxy import Api, Proxy, Rule
from tests.wait import until


def frame(api: int, correlation: int, body: bytes = b"") -> bytes:
    """A request as Kafka's clients send it."""
    raw = struct.pack(">hhi", api, 9, correlation) + body
    return struct.pack(">i", len(raw)) + raw


class Upstream:
    """Answers each request with its correlation id, and keeps what came."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.came: list[int] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer, peer.makefile("rb") as file:
            try:
                while head := file.read(4):
                    correlation = struct.unpack(">hhi", file.read(int.from_bytes(head, "big"))[:8])[2]
                    self.came.append(correlation)
                    peer.sendall(struct.pack(">ii", 4, correlation))
            except OSError:
                return


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.listener.close()


@pytest.fixture
def proxy(upstream: Upstream) -> Iterator[Proxy]:
    with Proxy() as made:
        made.upstream_port = upstream.port
        yield made


def connect(proxy: Proxy) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
    line.settimeout(10)
    return line


def answer(line: socket.socket) -> int | None:
    """Correlation id of the next answer; None: the connection is gone."""
    try:
        raw = line.recv(8, socket.MSG_WAITALL)
    except OSError:
        return None
    return int(struct.unpack(">ii", raw)[1]) if raw else None


def test_what_no_rule_is_about_passes_both_ways(proxy: Proxy, upstream: Upstream) -> None:
    with connect(proxy) as line:
        for correlation in (1, 2, 3):
            line.sendall(frame(Api.PRODUCE, correlation))
            assert answer(line) == correlation
    assert proxy.requests[Api.PRODUCE] == 3


def test_a_lost_answer_is_one_that_the_broker_has_acted_on(proxy: Proxy, upstream: Upstream) -> None:
    rule = proxy.rule(Rule(Api.END_TXN, "lose answer"))
    with connect(proxy) as line:
        line.sendall(frame(Api.PRODUCE, 1) + frame(Api.END_TXN, 2))
        assert answer(line) == 1
        assert answer(line) is None
    assert upstream.came == [1, 2]
    assert rule.done.is_set()
    with connect(proxy) as line:  # once, and no more
        line.sendall(frame(Api.END_TXN, 3))
        assert answer(line) == 3


def test_a_lost_request_never_reaches_the_broker(proxy: Proxy, upstream: Upstream) -> None:
    proxy.rule(Rule(Api.END_TXN, "lose request"))
    with connect(proxy) as line:
        line.sendall(frame(Api.END_TXN, 2))
        assert answer(line) is None
    assert upstream.came == []


def test_a_held_request_reaches_the_broker_after_its_client_was_cut_off(proxy: Proxy, upstream: Upstream) -> None:
    proxy.rule(Rule(Api.END_TXN, "hold request", hold_s=0.3))
    with connect(proxy) as line:
        line.sendall(frame(Api.END_TXN, 2))
        assert answer(line) is None
        assert upstream.came == []
    until(lambda: upstream.came == [2], "the request at the broker")


def test_a_cut_is_seen_at_once_and_refused_ones_are_taken_again_when_it_heals(proxy: Proxy) -> None:
    with connect(proxy) as line:
        line.sendall(frame(Api.PRODUCE, 1))
        assert answer(line) == 1
        proxy.cut(refuse=True)
        assert answer(line) is None
    with contextlib.suppress(ConnectionResetError), connect(proxy) as line:  # reset while it connects, or just after
        assert answer(line) is None
    proxy.heal()
    with connect(proxy) as line:
        line.sendall(frame(Api.PRODUCE, 2))
        assert answer(line) == 2


def test_a_half_open_connection_passes_nothing_until_it_heals(proxy: Proxy, upstream: Upstream) -> None:
    with connect(proxy) as line:
        line.sendall(frame(Api.PRODUCE, 1))
        assert answer(line) == 1
        proxy.silence()
        line.sendall(frame(Api.PRODUCE, 2))
        line.settimeout(0.3)
        with pytest.raises(TimeoutError):
            line.recv(1)
        assert upstream.came == [1]
        line.settimeout(10)
        proxy.heal()
        assert answer(line) == 2
