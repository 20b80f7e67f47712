"""Laws of the dedupe: any duplication of what a device sent yields each identity once, across any restart."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from pipelines.dedupe import Dedupe
from schemas.errors import DecodeError
from schemas.ids import Identity

sent = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=40)


def stream(spec: list[tuple[str, int]]) -> list[tuple[str, Identity]]:
    """Identities as devices send them: seq counts up, boot_epoch now and then; two topics by turns."""
    epoch: dict[str, int] = {}
    seq: dict[tuple[str, str], int] = {}
    out = []
    for n, (device, reboot) in enumerate(spec):
        topic = "xy"[n % 2]
        if reboot == 0:
            epoch[device] = epoch.get(device, 0) + 1
            for t in "xy":
                seq[t, device] = 0
        out.append((topic, Identity(device, epoch.get(device, 0), seq.get((topic, device), 0))))
        seq[topic, device] = seq.get((topic, device), 0) + 1
    return out


@given(sent, st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=6))
def test_replayed_prefixes_yield_each_identity_once_in_order(
    spec: list[tuple[str, int]], replays: list[tuple[int, int]]
) -> None:
    original = stream(spec)
    wire: list[tuple[str, Identity]] = []
    for at, item in enumerate(original):
        wire.append(item)
        for when, back in replays:  # at `when`, everything since `back` records ago is sent once more
            if when == at:
                wire += original[max(0, at - back) : at + 1]
    dedupe = Dedupe()
    assert [i for i in wire if dedupe.first_time(*i)] == original


@given(sent, st.integers(0, 40), st.lists(st.integers(0, 40), max_size=5), st.integers(0, 40))
def test_a_restored_dedupe_knows_what_the_saved_one_knew(
    spec: list[tuple[str, int]], cut: int, saves: list[int], snapshot_at: int
) -> None:
    original = stream(spec)
    dedupe = Dedupe()
    parts: list[bytes] = []
    for n, item in enumerate(original[:cut]):
        dedupe.first_time(*item)
        if n == snapshot_at:
            parts = [dedupe.snapshot()]
        elif n in saves:
            parts.append(dedupe.delta())
    parts.append(dedupe.delta())
    restored = Dedupe.restore(reversed(parts))
    assert len(restored) == len(dedupe)
    assert [i for i in original if restored.first_time(*i)] == original[cut:]


@given(st.binary(max_size=120))
def test_any_bytes_restore_or_raise_decode_error(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        Dedupe.restore([data])


def test_a_delta_costs_by_what_changed() -> None:
    dedupe = Dedupe()
    for n in range(1000):
        dedupe.first_time("t", Identity(f"device-{n}", 1, 0))
    full = dedupe.snapshot()
    assert dedupe.delta() == b""
    dedupe.first_time("t", Identity("device-7", 1, 1))
    assert 0 < len(dedupe.delta()) < len(full) / 500
