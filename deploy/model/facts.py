"""What an ONNX file says of itself, read from its bytes alone: opsets, operators, producer, weights outside of it.

A reader of the few protobuf fields that are needed, so that a model can be looked at where neither the onnx package is
installed nor the runtime takes the file. The bytes are hostile until read: every length is checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from schemas.errors import ModelError

#: Message -> field numbers, from onnx.proto3 (ONNX 1.17).
_IR_VERSION, _PRODUCER, _PRODUCER_VERSION, _GRAPH, _OPSET = 1, 2, 3, 7, 8
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_NODE, _INITIALIZER = 1, 5
_OP_TYPE, _OP_DOMAIN = 4, 7
_DIMS, _EXTERNAL = 1, 13
_MOST_NODES = 1_000_000

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Facts:
    """`opsets`: domain -> version, the main one as "ai.onnx". `operators`: name -> how many nodes."""

    bytes: int
    ir_version: int
    producer: str
    opsets: dict[str, int] = field(default_factory=dict)
    operators: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    external_data: bool = False


def read_facts(data: bytes) -> Facts:
    """Facts of a model. Raises ModelError: it is no ONNX file."""
    try:
        return _model(data)
    except (IndexError, UnicodeDecodeError, ValueError) as cause:
        raise ModelError(
            "this is no ONNX file",
            cause=str(cause) or "it ends too early",
            fix="give the .onnx file itself, not an archive or a checkpoint of it",
        ) from None


def _model(data: bytes) -> Facts:
    ir_version, names, opsets = 0, {_PRODUCER: "", _PRODUCER_VERSION: ""}, {}
    operators: Counter[str] = Counter()
    parameters, external, has_graph = 0, False, False
    for number, value in _fields(memoryview(data)):
        if number == _IR_VERSION and isinstance(value, int):
            ir_version = value
        elif number in names and not isinstance(value, int):
            names[number] = bytes(value[:100]).decode()
        elif number == _OPSET and not isinstance(value, int):
            opset = dict(_fields(value))
            domain = opset.get(_OPSET_DOMAIN, b"")
            version = opset.get(_OPSET_VERSION, 0)
            if isinstance(domain, int) or not isinstance(version, int):
                raise ValueError("its opset is no opset")
            opsets[bytes(domain[:100]).decode() or "ai.onnx"] = version
        elif number == _GRAPH and not isinstance(value, int):
            has_graph = True
            for part, inner in _fields(value):
                if part == _NODE and not isinstance(inner, int):
                    operators[_operator(inner)] += 1
                elif part == _INITIALIZER and not isinstance(inner, int):
                    numbers, outside = _initializer(inner)
                    parameters += numbers
                    external |= outside
    if not has_graph or not opsets:
        raise ValueError("it has no graph or no opset")
    producer = " ".join(filter(None, names.values()))
    return Facts(len(data), ir_version, producer, opsets, dict(operators.most_common()), parameters, external)


def _operator(node: memoryview) -> str:
    found = {_OP_TYPE: "", _OP_DOMAIN: ""}
    for number, value in _fields(node):
        if number in found and not isinstance(value, int):
            found[number] = bytes(value[:100]).decode()
    domain = found[_OP_DOMAIN]
    return f"{domain}.{found[_OP_TYPE]}" if domain and domain != "ai.onnx" else found[_OP_TYPE]


def _initializer(tensor: memoryview) -> tuple[int, bool]:
    """How many numbers it holds, and whether they are in another file."""
    numbers, outside = 1, False
    for number, value in _fields(tensor):
        if number == _DIMS:
            for size in [value] if isinstance(value, int) else _varints(value):
                numbers *= size
        outside |= number == _EXTERNAL
    return numbers, outside


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers with a number or bytes each, in order. Raises ValueError or IndexError: it is no message."""
    at = seen = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        seen += 1
        if seen > _MOST_NODES:
            raise ValueError(f"a part of it has more than {_MOST_NODES} fields")
        if kind == VARINT:
            value, at = _varint(data, at)
            yield number, value
        elif kind in (BYTES, FIXED64, FIXED32):
            size = {FIXED64: 8, FIXED32: 4}.get(kind, 0)
            if kind == BYTES:
                size, at = _varint(data, at)
            if size > len(data) - at:
                raise ValueError("a length in it reaches past its end")
            yield number, data[at : at + size]
            at += size
        else:
            raise ValueError(f"a field in it has wire type {kind}")


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number in it has no end")
