"""A live pipeline on Prism under records that nobody should send: two writers, killers, a topic full of junk."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy import paths
from deploy.broker import Broker
from schemas import topics
from schemas.codec import encode
from schemas.records import Decision, Failure
from tests.doubles import records as make
from tests.e2e.test_pipeline_prism import Live
from tests.wait import until

pytestmark = [pytest.mark.kafka, pytest.mark.prism]

Start = Callable[..., Live]


@pytest.fixture
def start(broker: Broker, catalogue: str, prism: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a pipeline without a heavy model."""
    made: list[Live] = []

    def run(*options: str) -> Live:
        made.append(Live(broker, catalogue, prism, tmp_path / "pipeline.log", *options))
        return made[-1]

    yield run
    for live in made:
        live.producer.close()
        if live.process.poll() is None:
            live.process.kill()
            live.process.wait()


def decided(live: Live, enough: int) -> list[str]:
    return [d.identity.event_id for d in live.read(topics.DECISIONS, enough, 90.0) if isinstance(d, Decision)]


def letters(live: Live, enough: int) -> list[tuple[int, str]]:
    found = [f for f in live.read(topics.DEAD_LETTERS, enough, 90.0) if isinstance(f, Failure)]
    return sorted((f.offset, f.reason) for f in found)


def test_of_two_writers_with_one_id_the_second_is_put_away_and_nothing_is_merged(start: Start) -> None:
    live = start()
    first = [make.event("pump-1", seq, boot_epoch=5) for seq in range(4)]
    clone = [make.event("pump-1", seq, boot_epoch=5, value=9.0) for seq in range(4)]
    back = [make.event("pump-1", seq, boot_epoch=4, value=7.0) for seq in range(2)]
    last = make.event("pump-1", 4, boot_epoch=5)
    for record in [*first, *first, *clone, *back, last]:
        live.send(topics.EVENTS, record, partition=2)
    assert decided(live, 5) == [record.identity.event_id for record in [*first, last]]
    assert letters(live, 6) == [(8 + n, "IdentityTaken") for n in range(4)] + [(12, "Diverged"), (13, "Diverged")]
    assert live.stop() == 0
    assert len(decided(live, 5)) == 5


def test_a_record_that_is_sent_again_after_a_restart_is_known_however_long_ago_it_came(
    start: Start, broker: Broker, catalogue: str
) -> None:
    live = start()
    old = make.event("pump-old", 0)
    live.send(topics.EVENTS, old, partition=0)
    noise = [
        live.producer.send(topics.EVENTS.named(catalogue), encode(make.event("noise", n)), partition=0)
        for n in range(3000)
    ]
    for sent in noise:
        sent.get(60)
    assert len(decided(live, 3001)) == 3001

    def kept() -> bool:
        """Whether a page speaks for everything that was answered."""
        pages: Any = live.read(topics.SEEN, 1, 60.0)
        return any(page.source.endswith(topics.EVENTS.name) and page.as_of >= 3001 for page in pages)

    until(kept, "a page on all of them", within_s=60)
    assert live.stop() == 0
    live.start()
    live.send(topics.EVENTS, old, partition=0)
    live.send(topics.EVENTS, make.event("pump-old", 1), partition=0)
    ids = decided(live, 3002)
    assert ids.count(old.identity.event_id) == 1
    assert "pump-old:1:1" in ids
    assert live.stop() == 0
    assert len(decided(live, 3002)) == 3002


#: Makes a function of a module of ours fail on what has the cohort `poison`: by a signal, as broken native code would,
#: or by throwing what nobody has thought of.
BROKEN = """
import importlib.abc, importlib.util, os, signal, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "MODULE":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            real = module.FUNCTION

            def broken(record):
                if record.cohort == "poison":
                    HOW
                return real(record)

            module.FUNCTION = broken

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    ("module", "function", "how", "said"),
    [
        ("pipelines.split", "_check_names", "os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("pipelines.heavy", "_outgoing", "raise RuntimeError('nobody thought of this')", "exit code 1"),
    ],
)
def test_a_record_that_kills_the_worker_is_put_away_after_three_deaths_and_the_rest_is_decided(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, function: str, how: str, said: str
) -> None:
    code = BROKEN.replace("MODULE", module).replace("FUNCTION", function).replace("HOW", how)
    (tmp_path / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(paths.home()), *sys.path]))
    live = start()
    for seq in range(30):
        live.send(topics.EVENTS, make.event("pump-1", seq, cohort="poison" if seq == 17 else "pumps"), partition=1)
    assert letters(live, 1) == [(17, "KillsWorkers")]
    ids = decided(live, 29)
    assert sorted(ids) == sorted(f"pump-1:1:{seq}" for seq in range(30) if seq != 17)
    log = (tmp_path / "pipeline.log").read_text()
    assert 2 <= log.count(f"the pipeline ended ({said})") <= 3
    assert "offset 17 of" in log
    assert live.stop() == 0


def test_a_topic_full_of_junk_stops_the_job_with_the_reason_and_is_not_poured_into_the_dead_letters(
    start: Start, tmp_path: Path
) -> None:
    live = start("--max_failed_ratio=0.5", "--failed_window=100")
    for _ in range(120):
        live.send(topics.EVENTS, b"junk", partition=0)
    assert live.process.wait(120) == 76
    log = (tmp_path / "pipeline.log").read_text()
    assert "more than --max_failed_ratio 0.5 of 100 allows" in log
    assert "starting again" not in log
    with pytest.raises(AssertionError, match=r"of 51 in"):
        live.read(topics.DEAD_LETTERS, 51, 5.0)
