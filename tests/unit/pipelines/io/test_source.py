"""Parts of the source that need no broker, and the guard on the private attribute of Beam that it stands on."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import pytest
from apache_beam import coders
from apache_beam.coders.coder_impl import create_OutputStream
from apache_beam.runners.worker import bundle_processor
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import PANE_INFO_UNKNOWN
from hypothesis import given
from hypothesis import strategies as st

from pipelines.io.loop import _hold_watermark
from pipelines.io.partition import Partition
from pipelines.io.shard import At, ShardState
from pipelines.io.source import ReadFromKafka
from schemas.errors import ConfigError, DecodeError

i64 = st.integers(-(2**62), 2**62)
states = st.builds(
    ShardState,
    st.integers(0, 2**62),
    st.integers(0, 2**31),
    st.dictionaries(
        st.builds(Partition, st.text(max_size=9), st.integers(0, 2**31)), st.builds(At, i64, i64), max_size=5
    ),
)


class Sink:
    """Stands for the stream that timers are written to; what the runner would get is read back from it."""

    def __init__(self) -> None:
        self.stream = create_OutputStream()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def maybe_flush(self) -> None:
        pass


def test_a_processing_time_timer_of_this_beam_holds_the_watermark_where_we_say() -> None:
    coder = coders.coders._TimerCoder(coders.BytesCoder(), coders.coders.GlobalWindowCoder()).get_impl()
    sent: list[Any] = []

    class Spy:
        def encode_to_stream(self, timer: Any, stream: Any, nested: bool) -> None:
            sent.append(coder.decode(coder.encode(timer)))

    timer = bundle_processor.OutputTimer(
        b"0", GlobalWindow(), Timestamp(5), PANE_INFO_UNKNOWN, TimeDomain.REAL_TIME, "tick", Spy(), Sink()
    )
    _hold_watermark(timer, 1_700_000_000_123_000)
    timer.set(Timestamp(1_700_000_100))
    assert sent[0].hold_timestamp == Timestamp(micros=1_700_000_000_123_000)
    assert sent[0].fire_timestamp == Timestamp(1_700_000_100)


def test_the_private_attribute_is_still_what_beam_reads() -> None:
    assert "self._input_timestamp" in inspect.getsource(bundle_processor.OutputTimer.set)


@given(states)
def test_a_shard_state_comes_back_as_it_was(state: ShardState) -> None:
    assert ShardState.decode(state.encode()) == state


@given(st.binary(max_size=100))
def test_any_bytes_are_a_shard_state_or_raise_decode_error(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        ShardState.decode(data)


def test_a_shard_holds_at_its_slowest_partition() -> None:
    at = {Partition("a", 0): At(1, 50), Partition("b", 0): At(9, 20)}
    assert ShardState(0, 0, at).hold_us() == 20
    assert ShardState().hold_us() == 0


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"grid_s": 0.0}, "grid must be in"),
        ({"shards": 0}, "at least one shard"),
        ({"disorder_s": -1.0}, "zero or more"),
        ({"client": {"fetch_max_byte": 1}}, "does not have"),
        ({"client": {"isolation_level": "read_uncommitted"}}, "decides by itself"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_construction(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        ReadFromKafka(["t"], "127.0.0.1:9", **settings)


def test_a_source_without_topics_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one topic"):
        ReadFromKafka([], "127.0.0.1:9")
