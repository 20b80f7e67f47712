"""The short set of the fault suite, about eight minutes; `make faults` runs all of it: see docs/faults.md."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.catalogue import BY_NAME, SCENARIOS, SHORT, SHORT_PROOFS
from tests.faults.disk import may_mount
from tests.faults.mutants import MUTANTS
from tests.faults.proxy import FaultBroker, Proxy
from tests.faults.scenario import Bench, Result, run

SEED = int(os.environ.get("TIDEGATE_FAULTS_SEED", "1"))
#: Mutants that are a setting of the scenario instead of a patch.
SETTINGS = {"at-least-once", "broker-without-flush"}


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FaultBroker, Proxy]]:
    with Proxy() as proxy, FaultBroker(tmp_path_factory.mktemp("broker"), proxy=proxy) as broker:
        yield broker, proxy


@pytest.fixture
def run_one(link: tuple[FaultBroker, Proxy], tmp_path: Path) -> Callable[[str, str], Result]:
    def go(name: str, mutant: str) -> Result:
        scenario = BY_NAME[name]
        if scenario.needs_root and (why := may_mount()):
            pytest.skip(why)
        broker, proxy = link
        return run(scenario, Bench(tmp_path, broker.start(), proxy, SEED, scenario.quick, mutant))

    return go


@pytest.mark.kafka
@pytest.mark.prism
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", SHORT)
def test_nothing_is_lost_doubled_torn_or_unexplained(run_one: Callable[[str, str], Result], name: str) -> None:
    result = run_one(name, "")
    assert not result.red, str(result)
    assert result.sent > 50
    assert result.harmed == result.rounds


@pytest.mark.kafka
@pytest.mark.prism
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("name", "mutant"), SHORT_PROOFS)
def test_a_build_that_is_broken_on_purpose_turns_it_red(
    run_one: Callable[[str, str], Result], name: str, mutant: str
) -> None:
    result = run_one(name, mutant)
    assert not result.failed, f"{mutant} must cause {result.expected}: {result}"


def test_every_mutant_that_a_scenario_names_is_there_and_every_mutant_is_named() -> None:
    named = {mutant for scenario in SCENARIOS for mutant in scenario.mutants}
    assert named == set(MUTANTS) | SETTINGS


def test_scenarios_have_names_of_their_own() -> None:
    assert len(BY_NAME) == len(SCENARIOS)
    assert set(SHORT) | {name for name, _ in SHORT_PROOFS} <= set(BY_NAME)
