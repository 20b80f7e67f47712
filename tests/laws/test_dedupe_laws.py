"""Laws of the dedupe: whatever a device sends again is answered once, and what two writers send is never merged."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from pipelines.dedupe import KEEP_AT_LEAST, Dedupe, Last, Seen
from schemas.errors import DecodeError
from schemas.ids import Identity

sent = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=40)


class Sent(NamedTuple):
    """What a device sends, as `Dedupe.see` takes it."""

    topic: str
    identity: Identity
    payload: bytes
    offset: int = -1


def stream(spec: list[tuple[str, int]], writer: str = "") -> list[Sent]:
    """Records as devices send them: seq counts up, boot_epoch now and then; two topics by turns."""
    epoch: dict[str, int] = {}
    seq: dict[tuple[str, str], int] = {}
    out = []
    for n, (device, reboot) in enumerate(spec):
        topic = "xy"[n % 2]
        if reboot == 0:
            epoch[device] = epoch.get(device, 0) + 1
            for t in "xy":
                seq[t, device] = 0
        identity = Identity(device, epoch.get(device, 0), seq.get((topic, device), 0))
        out.append(Sent(topic, identity, f"{writer}{topic}{identity}".encode()))
        seq[topic, device] = seq.get((topic, device), 0) + 1
    return out


def new(dedupe: Dedupe, wire: list[Sent]) -> list[Sent]:
    return [record for record in wire if dedupe.see(*record) is Seen.NEW]


@given(sent, st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=6))
def test_what_is_sent_again_is_a_resend_and_everything_is_new_once_in_order(
    spec: list[tuple[str, int]], replays: list[tuple[int, int]]
) -> None:
    original = stream(spec)
    wire: list[Sent] = []
    for at, item in enumerate(original):
        wire.append(item)
        for when, back in replays:  # at `when`, everything since `back` records ago is sent once more
            if when == at:
                wire += original[max(0, at - back) : at + 1]
    dedupe = Dedupe()
    seen = [dedupe.see(*record) for record in wire]
    assert [record for record, what in zip(wire, seen, strict=True) if what is Seen.NEW] == original
    assert set(seen) <= {Seen.NEW, Seen.RESENT}


@given(sent, st.data())
def test_of_two_writers_with_one_name_nothing_is_merged(spec: list[tuple[str, int]], data: st.DataObject) -> None:
    """Two clones send other records under the same identities, mixed in any way."""
    one, other = stream(spec, "one"), stream(spec, "other")
    turns = data.draw(st.lists(st.booleans(), min_size=len(one) + len(other), max_size=len(one) + len(other)))
    left, right = iter(one), iter(other)
    wire = [item for turn in turns if (item := next(left if turn else right, None)) is not None]
    dedupe = Dedupe()
    answered: dict[tuple[str, Identity], bytes] = {}
    for record in wire:
        what = dedupe.see(*record)
        who = record.topic, record.identity
        if what is Seen.NEW:
            assert who not in answered
            answered[who] = record.payload
        else:  # each writer sends each record once, so none of these may pass for a resend
            assert what in (Seen.OTHER_PAYLOAD, Seen.WENT_BACK)
            assert (what is Seen.OTHER_PAYLOAD) == (who in answered)


@given(sent, st.integers(0, 40))
def test_a_device_that_was_set_back_is_new_nowhere(spec: list[tuple[str, int]], back: int) -> None:
    """The disk of a device goes back to an earlier state, and it goes on from there with other readings."""
    original = stream(spec)
    dedupe = Dedupe()
    new(dedupe, original)
    again = [record._replace(payload=b"other" + record.payload) for record in original[max(0, len(original) - back) :]]
    assert {dedupe.see(*record) for record in again} <= {Seen.OTHER_PAYLOAD}


def test_what_lies_further_back_than_the_memory_reaches_cannot_be_told_and_is_said_so() -> None:
    dedupe = Dedupe(keep=KEEP_AT_LEAST)
    wire = [Sent("t", Identity("a", 7, n), b"%d" % n) for n in range(10 * KEEP_AT_LEAST)]
    assert len(new(dedupe, wire)) == len(wire)
    seen = [dedupe.see(*record) for record in wire]
    told = seen.count(Seen.RESENT)
    assert KEEP_AT_LEAST <= told <= 2 * KEEP_AT_LEAST
    assert seen == [Seen.FORGOTTEN] * (len(wire) - told) + [Seen.RESENT] * told
    assert dedupe.see("t", Identity("a", 6, 10**6), b"") is Seen.WENT_BACK  # another life is never a mere resend


def test_the_memory_is_bounded_over_all_devices() -> None:
    devices, records = 500, 200
    dedupe = Dedupe(room=10_000)
    for n in range(records):
        for device in range(devices):
            dedupe.see("t", Identity(f"device-{device}", 1, n), b"")
    assert len(dedupe.snapshot()) < devices * (20 * 28 + 40)


@given(sent, st.integers(0, 40), st.lists(st.integers(0, 40), max_size=5), st.integers(0, 40))
def test_a_restored_dedupe_knows_what_the_saved_one_knew(
    spec: list[tuple[str, int]], cut: int, saves: list[int], snapshot_at: int
) -> None:
    original = stream(spec)
    dedupe = Dedupe()
    parts: list[bytes] = []
    for n, item in enumerate(original[:cut]):
        dedupe.see(*item)
        if n == snapshot_at:
            parts = [dedupe.snapshot()]
        elif n in saves:
            parts.append(dedupe.delta())
    parts.append(dedupe.delta())
    restored = Dedupe.restore(reversed(parts))
    assert len(restored) == len(dedupe)
    wire = [record._replace(payload=b"x") for record in original]
    assert [restored.see(*record) for record in wire[:cut]] == [Seen.OTHER_PAYLOAD] * min(cut, len(wire))
    assert new(restored, original) == original[cut:]


@given(sent, st.integers(0, 40))
def test_the_newest_record_below_an_offset_is_found(spec: list[tuple[str, int]], below: int) -> None:
    dedupe = Dedupe()
    newest: dict[tuple[str, str], int] = {}
    for offset, record in enumerate(stream(spec)):
        dedupe.see(*record._replace(offset=offset))
        if offset < below:
            newest[record.topic, record.identity.device_id] = offset
    for topic in "xy":
        for device in "abc":
            last = dedupe.last_below(topic, device, below)
            assert (last and last.offset) == newest.get((topic, device))


def test_what_an_earlier_run_knew_is_taken_over_and_what_came_before_it_is_not_new() -> None:
    dedupe = Dedupe()
    dedupe.see("t", Identity("a", 3, 4), b"four", 10)
    last = dedupe.last_below("t", "a", 11)
    assert isinstance(last, Last)
    later = Dedupe()
    later.learn("t", "a", last)
    assert later.see("t", Identity("a", 3, 4), b"four") is Seen.RESENT
    assert later.see("t", Identity("a", 3, 4), b"other") is Seen.OTHER_PAYLOAD
    assert later.see("t", Identity("a", 3, 2), b"two") is Seen.FORGOTTEN
    assert later.see("t", Identity("a", 2, 9), b"") is Seen.WENT_BACK
    assert later.see("t", Identity("a", 3, 5), b"five") is Seen.NEW


@given(st.binary(max_size=120))
def test_any_bytes_restore_or_raise_decode_error(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        Dedupe.restore([data])


def test_a_delta_costs_by_what_changed() -> None:
    dedupe = Dedupe()
    for n in range(1000):
        dedupe.see("t", Identity(f"device-{n}", 1, 0), b"")
    full = dedupe.snapshot()
    assert dedupe.delta() == b""
    dedupe.see("t", Identity("device-7", 1, 1), b"")
    assert 0 < len(dedupe.delta()) < len(full) / 500
