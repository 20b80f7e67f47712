"""`python -m tests.faults`: list and run the scenarios of the fault suite."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import report
from tests.faults.catalogue import BY_NAME, SCENARIOS
from tests.faults.disk import may_mount
from tests.faults.proxy import FaultBroker, Proxy
from tests.faults.scenario import Bench, Result, Scenario, run

EXAMPLES = """examples:
  python -m tests.faults list
  python -m tests.faults run                                  the short set: every scenario once
  python -m tests.faults run --only kill-worker --rounds 20 --seed 7
  python -m tests.faults run --minutes 60 --results r.jsonl   again and again, with other seeds, for an hour
  python -m tests.faults report r.jsonl                       put what came of it into docs/faults.md
  python -m tests.faults run --mutants                        every scenario on every build that it must find broken
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m tests.faults", description="The fault suite of Tidegate.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name the scenarios")
    go = commands.add_parser("run", help="run them; exits with 1 when anything is wrong")
    go.add_argument("--seed", type=int, default=1, help="the first seed; each run after it takes the next (default: 1)")
    go.add_argument("--only", nargs="+", choices=sorted(BY_NAME), metavar="NAME", help="these scenarios")
    go.add_argument("--minutes", type=float, help="repeat until the time is over; default: once")
    go.add_argument("--rounds", type=int, help="faults in one run; default: as the scenario says")
    go.add_argument("--mutants", action="store_true", help="run the broken builds instead: each must turn red")
    go.add_argument("-o", "--output", choices=["table", "json"], default="table", help="(default: table)")
    go.add_argument("--results", type=Path, metavar="FILE", help="append each result to this file as a line of JSON")
    go.add_argument("--keep", action="store_true", help="keep the folder with logs and accounts also when all is well")
    tell = commands.add_parser("report", help="write the table of earlier runs into docs/faults.md")
    tell.add_argument("results", type=Path, nargs="+", metavar="FILE", help="what --results has written")
    tell.add_argument("--document", type=Path, default=Path("docs/faults.md"), help="(default: %(default)s)")
    return top


class _Stop:
    """Ctrl-C and SIGTERM: finish the round, settle, report. A second one ends at once."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("stopping after this round; once more ends at once", file=sys.stderr)


def _say(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {sentence}", file=sys.stderr, flush=True)


def _jobs(given: argparse.Namespace) -> list[tuple[Scenario, str]]:
    chosen = [BY_NAME[name] for name in given.only] if given.only else list(SCENARIOS)
    if why := may_mount():
        for scenario in [scenario for scenario in chosen if scenario.needs_root]:
            _say(f"{scenario.name} is left out: {why}")
            chosen.remove(scenario)
    if given.mutants:
        return [(scenario, mutant) for scenario in chosen for mutant in scenario.mutants]
    return [(scenario, "") for scenario in chosen]


def _run(given: argparse.Namespace) -> int:
    stop, results, seed = _Stop(), list[Result](), given.seed
    folder = Path(tempfile.mkdtemp(prefix="tidegate-faults-"))
    end_s = time.monotonic() + (given.minutes or 0.0) * 60
    jobs = _jobs(given)
    with Proxy() as proxy, FaultBroker(folder / "broker", proxy=proxy) as broker:
        while True:
            for scenario, mutant in jobs:
                if stop.asked or (results and given.minutes and time.monotonic() > end_s):
                    break
                where = folder / f"{seed}-{scenario.name}{mutant and '-' + mutant}"
                rounds = given.rounds or (scenario.long if given.minutes else 0) or scenario.quick
                broker.start(timeout_s=180)
                patience = 0.4 if given.minutes else 1.0
                bench = Bench(where, broker, proxy, seed, rounds, mutant, patience, _say, lambda: stop.asked)
                result = run(scenario, bench)
                results.append(result)
                if given.results:
                    report.keep(given.results, result)
                _tell(result)
                if not result.failed and not given.keep:
                    shutil.rmtree(where, ignore_errors=True)
                seed += 1
            if stop.asked or not given.minutes or time.monotonic() > end_s:
                break
    bad = [result for result in results if result.failed]
    if given.output == "json":
        print(json.dumps(report.as_json(results), indent=1))
    else:
        print(report.text(results))
    if bad or given.keep:
        _say(f"logs and accounts are in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if bad else 0


def _tell(result: Result) -> None:
    name = result.scenario + (f" with {result.mutant}" if result.mutant else "")
    wrong = "; ".join(
        [*result.trouble, *(f"{n} {kind} ({result.examples[kind][0]})" for kind, n in result.counts.items() if n)]
    )
    _say(f"{name}, seed {result.seed}: {'red: ' + wrong if result.red else 'green'} ({result.seconds:.0f} s)")


def main() -> int:
    """The exit code."""
    given = parser().parse_args()
    if given.command == "list":
        for scenario in SCENARIOS:
            print(
                f"{scenario.name:22} {scenario.ids:8} {scenario.what}; red with: {', '.join(scenario.mutants) or '-'}"
            )
        return 0
    if given.command == "report":
        report.write(given.document, report.kept(given.results))
        return 0
    logging.disable(logging.CRITICAL)  # clients that report what we do to their broker
    return _run(given)


if __name__ == "__main__":
    sys.exit(main())
