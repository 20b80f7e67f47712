"""`tidegate demo` as a user runs it, only shorter."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from tests.command import tidegate

pytestmark = [pytest.mark.kafka, pytest.mark.prism, pytest.mark.slow, pytest.mark.timeout(400)]

KEYS = {
    "readings_sensed", "events_sent", "bytes_sensed", "bytes_sent", "provisional", "final", "agreement",
    "edge_latency_ms", "final_latency_ms", "feedback_latency_ms", "lost", "doubled", "dead_lettered",
    "thresholds_applied", "models",
}  # fmt: skip


def test_the_loop_closes_on_recorded_data_and_the_books_balance(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = tidegate("demo", "--seconds", "30", "--folder", folder, "-o", "json", timeout_s=380)
    assert done.returncode == 0, done.stderr[-6000:]
    figures = json.loads(done.stdout)
    assert figures.keys() >= KEYS
    assert json.loads((folder / "report.json").read_text()) == figures
    assert (figures["lost"], figures["doubled"], figures["dead_lettered"], figures["not_applied"]) == (0, 0, 0, 0)
    assert figures["readings_sensed"] > 5000
    assert 0 < figures["events_sent"] == figures["provisional"] == figures["final"]
    assert figures["bytes_sent"] < figures["bytes_sensed"]
    assert figures["thresholds_applied"] > 0
    assert len(figures["models"]) == 8
    updated = [m for m in figures["models"].values() if m["name"] == "servers"]
    assert [(m["before"], m["after"]) for m in updated] == [(1, 2)] * 6
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 8
    assert "://" not in page
    assert "first final decision" in done.stderr
    left = [p.info for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]
    assert left == []


def test_too_short_a_demo_is_refused_with_a_sentence() -> None:
    done = tidegate("demo", "--seconds", "1", timeout_s=60)
    assert done.returncode == 78
    assert done.stderr == "tidegate: a demo needs at least 5 seconds (got=1.0)\n"
