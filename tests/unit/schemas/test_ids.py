from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DecodeError
from schemas.ids import DEVICE_ID, Identity, chosen_for_audit

identities = st.builds(
    Identity,
    st.from_regex(DEVICE_ID, fullmatch=True),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 1),
)


@given(identities)
def test_an_event_id_reads_back_as_its_identity(identity: Identity) -> None:
    assert Identity.parse(identity.event_id) == identity


@given(st.text(max_size=40))
def test_any_text_is_an_event_id_or_a_decode_error(text: str) -> None:
    try:
        identity = Identity.parse(text)
    except DecodeError:
        return
    assert DEVICE_ID.fullmatch(identity.device_id)


@pytest.mark.parametrize(
    "text", ["", "pump-7", "pump-7:3", "pump-7:3:", ":3:1", "pump-7:-3:1", "pump 7:3:1", "a:1:2:3"]
)
def test_what_is_no_event_id_says_what_one_looks_like(text: str) -> None:
    with pytest.raises(DecodeError, match=r"not an event id .*an event id looks like pump-7:3:1042"):
        Identity.parse(text)


def test_identities_are_ordered_as_a_device_emits_them() -> None:
    assert Identity("a", 1, 9) < Identity("a", 1, 10) < Identity("a", 2, 0)


@given(st.lists(identities, max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_a_smaller_audit_sample_is_part_of_a_larger_one(ids: list[Identity], a: float, b: float) -> None:
    for identity in ids:
        if chosen_for_audit(identity.event_id, min(a, b)):
            assert chosen_for_audit(identity.event_id, max(a, b))


def test_the_audit_takes_its_rate_and_the_same_events_every_time() -> None:
    events = [Identity("pump-7", 1, seq).event_id for seq in range(20_000)]
    chosen = [event for event in events if chosen_for_audit(event, 0.05)]
    assert chosen == [event for event in events if chosen_for_audit(event, 0.05)]
    assert 900 < len(chosen) < 1_100  # 1,000 expected, standard deviation 31


def test_a_rate_of_zero_takes_nothing_and_of_one_everything() -> None:
    events = [f"pump-7:1:{seq}" for seq in range(1_000)]
    assert not any(chosen_for_audit(event, 0.0) for event in events)
    assert all(chosen_for_audit(event, 1.0) for event in events)
