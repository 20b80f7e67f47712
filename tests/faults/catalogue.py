"""All scenarios by name."""

from __future__ import annotations

from tests.faults import clocks, network, power, process
from tests.faults.scenario import Scenario

SCENARIOS: tuple[Scenario, ...] = (*process.SCENARIOS, *power.SCENARIOS, *network.SCENARIOS, *clocks.SCENARIOS)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}

#: The short set of the test run, and the broken builds that it proves itself by.
SHORT = (
    "kill-edge", "kill-worker", "kill-prism", "kill-broker", "die-in-pipeline", "power-cut-edge", "full-disk",
    "half-open-link", "kill-edge-slow-link", "lost-commit",
)  # fmt: skip
SHORT_PROOFS = (
    ("kill-edge", "spool-in-memory"), ("kill-worker", "at-least-once"), ("power-cut-edge", "early-ack"),
    ("full-disk", "silent-drop"), ("kill-edge-slow-link", "no-dedupe"), ("lost-commit", "blind-commit"),
)  # fmt: skip
