"""All scenarios by name."""

from __future__ import annotations

from tests.faults import network, power, process
from tests.faults.scenario import Scenario

SCENARIOS: tuple[Scenario, ...] = (*process.SCENARIOS, *power.SCENARIOS, *network.SCENARIOS)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
