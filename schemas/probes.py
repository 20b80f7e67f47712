"""HTTP for scrapes and probes, without a socket: bytes in, bytes out. Pure; the io/http.py of each side moves them.

Only what a scraper or an orchestrator asks: GET and HEAD of a few paths, one request per connection. Whatever the
bytes are, the answer is a response, and nothing that is kept grows with what was sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple

#: A request must fit into this, bytes; a scraper's takes 200 to 500.
MAX_REQUEST_BYTES = 8192
#: A connection that is not done by then is closed, seconds.
DEADLINE_S = 3.0
#: Connections at once; when one more comes, the oldest is closed.
MAX_CONNECTIONS = 32

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
_LINE = re.compile(rb"([A-Za-z]{1,20}) (/[\x21-\x7e]{0,2000}) HTTP/1\.[01]\r?\n")
_END = re.compile(rb"\r?\n\r?\n")


class Page(NamedTuple):
    """What a path shows."""

    body: bytes
    content_type: str = TEXT
    status: HTTPStatus = HTTPStatus.OK


Pages = Mapping[str, Callable[[], Page]]


@dataclass(slots=True)
class Readiness:
    """What must be there for a process to do its work: a sentence for each part that is missing, empty where it is."""

    checks: dict[str, str] = field(default_factory=dict)

    def need(self, part: str, problem: str) -> None:
        """A part, and why it is missing; empty: it is there."""
        self.checks[part] = problem

    @property
    def ready(self) -> bool:
        """Whether nothing is missing."""
        return not any(self.checks.values())

    def page(self) -> Page:
        """`{"ready": false, "missing": {"broker": "…"}, "checks": {…}}` with 200 or 503."""
        body = {
            "ready": self.ready,
            "missing": {part: problem for part, problem in self.checks.items() if problem},
            "checks": {part: not problem for part, problem in self.checks.items()},
        }
        status = HTTPStatus.OK if self.ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Page(json.dumps(body).encode() + b"\n", JSON, status)


#: Before there is anything to say.
STARTING = Readiness({"start": "the process is starting"})


def alive(problem: str) -> Page:
    """Page of /livez: 200, or 503 with what does not go on."""
    if not problem:
        return Page(b"alive\n")
    return Page(problem.encode() + b"\n", status=HTTPStatus.SERVICE_UNAVAILABLE)


def respond(received: bytes, pages: Pages) -> bytes | None:
    """Response to what has been received so far; None: the request is not complete. Raises nothing."""
    if not _END.search(received):
        if len(received) >= MAX_REQUEST_BYTES:
            return _response(_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), "GET")
        return None
    line = _LINE.match(received)
    if line is None:
        return _response(_error(HTTPStatus.BAD_REQUEST), "GET")
    method, path = line[1].decode(), line[2].decode().partition("?")[0]
    if path not in pages:
        return _response(_error(HTTPStatus.NOT_FOUND, f"there are {', '.join(sorted(pages))}"), method)
    if method not in ("GET", "HEAD"):
        return _response(_error(HTTPStatus.METHOD_NOT_ALLOWED, "GET or HEAD"), method)
    try:
        page = pages[path]()
    except Exception as failed:  # a probe that fails must not end the server; its kind is enough, no details go out
        page = _error(HTTPStatus.INTERNAL_SERVER_ERROR, type(failed).__name__)
    return _response(page, method)


def _error(status: HTTPStatus, more: str = "") -> Page:
    return Page(f"{status.value} {status.phrase}{': ' if more else ''}{more}\n".encode(), TEXT, status)


def _response(page: Page, method: str) -> bytes:
    lines = [
        f"HTTP/1.1 {page.status.value} {page.status.phrase}",
        f"Content-Type: {page.content_type}",
        f"Content-Length: {len(page.body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    if page.status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return head if method == "HEAD" else head + page.body
