"""Asking a process how it is, as Prometheus and an orchestrator do."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.wait import until

Series = dict[tuple[tuple[str, str], ...], float]


def address(log: Path, what: str = "metrics and probes are on ") -> str:
    """Where a process says in its log that it listens, `http://host:port`."""

    def said() -> list[str]:
        return re.findall(what + r"(http://[0-9.]+:\d+)", log.read_text())

    return until(said, "the address of the metrics in the log", within_s=60)[-1]


def get(url: str) -> tuple[int, bytes]:
    """Status and body, also of an answer that is an error."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()


def metrics(base: str) -> dict[str, Series]:
    """Samples by name and labels."""
    status, body = get(f"{base}/metrics")
    assert status == 200, body
    found: dict[str, Series] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def ready(base: str) -> tuple[int, dict[str, Any]]:
    """What /readyz says."""
    status, body = get(f"{base}/readyz")
    return status, json.loads(body)
