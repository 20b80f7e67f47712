"""Progress goes to stderr, as lines where nobody looks on, and never to stdout."""

from __future__ import annotations

import pytest

from deploy.recording import progress
from deploy.recording.progress import Progress


def test_where_no_terminal_is_it_says_what_is_done_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("filtering", 1_000_000, "readings") as bar:
        for _ in range(50):
            now[0] += 1.0
            bar.advance(5_000)
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[0] == "filtering"
    assert lines[1] == "filtering: 50,000 of 1,000,000 readings (5%)"
    assert len(lines) == 1 + 5
    assert bar.done == 250_000


def test_quiet_is_quiet_and_still_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("filtering", None, "readings", quiet=True) as bar:
        bar.advance(3)
    assert bar.text() == "3 readings"
    assert capsys.readouterr().err == ""


def test_on_a_terminal_a_bar_is_drawn_and_taken_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress("filtering", 10, "readings") as bar:
        bar.advance(10)
    assert capsys.readouterr().out == ""


def test_more_than_was_announced_is_never_more_than_all() -> None:
    bar = Progress("filtering", 10, "readings", quiet=True)
    bar.advance(30)
    assert bar.text() == "30 of 10 readings (100%)"
