from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.io import trail as trail_module
from pipelines.io.partition import Partition
from pipelines.io.trail import FOLDER, Isolation, Step, Trail, read_step, trail

HERE = Partition("edge.events", 2)


def hand_out(folder: Path, first: int, last: int, killers: set[int], chunk: int) -> bool:
    """What the source does with offsets `first` to `last`, in a worker that dies of some of them. Whether it lived."""
    worker, offset = Trail(folder), first
    while offset <= last:
        most = worker.most(HERE, offset, chunk)
        end = min(offset + most, last + 1)
        worker.at(Step(*HERE, offset, end, end - offset))
        put_away = set(worker.kills(HERE))
        if any(at in killers and at not in put_away for at in range(offset, end)):
            return False
        worker.done()
        offset = end
    return True


@given(
    st.integers(0, 200),
    st.integers(0, 60),
    st.sets(st.integers(0, 260), max_size=4),
    st.integers(1, 100),
    st.integers(0, 30),
)
def test_every_killer_is_found_alone_and_none_kills_more_than_three_times(
    tmp_path_factory: pytest.TempPathFactory, first: int, count: int, anywhere: set[int], chunk: int, before: int
) -> None:
    """After each death the next worker starts up to `before` records earlier, as from a committed offset."""
    folder = tmp_path_factory.mktemp("trail")
    isolation = Isolation()
    isolation.write(folder)
    killers = {at for at in anywhere if first <= at <= first + count}
    deaths = 0
    while not hand_out(folder, max(0, first - before), first + count, killers, chunk):
        deaths += 1
        assert deaths <= 3 * len(killers)
        assert isolation.after_death(read_step(folder))
        isolation.write(folder)
    assert {offset for _, _, offset in isolation.kills} == killers


def test_whoever_dies_between_two_records_blames_none(tmp_path: Path) -> None:
    isolation = Isolation()
    isolation.write(tmp_path)
    worker = Trail(tmp_path)
    worker.at(Step(*HERE, 5, 6, 1))
    worker.done()
    assert read_step(tmp_path) is None
    assert isolation.after_death(read_step(tmp_path)) == ""


def test_a_random_death_in_a_record_makes_no_culprit_of_it(tmp_path: Path) -> None:
    isolation = Isolation()
    for offset in (5, 9, 200):
        isolation.write(tmp_path)
        Trail(tmp_path).at(Step(*HERE, offset, offset + 1, 1))
        assert "once more" in isolation.after_death(read_step(tmp_path))
    assert isolation.kills == []


def test_where_record_after_record_kills_it_is_not_the_records() -> None:
    isolation = Isolation(most=3)
    for offset in range(4):
        for _ in range(2):
            said = isolation.after_death(Step(*HERE, offset, offset + 1, 1))
        assert bool(said) == (offset < 3)
    assert len(isolation.kills) == 3


@pytest.mark.parametrize("orders", [b"", b"[]", b"{", b'{"slow": [[1]], "kills": []}', b'{"slow": 3, "kills": []}'])
def test_damaged_orders_count_as_none(tmp_path: Path, orders: bytes) -> None:
    (tmp_path / "orders.json").write_bytes(orders)
    worker = Trail(tmp_path)
    assert (worker.most(HERE, 0, 100), list(worker.kills(HERE))) == (100, [])


def test_a_process_that_nobody_watches_over_leaves_no_trail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in (None, str(tmp_path / "gone")):
        trail.cache_clear()
        monkeypatch.delenv(FOLDER, raising=False) if folder is None else monkeypatch.setenv(FOLDER, folder)
        assert trail() is None
        trail_module.innocent()
    trail.cache_clear()
