"""The socket under `/metrics`, `/livez` and `/readyz`: one thread, few connections, each with a deadline.

schemas/probes.py says what is answered. The pipelines have the same few lines: they may not import these, and the
contract does no I/O.
"""

from __future__ import annotations

import asyncio
import socket
import threading

from schemas.errors import ConfigError
from schemas.probes import DEADLINE_S, MAX_CONNECTIONS, MAX_REQUEST_BYTES, Pages, respond


class HttpServer:
    """Answers until it is closed."""

    def __init__(self, host: str, port: int, pages: Pages) -> None:
        """Listen; port 0 takes a free one. Raises ConfigError: the address cannot be had."""
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
        except (OSError, OverflowError) as cause:
            raise ConfigError(
                "cannot listen for scrapes and probes",
                host=host,
                port=port,
                cause=str(cause),
                errno=getattr(cause, "errno", None),
                fix="take another port, or 0 for a free one",
            ) from None
        self.host, self.port = self._listener.getsockname()[:2]
        self._pages = pages
        self._open: dict[asyncio.Task[None], None] = {}  # the oldest first
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and drop what is open."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(5.0)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._listener, limit=MAX_REQUEST_BYTES)
        await self._stop.wait()
        server.close()
        await _turn()  # what is just being accepted becomes a task
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await _turn()  # and its socket is closed

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= MAX_CONNECTIONS:
            next(iter(self._open)).cancel()
        self._open[task] = None
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._answer(reader, writer)
        except (TimeoutError, OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._open.pop(task, None)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = b""
        while (response := respond(received, self._pages)) is None:
            more = await reader.read(MAX_REQUEST_BYTES)
            if not more:
                return
            received += more
        writer.write(response)
        writer.write_eof()
        await writer.drain()
        while await reader.read(MAX_REQUEST_BYTES):  # closing on what is unread would reset the answer away
            pass


async def _turn() -> None:
    """Let the loop do what it has put off."""
    for _ in range(3):
        await asyncio.sleep(0)
