"""A proxy between the product and the broker that cuts, delays, goes silent, and knows enough of Kafka to do it at the
worst moment: it reads the api key of each request and can lose or hold the request or the answer.

It runs in a thread of the harness. The broker gives clients that come through it the proxy's address as its own, so
that all their connections pass here; see `FaultBroker`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from deploy import ports
from deploy.broker import Broker


class Api(IntEnum):
    """Requests that a rule may name: Kafka's protocol, "API keys"."""

    PRODUCE = 0
    OFFSET_COMMIT = 8
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


@dataclass(slots=True)
class Rule:
    """What to do with the next `times` requests of one kind.

    lose request: the connection is cut before the broker gets it. lose answer: the broker has done it, and the client
    never hears of it. hold request: the client is cut off, and the broker gets the request after `hold_s`, on a
    connection that it still believes in. hold answer: it comes `hold_s` later.
    """

    api: Api
    what: Literal["lose request", "lose answer", "hold request", "hold answer"]
    times: int = 1
    hold_s: float = 0.0
    done: threading.Event = field(default_factory=threading.Event)

    def take(self) -> bool:
        """Whether it applies once more."""
        if self.times <= 0:
            return False
        self.times -= 1
        if not self.times:
            self.done.set()
        return True


class Proxy:
    """Listens on a free port of the loopback and passes on to another."""

    def __init__(self) -> None:
        self.port = 0
        self.upstream_port = 0  # known when the broker has chosen it
        self.delay_s = 0.0
        self.requests: Counter[int] = Counter()
        self.rules: list[Rule] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._refuses = False
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    # -- for the harness, from its thread -------------------------------------------------------------------------

    def cut(self, *, refuse: bool = False) -> None:
        """Reset every connection; new ones are taken again, unless `refuse`."""
        self._call(self._cut(refuse))

    def heal(self) -> None:
        """Take connections, pass everything on at once."""
        self.delay_s = 0.0
        self._call(self._set(True))

    def silence(self) -> None:
        """Half open: connections stay and are taken, and nothing passes in either direction until `heal`."""
        self._call(self._set(False))

    def rule(self, rule: Rule) -> Rule:
        """Apply a rule from now on."""
        self.rules.append(rule)
        return rule

    def _call(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    # -- in the loop ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, ports.LOOPBACK, 0))
        self.port = server.sockets[0].getsockname()[1]
        self._flows.set()
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _cut(self, refuse: bool) -> None:
        self._refuses = refuse
        for writer in list(self._writers):
            _reset(writer)

    async def _set(self, flows: bool) -> None:
        self._refuses = False
        if flows:
            self._flows.set()
        else:
            self._flows.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            _reset(writer)
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(ports.LOOPBACK, self.upstream_port)
        except OSError:
            _reset(writer)
            return
        line = _Line(self, reader, writer, up_reader, up_writer)
        self._writers |= {writer, up_writer}
        try:
            await line.run()
        finally:
            self._writers -= {writer, up_writer}
            _reset(writer)
            _reset(up_writer)

    async def passes(self) -> None:
        """Wait while nothing passes, and for the delay."""
        await self._flows.wait()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)

    def applying(self, api: int, *what: str) -> Rule | None:
        """The rule for a request of this kind."""
        return next((rule for rule in self.rules if rule.api == api and rule.what in what and rule.take()), None)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, so that the other side knows at once."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class _Line:
    """One connection of a client, and the one behind it."""

    def __init__(
        self,
        proxy: Proxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._reader, self._writer, self._up_reader, self._up_writer = reader, writer, up_reader, up_writer
        self._asked: dict[int, Rule] = {}  # by correlation id: requests whose answer a rule waits for
        self._deaf = False  # the client is gone, and the broker does not know

    async def run(self) -> None:
        """Until one side is closed."""
        ways = [
            asyncio.ensure_future(self._pump(self._reader, self._request)),
            asyncio.ensure_future(self._pump(self._up_reader, self._answer)),
        ]
        done, left = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        if self._deaf:
            await asyncio.wait(left, timeout=30)
        for way in left:
            way.cancel()
        for way in done:
            way.exception()

    async def _pump(self, reader: asyncio.StreamReader, passed: Callable[[bytes], Awaitable[bool]]) -> None:
        try:
            while True:
                head = await reader.readexactly(4)
                body = await reader.readexactly(int.from_bytes(head, "big"))
                await self._proxy.passes()
                if not await passed(head + body):
                    return
        except (asyncio.IncompleteReadError, OSError):
            return

    async def _request(self, frame: bytes) -> bool:
        api, _, correlation = struct.unpack_from(">hhi", frame, 4)
        self._proxy.requests[api] += 1
        if self._proxy.applying(api, "lose request"):
            return False
        if rule := self._proxy.applying(api, "hold request"):
            self._deaf = True
            _reset(self._writer)
            await asyncio.sleep(rule.hold_s)
            self._up_writer.write(frame)
            await self._up_writer.drain()
            await asyncio.sleep(1.0)  # for the broker to read it
            self._deaf = False
            return False
        if rule := self._proxy.applying(api, "lose answer", "hold answer"):
            self._asked[correlation] = rule
        self._up_writer.write(frame)
        await self._up_writer.drain()
        return True

    async def _answer(self, frame: bytes) -> bool:
        if self._deaf:
            return True
        rule = self._asked.pop(struct.unpack_from(">i", frame, 4)[0], None)
        if rule is not None and rule.what == "lose answer":
            return False
        if rule is not None:
            await asyncio.sleep(rule.hold_s)
        self._writer.write(frame)
        await self._writer.drain()
        return True


class FaultBroker(Broker):
    """The product's broker with further properties, and a second listener that advertises a proxy as its address."""

    def __init__(self, folder: Path, *, proxy: Proxy | None = None, more: str = "") -> None:
        super().__init__(folder)
        self._proxy, self._more, self._second = proxy, more, 0

    def __enter__(self) -> Self:
        return self.start(timeout_s=180)  # beside other work a start takes long, and that is no fault of anybody

    @property
    def proxied(self) -> str:
        """Address of the proxy, for the product; that of the broker where there is none."""
        return f"{ports.LOOPBACK}:{self._proxy.port}" if self._proxy else self.bootstrap_servers

    def _prepare(self, java: str, libs: Path) -> None:
        super()._prepare(java, libs)
        properties = self.folder / "server.properties"
        text = properties.read_text() + self._more
        if self._proxy is not None:
            if not self._second:
                self._second = self._proxy.upstream_port = ports.choose([None])[0]
            mine = f"PROXIED://{ports.LOOPBACK}:{self._second}"
            seen = f"PROXIED://{ports.LOOPBACK}:{self._proxy.port}"
            text = text.replace("\nlisteners=", f"\nlisteners={mine},", 1)
            text = text.replace("\nadvertised.listeners=", f"\nadvertised.listeners={seen},", 1)
            text = text.replace("protocol.map=", "protocol.map=PROXIED:PLAINTEXT,", 1)
            text += "\ninter.broker.listener.name=PLAINTEXT\n"
        properties.write_text(text)
