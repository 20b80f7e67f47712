"""The history of the benches: what is kept comes back, and only what is worse than the whole spread is slower."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.history import Figure, Run, append, compare, load


def run(commit: str, *values: float, better: str = "higher", cores: int = 2) -> Run:
    return Run(commit, False, "2026-01-01T00:00:00Z", cores, "cpu", 0.5, {"rate": Figure.of(values, "1/s", better)})


def test_what_is_kept_comes_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "history.jsonl"
    assert load(path) == []
    runs = [run("aaa", 1.0, 2.0), run("bbb", 3.0)]
    for each in runs:
        append(path, each)
    assert load(path) == runs


@pytest.mark.parametrize("line", ["", "no json", "[]", "{}", '{"figures":{"a":{}}}'])
def test_a_line_that_is_no_run_is_refused(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # json's own error is one too
        Run.parse(line)


@pytest.mark.parametrize(
    ("better", "base", "now", "slower"),
    [
        ("higher", (90, 100), (95, 97), False),
        ("higher", (90, 100), (80, 91), False),
        ("higher", (90, 100), (80, 89), True),
        ("lower", (90, 100), (99, 120), False),
        ("lower", (90, 100), (101, 120), True),
    ],
)
def test_slower_is_only_what_is_worse_than_all_that_the_base_gave(
    better: str, base: tuple[float, ...], now: tuple[float, ...], slower: bool
) -> None:
    _, _, (change,) = compare([run("aaa", *base, better=better), run("bbb", *now, better=better)])
    assert change.now.is_slower(change.base) is slower
    assert ("SLOWER" in change.text) is slower


def test_runs_of_one_commit_count_together() -> None:
    runs = [run("aaa", 90), run("aaa", 60, 100), run("bbb", 50), run("bbb", 61)]
    before, now, (change,) = compare(runs)
    assert (before, now) == ("aaa", "bbb")
    assert (change.base.best, change.base.low, change.base.high) == (100, 60, 100)
    assert not change.now.is_slower(change.base)


def test_the_base_is_the_commit_measured_before_or_the_one_that_is_named() -> None:
    runs = [run("aaa", 1), run("bbb", 2), run("ccc", 3)]
    assert compare(runs)[:2] == ("bbb", "ccc")
    assert compare(runs, "aa")[:2] == ("aaa", "ccc")


@pytest.mark.parametrize(
    ("runs", "base"),
    [([], ""), ([run("aaa", 1)], ""), ([run("aaa", 1, cores=8), run("bbb", 1)], ""), ([run("a", 1), run("b", 1)], "c")],
)
def test_without_a_run_on_a_machine_like_this_one_there_is_nothing_to_compare(runs: list[Run], base: str) -> None:
    with pytest.raises(ValueError, match="no run"):
        compare(runs, base)
