"""Every alert has a test in which it fires and one in which it does not; Prometheus' own tool runs them where it is."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[3] / "deploy" / "monitoring"
PROMTOOL = os.environ.get("TIDEGATE_PROMTOOL") or shutil.which("promtool")

with_promtool = pytest.mark.skipif(
    not PROMTOOL, reason="promtool is not on PATH; name it in TIDEGATE_PROMTOOL to run the alerts' tests"
)


def alerts() -> list[str]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"]]


@functools.cache
def looks() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each look at an alert, with the test that it is in."""
    tests = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    return [(test, look) for test in tests for look in test.get("alert_rule_test", ())]


def promtool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(PROMTOOL), *words], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("alert", alerts())
def test_an_alert_is_tested_where_it_fires_and_where_it_does_not(alert: str) -> None:
    own = [(test, look) for test, look in looks() if look["alertname"] == alert]
    assert any(look["exp_alerts"] == [] for _, look in own), f"alerts_test.yml has no look at which {alert} is silent"
    fired = [(test, expected) for test, look in own for expected in look["exp_alerts"]]
    assert fired, f"alerts_test.yml has no look at which {alert} fires"
    for test, expected in fired:
        assert {"summary", "description"} == set(expected["exp_annotations"])
        others = [
            s for s in test["input_series"] if f'instance="{expected["exp_labels"]["instance"]}"' not in s["series"]
        ]
        assert others, f"nobody is well beside the one for whom {alert} fires"


def test_every_look_is_at_an_alert_that_there_is() -> None:
    assert {look["alertname"] for _, look in looks()} <= set(alerts())


@with_promtool
def test_promtool_finds_rules_and_configuration_in_order() -> None:
    for words in (("check", "rules", "alerts.yml"), ("check", "config", "prometheus.yml")):
        done = promtool(*words)
        assert done.returncode == 0, done.stdout + done.stderr


@with_promtool
def test_every_alert_fires_and_stays_silent_as_its_tests_say() -> None:
    done = promtool("test", "rules", "alerts_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@with_promtool
def test_promtool_would_notice_an_alert_that_never_fires(tmp_path: Path) -> None:
    rules = (FOLDER / "alerts.yml").read_text()
    (tmp_path / "alerts.yml").write_text(rules.replace("tidegate_pipeline_models == 0", "tidegate_pipeline_models < 0"))
    shutil.copy(FOLDER / "alerts_test.yml", tmp_path)
    done = promtool("test", "rules", str(tmp_path / "alerts_test.yml"))
    assert done.returncode != 0
    assert "TidegateNoModel" in done.stdout + done.stderr
