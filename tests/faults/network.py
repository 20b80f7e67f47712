"""Faults of the link: connections cut, delayed and half open; single requests and answers of Kafka lost or held."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.faults.proxy import Api, Rule
from tests.faults.scenario import Bench, Scenario
from tests.faults.world import World, until


def _proxied(bench: Bench) -> World:
    bench.proxy.heal()
    bench.proxy.rules.clear()
    return bench.world(servers=bench.broker.proxied)


def _cut(bench: Bench, world: World, turn: int) -> None:
    """Every connection is reset; every second time none is taken for a while."""
    bench.pause(0.3, 1.5)
    bench.proxy.cut(refuse=bool(turn % 2))
    bench.pause(0.0, 3.0)
    bench.proxy.heal()


def _slow(bench: Bench, world: World, turn: int) -> None:
    bench.pause(0.3, 1.0)
    bench.proxy.delay_s = bench.dice.uniform(0.05, 0.4)
    bench.pause(2.0, 5.0)
    bench.proxy.heal()


def _half_open(bench: Bench, world: World, turn: int) -> None:
    """Nothing passes, and nobody is told; then every connection is found to be dead."""
    bench.pause(0.3, 1.5)
    bench.proxy.silence()
    bench.pause(1.0, 8.0)
    if turn % 2:
        bench.proxy.cut()
    bench.proxy.heal()


def _kill_edge(bench: Bench, world: World, turn: int) -> None:
    """What is on its way when the edge dies has arrived, and nobody has told it: the next one sends it again."""
    bench.proxy.delay_s = bench.dice.uniform(0.2, 0.4)
    bench.pause(1.0, 2.0)
    world.kill("edge")
    bench.proxy.heal()


def _rule(api: Api, *whats: str) -> Callable[[Bench, World, int], None]:
    def harm(bench: Bench, world: World, turn: int) -> None:
        bench.pause(0.2, 1.0)
        what = whats[turn % len(whats)]
        rule = bench.proxy.rule(Rule(api, what, times=1, hold_s=bench.dice.uniform(0.5, 3.0)))  # type: ignore[arg-type]
        until(rule.done.is_set, f"a request {api.name} to do harm to", 30)
        time.sleep(rule.hold_s if "hold" in what else 0.0)

    return harm


_TXN = {"blind-commit": "lost"}

SCENARIOS = (
    Scenario("cut-link", "K", "every connection is reset, or refused for up to 3 s", _cut, world=_proxied, quick=3),
    Scenario("slow-link", "K", "every request and answer is 50 to 400 ms late", _slow, world=_proxied, quick=1),
    Scenario("half-open-link", "K", "nothing passes for 1 to 8 s, nobody is told", _half_open, world=_proxied, quick=2),
    Scenario(
        "kill-edge-slow-link", "S1 K4", "kill -9 of the edge while answers of the broker are on their way", _kill_edge,
        {"no-dedupe": "doubled"}, _proxied, quick=2,
    ),
    Scenario(
        "lost-produce", "K6", "an answer to Produce is lost or held, or its request is lost",
        _rule(Api.PRODUCE, "lose answer", "lose request", "hold answer"), world=_proxied, quick=6,
    ),
    Scenario(
        "lost-commit", "K5 K6", "EndTxn reaches the broker after the client gave up; or it or its answer is lost",
        _rule(Api.END_TXN, "hold request", "lose answer", "lose request"), {**_TXN, "commit-again": "doubled"},
        _proxied, quick=3,
    ),
    Scenario(
        "lost-offsets", "K5 K6", "the same with the offsets of a transaction",
        _rule(Api.TXN_OFFSET_COMMIT, "hold request", "lose answer", "lose request"), world=_proxied, quick=3,
    ),
)  # fmt: skip
