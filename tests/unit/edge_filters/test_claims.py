from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from edge_filters import claims as claims_module
from edge_filters.claims import Claims, begin, lease_of
from edge_filters.io.state import FileStore
from edge_filters.outgoing import KNOCK
from edge_filters.ports import Delivery, Feedback, Report
from schemas.codec import decode
from schemas.errors import LeaseError, SpoolError, exit_code
from schemas.records import ClaimKind, DeviceClaim
from tests.doubles.edge_parts import T0, MemoryOutbox, thresholds


def claim(epoch: int, instance: str = "other", kind: ClaimKind = ClaimKind.CLAIM) -> DeviceClaim:
    return DeviceClaim(device_id="pump-7", epoch=epoch, instance=instance, edge_id="edge-2", kind=kind, at=T0)


class Topic:
    """An inbox over claims: `holder` answers the knocks that the outbox has taken."""

    problem = ""

    def __init__(self, outbox: MemoryOutbox, *there: Feedback | str) -> None:
        self.items: list[Feedback | str] = list(there)
        self.ready = self.hears_claims = True
        self.holder: Callable[[], DeviceClaim] | None = None
        self._outbox, self._read = outbox, 0

    def poll(self) -> list[Feedback | str]:
        for parcel in self._outbox.sent[self._read :]:
            self._read += 1
            if parcel.key.startswith(KNOCK) and self.holder is not None:
                self.items.append(self.holder())
        items, self.items = self.items, []
        return items

    def want(self, files: Collection[bytes]) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def outbox() -> MemoryOutbox:
    return MemoryOutbox()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BROKER_S", "NEW_S", "TOPICS_S", "STRANGER_S", "OWN_S"):
        monkeypatch.setattr(claims_module, name, 0.05)


def begun(
    folder: Path, outbox: MemoryOutbox, topic: Topic, leftovers: bool = False
) -> tuple[int, list[Feedback | str]]:
    store = FileStore(folder)
    lease = lease_of(["pump-7"], "edge-1", store)
    found = begin(lease, store, topic, outbox, threading.Event(), lambda: T0, leftovers)
    assert lease.boot_epoch == found[0]
    return found


def test_the_first_start_of_all_is_one_and_each_later_one_is_counted(tmp_path: Path, outbox: MemoryOutbox) -> None:
    assert [begun(tmp_path, outbox, Topic(outbox))[0] for _ in range(3)] == [1, 2, 3]
    assert outbox.sent == []


def test_an_empty_disk_counts_on_from_what_was_claimed(tmp_path: Path, outbox: MemoryOutbox) -> None:
    assert begun(tmp_path, outbox, Topic(outbox, claim(7, kind=ClaimKind.RELEASE)))[0] == 8


def test_a_disk_that_was_set_back_counts_on_from_what_was_claimed(tmp_path: Path, outbox: MemoryOutbox) -> None:
    begun(tmp_path, outbox, Topic(outbox))
    assert begun(tmp_path, outbox, Topic(outbox, claim(7)))[0] == 8
    assert FileStore(tmp_path).next_boot_epoch() == 9


@pytest.mark.parametrize("leftovers", [True, False])
def test_an_empty_disk_without_a_broker_takes_the_time(tmp_path: Path, outbox: MemoryOutbox, leftovers: bool) -> None:
    topic = Topic(outbox)
    topic.ready = leftovers  # with a broker, too, where the spool shows that there was a life before
    assert begun(tmp_path, outbox, topic, leftovers)[0] == T0 // 1000 + 1
    assert begun(tmp_path, outbox, topic, leftovers)[0] == T0 // 1000 + 2


def test_a_disk_that_knows_its_count_needs_no_broker(tmp_path: Path, outbox: MemoryOutbox) -> None:
    begun(tmp_path, outbox, Topic(outbox))
    topic = Topic(outbox)
    topic.ready = outbox.ready = False
    assert begun(tmp_path, outbox, topic)[0] == 2


def test_whoever_holds_the_device_is_named_and_nothing_is_counted(tmp_path: Path, outbox: MemoryOutbox) -> None:
    topic = Topic(outbox, claim(7))
    topic.holder = lambda: claim(7)
    with pytest.raises(
        LeaseError, match=r"device pump-7: edge 'edge-2', process 'other' .*2023-11-14.*stop that"
    ) as no:
        begun(tmp_path, outbox, topic)
    assert exit_code(no.value) == 77
    knock = decode(outbox.sent[0].payload, DeviceClaim)
    assert (outbox.sent[0].key, knock.kind, knock.epoch) == (b"knock:pump-7", ClaimKind.KNOCK, 7)
    assert FileStore(tmp_path).is_new


def test_what_else_comes_while_it_waits_is_kept(tmp_path: Path, outbox: MemoryOutbox) -> None:
    assert begun(tmp_path, outbox, Topic(outbox, thresholds(), claim(3), "a sentence"))[1] == [
        thresholds(),
        "a sentence",
    ]


def test_an_epoch_that_nothing_can_follow_is_refused(tmp_path: Path, outbox: MemoryOutbox) -> None:
    with pytest.raises(SpoolError, match="nothing can follow"):
        begun(tmp_path, outbox, Topic(outbox, claim(2**63 - 1, kind=ClaimKind.RELEASE)))


def test_a_state_folder_remembers_its_processes_and_survives_damage(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    for _ in range(20):
        lease_of(["pump-7"], "edge-1", store)
    assert 1 < len(claims_module._before(store)) <= 8
    store.save("lease", b"{not json")
    assert claims_module._before(store) == []


def test_a_claim_is_sent_again_until_it_is_there(outbox: MemoryOutbox) -> None:
    outbox.ready = False
    sender = Claims(outbox)
    sender.put([claim(1)])
    assert not sender.pump()
    assert outbox.sent == []
    outbox.ready, outbox.answer = True, Report(Delivery.LOST, "gone")
    assert not sender.pump()
    outbox.answer = Report(Delivery.DELIVERED)
    assert not sender.pump()
    assert sender.pump()
    assert len(outbox.sent) == 2
