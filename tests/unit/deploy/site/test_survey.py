"""What a new site learns from a recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.site.survey import survey
from schemas.errors import DecodeError
from tests.doubles import recording


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(-1e6, 1e6, width=32) | st.just(float("nan")), min_size=2, max_size=60), st.integers(1, 7))
def test_centre_and_scale_are_mean_and_deviation_of_what_is_finite(
    tmp_path: Path, values: list[float], per_block: int
) -> None:
    seen = survey(recording.write(tmp_path / "r.avro", values, per_block=per_block))
    finite = np.array([v for v in values if np.isfinite(v)], np.float64)
    assert seen.readings == len(values)
    want = finite.mean() if len(finite) else 0.0
    assert seen.centre == pytest.approx([want] * 2, rel=1e-6, abs=1e-3)
    if len(finite) and finite.std() > max(1.0, abs(want)) * 1e-4:
        assert seen.scale == pytest.approx([finite.std()] * 2, rel=1e-3)
    assert all(scale > 0 for scale in seen.scale)


def test_a_constant_channel_has_a_scale_of_one(tmp_path: Path) -> None:
    seen = survey(recording.write(tmp_path / "r.avro", [1e6] * 30))
    assert (seen.centre, seen.scale) == ([1e6, 1e6], [1.0, 1.0])
    assert (seen.devices, seen.cohort, seen.channels) == (["pump-7"], "pumps", ["a", "b"])


def test_what_is_no_recording_is_a_sentence_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"the recording cannot be read \(recording='.*none.avro'"):
        survey(tmp_path / "none.avro")
    (tmp_path / "t.csv").write_text("time,a\n")
    with pytest.raises(DecodeError, match=r"not an Avro container file \(recording='.*t.csv'"):
        survey(tmp_path / "t.csv")
    recording.write(tmp_path / "empty.avro", [])
    with pytest.raises(DecodeError, match="the recording is empty"):
        survey(tmp_path / "empty.avro")
