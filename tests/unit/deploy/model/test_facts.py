"""What a model file says of itself, against the onnx package's own reading, and against bytes that are no model."""

from __future__ import annotations

import contextlib
from collections import Counter

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.model.facts import read_facts
from schemas.errors import ModelError
from tests.doubles import odd_models

MODEL = odd_models.running_sum()


@pytest.mark.parametrize("data", [MODEL, odd_models.unknown_operator(), odd_models.half_of_it()])
def test_facts_are_what_the_onnx_package_reads(data: bytes) -> None:
    facts, want = read_facts(data), onnx.load_from_string(data)
    assert facts.opsets == {o.domain or "ai.onnx": o.version for o in want.opset_import}
    named = [f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in want.graph.node]
    assert facts.operators == Counter(named)
    assert facts.ir_version == want.ir_version
    assert facts.bytes == len(data)


def test_weights_in_another_file_are_seen() -> None:
    made = onnx.load_from_string(MODEL)
    made.graph.initializer[0].external_data.add(key="location", value="weights.bin")
    made.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    assert read_facts(made.SerializeToString()).external_data
    assert not read_facts(MODEL).external_data


@given(st.binary(max_size=200))
def test_any_bytes_are_facts_or_a_model_error(data: bytes) -> None:
    with contextlib.suppress(ModelError):
        assert read_facts(data).bytes == len(data)


@given(st.integers(0, len(MODEL) - 1), st.integers(0, 255))
def test_a_damaged_model_is_facts_or_a_model_error(at: int, byte: int) -> None:
    with contextlib.suppress(ModelError):
        assert read_facts(MODEL[:at] + bytes([byte]) + MODEL[at + 1 :]).bytes == len(MODEL)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 a zip", MODEL[: len(MODEL) // 2]])
def test_what_is_no_model_is_refused_with_what_to_give(data: bytes) -> None:
    with pytest.raises(ModelError, match=r"this is no ONNX file .*; give the \.onnx file itself"):
        read_facts(data)
