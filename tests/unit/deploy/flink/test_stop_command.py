"""`tidegate flink stop`: what it refuses before it asks a cluster anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.cli import main


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and what was said."""
    code = main(["flink", "stop", *arguments])
    return code, capsys.readouterr().err


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without a cluster."""
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path))


def test_a_drain_is_refused_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    code, sentence = said(capsys, "--drain", "--url", "http://127.0.0.1:1", "--to", "file:///s")
    assert code == 78
    assert "cannot be drained: its source waits on a timer" in sentence
    assert "leave --drain out" in sentence


def test_without_a_cluster_of_ours_it_asks_which(capsys: pytest.CaptureFixture[str]) -> None:
    code, sentence = said(capsys)
    assert code == 78
    assert "which cluster?" in sentence


def test_nobody_there_is_unavailable(capsys: pytest.CaptureFixture[str]) -> None:
    code, sentence = said(capsys, "--url", "http://127.0.0.1:1", "--to", "file:///s")
    assert code == 69
    assert "no Flink cluster answers" in sentence
