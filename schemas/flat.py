"""Avro readers and writers made for one schema: one pass over the bytes, no dictionary, no second encoding as a proof.

A schema-driven codec asks at every field of every record what it is. Here that is asked once, when a schema is loaded:
each record type gets a reader and a writer of its own, put together from one line per field, as dataclasses put
together their `__init__`. Only for flat records: int, long, double, strings, bytes, fixed, enums, `["null", X]` of
these, and arrays of strings. For the others `compiled` gives None and the schema-driven way stays.

The reader takes each record in its one canonical spelling only, and proves it byte by byte while it reads: a varint
must not end in a zero byte nor go beyond 64 bits, lengths and indexes must be in range, an array is one block, and the
last field ends where the bytes end.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Read = Callable[[bytes, int], dict[str, Any]]
Write = Callable[[bytes, Any], bytes]

#: Of one array: a text of a byte or two takes thirty times as much in memory as on the wire.
MAX_STRINGS = 32_768
_SMALL_TOP = 4096
_KEPT = 4096
_DOUBLE = struct.Struct("<d")


class NotCanonical(ValueError):
    """The bytes are not the one spelling of a record."""


class Compiled(NamedTuple):
    """Reader and writer of one schema.

    `read(payload, at)`: values by field name of the record that starts at `at` and fills the rest. `write(header,
    record)`: header and record as bytes.
    """

    read: Read
    write: Write


# --- numbers ---------------------------------------------------------------------------------------------------------

#: What recent varints of eight bytes had in their last five: microseconds since 1970 change there once a second.
_HIGH_IN: dict[bytes, int] = {}
_HIGH_OUT: dict[int, bytes] = {}


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned varint whose first byte, at `at - 1`, says that more follow; and where the next field starts.

    Raises NotCanonical, or IndexError where the bytes end.
    """
    second = data[at]
    if second < 0x80:
        if not second:
            raise NotCanonical("a number is spelled longer than needed")
        return data[at - 1] & 0x7F | second << 7, at + 1
    third = data[at + 1]
    if third > 0x7F:
        high = _HIGH_IN.get(data[at + 2 : at + 7])
        if high is not None:
            return data[at - 1] & 0x7F | (second & 0x7F) << 7 | (third & 0x7F) << 14 | high, at + 7
    value, shift, start = data[at - 1] & 0x7F, 7, at
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise NotCanonical("a number has more than 64 bits")
    if not byte or value >> 64:
        raise NotCanonical("a number is spelled longer than needed")
    if at - start == 7:
        if len(_HIGH_IN) >= _KEPT:
            _HIGH_IN.clear()
        _HIGH_IN[data[start + 2 : at]] = value >> 21 << 21
    return value, at


def _spelled(value: int) -> bytes:
    """A signed number as a varint, byte by byte. Raises OverflowError: it has more than 64 bits."""
    if not -(1 << 63) <= value < 1 << 63:
        raise OverflowError(f"{value} does not fit into 64 bits")
    rest = (int(value) << 1) ^ (int(value) >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(0x80 | rest & 0x7F)
        rest >>= 7
    out.append(rest)
    return bytes(out)


_SMALL = [_spelled(number) for number in range(_SMALL_TOP)]
_LOW = [bytes([0x80 | n & 0x7F, 0x80 | n >> 7]) for n in range(1 << 14)]
_MIDDLE = [bytes([0x80 | n]) for n in range(1 << 7)]


def _number(value: int) -> bytes:
    """A signed number as a varint; what has eight bytes is put together from parts that come again."""
    if 0 <= value < _SMALL_TOP:
        return _SMALL[value]
    if 1 << 48 <= value < 1 << 55:
        rest = value << 1
        high = _HIGH_OUT.get(rest >> 21)
        if high is None:
            if len(_HIGH_OUT) >= _KEPT:
                _HIGH_OUT.clear()
            high = _HIGH_OUT[rest >> 21] = _spelled(value)[3:]
        return _LOW[rest & 0x3FFF] + _MIDDLE[rest >> 14 & 0x7F] + high
    return _spelled(value)


# --- strings ---------------------------------------------------------------------------------------------------------


def _text(value: str) -> bytes:
    data = value.encode()
    return _number(len(data)) + data


def _blob(value: bytes) -> bytes:
    return _number(len(value)) + value


def _strings(values: list[str]) -> bytes:
    return b"".join([_number(len(values)), *map(_text, values), b"\0"]) if values else b"\0"


def _read_strings(data: bytes, at: int) -> tuple[list[str], int]:
    """An array of strings in one block."""
    out: list[str] = []
    count = data[at]
    at += 1
    if count > 0x7F:
        count, at = _varint(data, at)
    if not count:
        return out, at
    if count & 1 or count >> 1 > min(len(data) - at, MAX_STRINGS):
        raise NotCanonical("an array claims more items than there are bytes, or is not in one block")
    for _ in range(count >> 1):
        size = data[at]
        at += 1
        if size > 0x7F:
            size, at = _varint(data, at)
        if size & 1:
            raise NotCanonical("a string has a negative length")
        end = at + (size >> 1)
        out.append(data[at:end].decode())
        at = end
    if data[at]:
        raise NotCanonical("an array is not in one block")
    return out, at + 1


# --- one line per field ----------------------------------------------------------------------------------------------

_HEAD = "{n} = data[at]; at += 1\n{i}if {n} > 127: {n}, at = varint(data, at)\n{i}"
_SIZED = _HEAD + "if {n} & 1: raise NotCanonical('a negative length')\n{i}end = at + ({n} >> 1)\n{i}"

#: Type -> lines that read it into {n}; and the expression that writes the value {v}.
_READ = {
    "long": _HEAD + "{n} = ({n} >> 1) ^ -({n} & 1)",
    # only in a union does the schema-driven way hold an int to its 32 bits, and both must agree
    "int": _HEAD + "if {n} >> 32: raise NotCanonical('an int of more than 32 bits')\n{i}{n} = ({n} >> 1) ^ -({n} & 1)",
    "string": _SIZED + "{n} = data[at:end].decode(); at = end",
    "bytes": _SIZED + "{n} = data[at:end]; at = end",
    "double": "{n} = double(data, at)[0]; at += 8",
    "fixed": "end = at + {size}; {n} = data[at:end]; at = end",
    "enum": "{n} = {symbols}[data[at]]; at += 1",
    "strings": "{n}, at = read_strings(data, at)",
}
_WRITE = {
    "long": "number({v})",
    "int": "number({v})",
    "string": "text({v})",
    "bytes": "blob({v})",
    "double": "pack_double({v})",
    "fixed": "fixed({v}, {size})",
    "enum": "{symbols}_out[{v}]",
    "strings": "strings({v})",
}


def _fixed(value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise ValueError(f"{size} bytes are wanted, not {len(value)}")
    return value


class _Maker:
    """Puts the two functions of one schema together."""

    def __init__(self, enums: Mapping[str, Callable[[str], Any]]) -> None:
        self._enums = enums
        self._named: dict[str, dict[str, Any]] = {}
        self.names: dict[str, Any] = {
            "varint": _varint, "double": _DOUBLE.unpack_from, "number": _number,
            "text": _text, "blob": _blob, "pack_double": _DOUBLE.pack, "fixed": _fixed,
            "strings": _strings, "read_strings": _read_strings, "NotCanonical": NotCanonical,
        }  # fmt: skip
        self.reading: list[str] = []
        self.writing: list[str] = []

    def field(self, name: str, schema: Any) -> bool:
        """Add a field; False where it is none of the flat types."""
        branch = schema[1] if _is_optional(schema) else schema
        kind, facts = self._kind(name, branch)
        if kind is None:
            return False
        if branch == "int" and branch is not schema:
            kind = "int"
        variable = f"_{name}"
        read = _READ[kind].format(n=variable, i="        " if branch is not schema else "    ", **facts)
        write = _WRITE[kind].format(v=f"record.{name}", **facts)
        if branch is not schema:
            self.reading += [
                "which = data[at]; at += 1",
                f"if which == 0: {variable} = None",
                f"elif which == 2:\n        {read}",
                "else: raise NotCanonical('no such branch of a union')",
            ]
            write = f"zero if record.{name} is None else two + {write}"
        else:
            self.reading.append(read)
        self.writing.append(write)
        return True

    def _kind(self, name: str, schema: Any) -> tuple[str | None, dict[str, Any]]:
        schema = self._named.get(schema, schema) if isinstance(schema, str) else schema
        kind = schema if isinstance(schema, str) else schema["type"] if isinstance(schema, dict) else ""
        if isinstance(schema, dict) and "name" in schema:
            self._named[schema["name"]] = schema
        if kind in ("int", "long"):
            return "long", {}
        if kind == "fixed":
            return kind, {"size": schema["size"]}
        if kind == "enum":
            symbols = f"symbols_{name}"
            try:
                members = [self._enums.get(name, str)(symbol) for symbol in schema["symbols"]]
            except ValueError:  # a symbol that this program does not know: schema resolution has to say what it is
                return None, {}
            if len(members) > 64:
                return None, {}
            self.names[symbols] = {2 * at: member for at, member in enumerate(members)}
            self.names[symbols + "_out"] = {member: _SMALL[at] for at, member in enumerate(members)}
            return kind, {"symbols": symbols}
        if kind == "array":
            return ("strings" if schema["items"] == "string" else None), {}
        return (kind if isinstance(kind, str) and kind in _READ else None), {}


def _is_optional(schema: Any) -> bool:
    return isinstance(schema, list) and len(schema) == 2 and schema[0] == "null" and not isinstance(schema[1], list)


def compiled(schema: dict[str, Any], enums: Mapping[str, Callable[[str], Any]]) -> Compiled | None:
    """Reader and writer of a parsed record schema; None where it is not flat. `enums`: field name -> its enum."""
    maker = _Maker(enums)
    fields = [field["name"] for field in schema["fields"]]
    if not all(name.isidentifier() for name in fields):
        return None
    if not all(maker.field(field["name"], field["type"]) for field in schema["fields"]):
        return None
    values = ", ".join(f"'{name}': _{name}" for name in fields)
    source = "\n    ".join(
        [
            "def read(data, at):",
            *maker.reading,
            "if at > len(data): raise EOFError",
            "if at < len(data): raise NotCanonical('bytes are left over')",
            f"return {{{values}}}",
        ]
    )
    source += "\ndef write(header, record):\n    return b''.join((header, " + ", ".join(maker.writing) + "))\n"
    names = maker.names | {"zero": b"\0", "two": b"\2"}
    exec(compile(source, f"<codec of {schema['name']}>", "exec"), names)  # noqa: S102  # of our own schemas only
    return Compiled(names["read"], names["write"])
