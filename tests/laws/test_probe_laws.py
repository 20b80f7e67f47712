from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.probes import MAX_REQUEST_BYTES, Page, respond

PAGES = {"/metrics": lambda: Page(b"x 1\n")}
GOOD = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"


@given(st.binary(max_size=600))
def test_any_bytes_are_incomplete_or_get_a_response(received: bytes) -> None:
    response = respond(received, PAGES)
    assert response is None or response.startswith(b"HTTP/1.1 ")


@given(st.binary(max_size=200), st.integers(0, len(GOOD) - 1))
def test_a_damaged_request_gets_a_response(junk: bytes, at: int) -> None:
    response = respond(GOOD[:at] + junk + GOOD[at:], PAGES)
    assert response is None or response.startswith(b"HTTP/1.1 ")


@given(st.binary(min_size=1, max_size=100))
def test_a_request_that_does_not_end_gets_a_response_in_the_end(junk: bytes) -> None:
    assert respond(junk * MAX_REQUEST_BYTES, PAGES) is not None


@given(st.integers(0, len(GOOD) - 1))
def test_a_part_of_a_good_request_is_waited_for(length: int) -> None:
    assert respond(GOOD[:length], PAGES) is None
    whole = respond(GOOD, PAGES)
    assert whole is not None
    assert whole.endswith(b"\r\n\r\nx 1\n")
