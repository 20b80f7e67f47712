"""As much of a damaged record as can be read: field by field until one does not fit. For eyes only, never for use."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from schemas.codec import BOOK, HEADER_BYTES
from schemas.errors import DecodeError

#: Items of a list or map that are read; a damaged count can claim any number.
_MAX_ITEMS = 1000


@dataclass(slots=True)
class Partial:
    """`record`: name and version that the payload claims; `problem`: where reading ended early, else empty."""

    record: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


class _End(Exception):
    """The bytes do not go on as the schema says."""


def read_partly(payload: bytes) -> Partial:
    """Never raises, whatever the bytes are."""
    if not payload:
        return Partial(problem="there is nothing in it")
    try:
        writer = BOOK.writer(payload[:HEADER_BYTES])
    except DecodeError as wrong:
        return Partial(problem=str(wrong))
    out = Partial(f"{writer.record.__name__} v{writer.version}")
    reader = _Reader(payload, HEADER_BYTES)
    for one in writer.source["fields"]:
        at = reader.at
        try:
            out.fields[one["name"]] = reader.value(one["type"])
        except _End as end:
            out.problem = f"field {one['name']} at byte {at}: {end}"
            return out
    if reader.at != len(payload):
        out.problem = f"{len(payload) - reader.at} bytes are left over after the last field"
    return out


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self._data, self.at = data, at

    def value(self, schema: Any) -> Any:
        """Raises _End."""
        kind = schema
        while isinstance(kind, dict) and isinstance(kind["type"], dict | list):
            kind = kind["type"]
        if isinstance(kind, list):
            return self.value(kind[self._index(len(kind), "branch of a union")])
        name = kind["type"] if isinstance(kind, dict) else kind
        match name:
            case "null":
                return None
            case "boolean":
                return self._take(1) != b"\x00"
            case "int" | "long":
                return self._number()
            case "float":
                return struct.unpack("<f", self._take(4))[0]
            case "double":
                return struct.unpack("<d", self._take(8))[0]
            case "bytes":
                return self._take(self._number())
            case "string":
                return self._text()
            case "fixed":
                return self._take(kind["size"])
            case "enum":
                return kind["symbols"][self._index(len(kind["symbols"]), "enum")]
            case "record":
                return {one["name"]: self.value(one["type"]) for one in kind["fields"]}
            case "array":
                return [self.value(kind["items"]) for _ in self._items()]
            case "map":
                return {self._text(): self.value(kind["values"]) for _ in self._items()}
        raise _End(f"a {name} is not shown")

    def _items(self) -> Any:
        seen = 0
        while count := self._number():
            if count < 0:
                raise _End("a block with a size, which our writers never make")
            for _ in range(count):
                seen += 1
                if seen > _MAX_ITEMS:
                    raise _End(f"more than {_MAX_ITEMS} items")
                yield None

    def _index(self, count: int, what: str) -> int:
        index = self._number()
        if not 0 <= index < count:
            raise _End(f"{what} {index}, of {count}")
        return index

    def _text(self) -> str:
        return self._take(self._number()).decode(errors="backslashreplace")

    def _take(self, size: int) -> bytes:
        if not 0 <= size <= len(self._data) - self.at:
            raise _End(f"it says {size} bytes, and {len(self._data) - self.at} are left")
        self.at += size
        return self._data[self.at - size : self.at]

    def _number(self) -> int:
        shift = value = 0
        while True:
            byte = self._take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)
            shift += 7
            if shift > 63:
                raise _End("a number that is too long")
