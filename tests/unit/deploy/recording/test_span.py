"""What `--from` and `--to` mean, and what they leave of a recording."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.recording.span import ALL, Moment, Span, blocks, cut, first_time, moment
from deploy.text import utc
from schemas.container import ContainerWriter
from schemas.errors import ConfigError, DecodeError
from schemas.records import SensorBlock

START = 1_780_000_000_000_000
SECOND = 1_000_000


def write(path: Path, readings: int = 100, per_block: int = 10, device: str = "pump-1") -> Path:
    times = START + np.arange(readings, dtype="<i8") * SECOND
    values = np.arange(readings, dtype="<f4")[:, None]
    with path.open("wb") as file:
        writer = ContainerWriter(file, SensorBlock)
        for seq, at in enumerate(range(0, readings, per_block)):
            rows = slice(at, at + per_block)
            writer.write(
                SensorBlock(
                    device_id=device,
                    boot_epoch=1,
                    seq=seq,
                    cohort="pumps",
                    channels=["c0"],
                    event_times=times[rows].tobytes(),
                    values=values[rows].tobytes(),
                    labels=(np.arange(readings)[rows] % 2).astype(np.uint8).tobytes(),
                )
            )
        writer.close()
    return path


@pytest.mark.parametrize(
    ("text", "us", "relative"),
    [
        ("10min", 600 * SECOND, True),
        ("-5min", -300 * SECOND, True),
        ("2026-05-28", 1_779_926_400 * SECOND, False),
        ("2026-05-28T20:26:40Z", 1_779_999_999 * SECOND + SECOND, False),
        ("2026-05-28T22:26:40+02:00", 1_780_000_000 * SECOND, False),
        ("2026-05-28T20:26:40.123456", 1_780_000_000_123_456, False),
    ],
)
def test_a_moment_is_a_time_or_a_duration(text: str, us: int, relative: bool) -> None:
    assert moment(text) == Moment(us, relative)


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)))  # noqa: DTZ001
def test_every_time_that_is_written_is_read_to_the_microsecond(at: datetime) -> None:
    parsed = moment(at.isoformat())
    assert datetime.fromtimestamp(0, UTC) + np.timedelta64(parsed.us, "us").astype(object) == at.replace(tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "10", "ten", "2026-13-01", "2026-05-28T99:00", "-", "1e9999s"])
def test_what_is_no_moment_is_a_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="write it like"):
        moment(text)


def test_offsets_count_from_the_start_and_the_end_is_not_included(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.avro")
    kept = cut(whole, Span(moment("5s"), moment("25s")), tmp_path / "part.avro", first_time(whole))
    found = list(blocks(tmp_path / "part.avro"))
    values = np.concatenate([b.matrix for b in found])[:, 0]
    assert kept == 20
    assert values.tolist() == list(range(5, 25))
    assert [len(b.times) for b in found] == [5, 10, 5]
    labels = np.concatenate([np.frombuffer(b.labels or b"", np.uint8) for b in found])
    assert labels.tolist() == [n % 2 for n in range(5, 25)]


@given(st.integers(-5, 110), st.integers(-5, 110))
def test_a_cut_has_exactly_the_readings_between(tmp_path_factory: pytest.TempPathFactory, a: int, b: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole = write(folder / "whole.avro")
    span = Span(Moment(a * SECOND, relative=True), Moment(b * SECOND, relative=True))
    expected = [n for n in range(100) if a <= n < b]
    if not expected:
        with pytest.raises(ConfigError):
            cut(whole, span, folder / "part.avro", START)
        return
    assert cut(whole, span, folder / "part.avro", START) == len(expected)
    assert np.concatenate([x.matrix for x in blocks(folder / "part.avro")])[:, 0].tolist() == expected


def test_nothing_between_says_what_there_is(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.avro")
    with pytest.raises(ConfigError, match=r"begins='2026-05-28T20:26:40.000Z', ends='2026-05-28T20:28:19.000Z'"):
        cut(whole, Span(moment("1h"), None), tmp_path / "part.avro", first_time(whole))
    with pytest.raises(ConfigError, match="--to is not later than --from"):
        Span(moment("5s"), moment("5s")).bounds(START)
    assert ALL.is_all


def test_damage_is_named_with_the_file(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.avro")
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(DecodeError, match=r"whole\.avro"):
        list(blocks(whole))


@given(st.integers(-(2**63), 2**63 - 1))
def test_any_clock_reads_as_something(at_us: int) -> None:
    assert utc(at_us).isprintable()
