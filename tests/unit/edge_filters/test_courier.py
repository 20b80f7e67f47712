from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_filters import courier as module
from edge_filters.courier import Courier
from edge_filters.io.spool import FileSpool
from edge_filters.outgoing import Priority, pack
from edge_filters.ports import Delivery, Report
from schemas.codec import decode
from schemas.records import GapMarker
from tests.doubles import records as make
from tests.doubles.edge_parts import MemoryOutbox, number_of, parcel

PENDING, DELIVERED = Report(Delivery.PENDING), Report(Delivery.DELIVERED)
LOST = Report(Delivery.LOST, "the broker forgot us")


@pytest.fixture
def outbox() -> MemoryOutbox:
    return MemoryOutbox()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[FileSpool]:
    made = FileSpool(tmp_path / "spool", max_bytes=4 << 20, fsync="never")
    yield made
    made.close()


def numbers(outbox: MemoryOutbox) -> list[int]:
    return [number_of(sent) for sent in outbox.sent]


def test_while_the_link_keeps_up_parcels_go_straight_out(spool: FileSpool, outbox: MemoryOutbox) -> None:
    courier = Courier(spool, outbox)
    courier.put([parcel(0), parcel(1)])
    assert numbers(outbox) == [0, 1]
    assert not courier.idle
    courier.pump()
    assert courier.idle
    assert courier.acked == {b"pump-7": 2}
    assert courier.acked_bytes == {b"pump-7": 2 * (10 + 6)}


def test_nothing_is_forgotten_before_it_is_acknowledged(spool: FileSpool, outbox: MemoryOutbox) -> None:
    outbox.answer = PENDING
    courier = Courier(spool, outbox)
    courier.put([parcel(0)])
    courier.pump()
    assert spool.waiting_records == 1
    outbox.settle()
    courier.pump()
    assert spool.waiting_records == 0


def test_while_the_outbox_is_away_parcels_wait_and_then_go_in_order_urgent_first(
    spool: FileSpool, outbox: MemoryOutbox
) -> None:
    outbox.ready = False
    courier = Courier(spool, outbox)
    courier.put([parcel(10, Priority.BULK), parcel(0)])
    courier.put([parcel(1), parcel(11, Priority.BULK)])
    courier.pump()
    assert outbox.sent == []
    outbox.ready = True
    courier.pump()
    assert numbers(outbox) == [0, 1, 10, 11]


def test_a_new_parcel_never_overtakes_those_that_wait(spool: FileSpool, outbox: MemoryOutbox) -> None:
    outbox.ready = False
    courier = Courier(spool, outbox)
    courier.put([parcel(0)])
    outbox.ready = True
    courier.put([parcel(1)])
    courier.pump()
    assert numbers(outbox) == [0, 1]


def test_only_so_much_is_on_its_way_at_once(
    spool: FileSpool, outbox: MemoryOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ON_THE_WAY", 3)
    outbox.answer = PENDING
    courier = Courier(spool, outbox)
    courier.put([parcel(n) for n in range(10)])
    courier.pump()
    assert numbers(outbox) == [0, 1, 2]
    outbox.settle()
    courier.pump()
    assert numbers(outbox) == [0, 1, 2, 3, 4, 5]


def test_what_was_lost_is_sent_again_with_all_that_came_after_it(spool: FileSpool, outbox: MemoryOutbox) -> None:
    outbox.answer = PENDING
    courier = Courier(spool, outbox)
    courier.put([parcel(n) for n in range(4)])
    outbox.receipts = [DELIVERED, LOST, DELIVERED, PENDING]
    courier.pump()
    assert outbox.restarts == 0  # one is still on its way: it might arrive before what is sent again
    outbox.answer = DELIVERED
    outbox.settle()
    courier.pump()
    courier.pump()
    assert outbox.restarts == 1
    assert numbers(outbox) == [0, 1, 2, 3, 1, 2, 3]
    assert courier.idle
    assert courier.acked == {b"pump-7": 4}
    assert courier.notices == ["a record was not acknowledged and is sent again: the broker forgot us"]


def test_a_loss_is_said_once_until_something_arrives_again(spool: FileSpool, outbox: MemoryOutbox) -> None:
    outbox.answer = LOST
    courier = Courier(spool, outbox)
    courier.put([parcel(0)])
    for _ in range(5):
        courier.pump()
    assert len(courier.notices) == 1
    assert outbox.restarts >= 2


def test_what_the_broker_refuses_for_good_is_given_up_counted_and_said(spool: FileSpool, outbox: MemoryOutbox) -> None:
    outbox.answer = Report(Delivery.REFUSED, "too large")
    courier = Courier(spool, outbox)
    courier.put([parcel(0)])
    courier.pump()
    assert courier.idle
    assert courier.refused == {b"pump-7": 1}
    assert courier.acked == {}
    assert courier.notices == ["pump-7: a record for edge.events is dropped: too large"]


def test_parcels_of_an_earlier_run_go_first(spool: FileSpool, outbox: MemoryOutbox) -> None:
    spool.append([parcel(0), parcel(1)])
    courier = Courier(spool, outbox)
    courier.put([parcel(2)])
    courier.pump()
    courier.pump()
    assert numbers(outbox) == [0, 1, 2]
    assert courier.idle


def test_parcels_that_a_full_spool_threw_out_are_passed_over(tmp_path: Path, outbox: MemoryOutbox) -> None:
    spool = FileSpool(tmp_path / "small", max_bytes=1 << 20, fsync="never")
    outbox.ready = False
    courier = Courier(spool, outbox)
    for number in range(200):
        courier.put([parcel(number, size=10_000)])
    dropped = spool.take_dropped()[b"pump-7"]
    outbox.ready = True
    for _ in range(50):
        courier.pump()
    assert numbers(outbox) == list(range(dropped, 200))
    assert courier.acked[b"pump-7"] + dropped == 200
    assert courier.idle
    spool.close()


def test_an_acknowledgement_of_a_parcel_that_was_thrown_out_meanwhile_counts_for_nothing(
    tmp_path: Path, outbox: MemoryOutbox
) -> None:
    spool = FileSpool(tmp_path / "small", max_bytes=1 << 20, fsync="never")
    outbox.answer = PENDING
    courier = Courier(spool, outbox)
    for number in range(200):
        courier.put([parcel(number, size=10_000)])
    dropped = spool.take_dropped()[b"pump-7"]
    assert dropped
    outbox.answer = DELIVERED
    outbox.settle()
    for _ in range(10):
        courier.pump()
    assert courier.acked[b"pump-7"] + dropped == 200
    assert courier.idle
    spool.close()


def test_after_hours_away_a_live_event_goes_out_at_once_before_the_bulk_that_waits(
    spool: FileSpool, outbox: MemoryOutbox
) -> None:
    """Also while all that bulk may have on its way is on its way, and nothing of it is acknowledged yet."""
    outbox.ready = False
    courier = Courier(spool, outbox)
    for lane in (Priority.BULK, Priority.SAMPLES):
        courier.put([parcel(n, lane) for n in range(3000)])
    outbox.ready, outbox.answer = True, PENDING
    courier.pump()
    on_the_way = len(outbox.sent)
    assert 0 < on_the_way < module.MAX_ON_THE_WAY
    courier.pump()
    assert len(outbox.sent) == on_the_way
    for n in range(5):
        courier.put([parcel(n)])
        assert outbox.sent[-1].priority is Priority.URGENT, "an event waits for bulk"
    live = 5
    for _ in range(200):
        outbox.settle()
        courier.put([parcel(live)])
        courier.pump()
        live += 1
        last_bulk = max(n for n, sent in enumerate(outbox.sent) if sent.priority is not Priority.URGENT)
        assert [number_of(s) for s in outbox.sent if s.priority is Priority.URGENT] == list(range(live))
        if courier.idle:
            break
    assert last_bulk > on_the_way
    for lane in (Priority.BULK, Priority.SAMPLES):
        assert [number_of(s) for s in outbox.sent if s.priority is lane] == list(range(3000))


def test_gap_markers_go_before_bulk_and_are_no_records_of_a_device(tmp_path: Path, outbox: MemoryOutbox) -> None:
    spool = FileSpool(tmp_path / "spool", max_bytes=1 << 20, fsync="never")
    outbox.ready = False
    courier = Courier(spool, outbox)
    for n in range(400):
        courier.put([pack(make.event("pump-7", n, readings=500, values=bytes(4000)))])
    courier.put([parcel(0, Priority.BULK)])
    outbox.ready = True
    while not courier.idle:
        courier.pump()
    sent = [parcel.priority for parcel in outbox.sent]
    assert sent == sorted(sent)
    markers = [decode(p.payload, GapMarker) for p in outbox.sent if p.priority is Priority.GAPS]
    events = sent.count(Priority.URGENT)
    assert sum(marker.count for marker in markers) == 400 - events
    assert courier.acked == {b"pump-7": events + sent.count(Priority.BULK)}
    spool.close()
