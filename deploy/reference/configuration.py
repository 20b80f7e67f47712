"""The page on edge.toml, from the models that check it."""

from __future__ import annotations

import json
import types
import typing
from pathlib import Path
from typing import Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from edge_filters.config import EdgeConfig
from schemas import config, units

_HEAD = """\
# edge.toml

Made from `edge_filters/config.py` by `make docs`; `deploy/config/edge.toml` is a commented sample. Every value may hold
`${NAME}` or `${NAME:-default}` from the environment. Durations and sizes are strings with their unit, such as "250ms"
and "64MiB"; relative paths start at the folder of the file. `tidegate edge run edge.toml --check` names every problem
at once.
"""


def page() -> str:
    """Markdown: a table per section."""
    parts = [_HEAD]
    for name, field in EdgeConfig.model_fields.items():
        for title, model in _sections(name, field):
            parts.append(f"## {title}\n\n{_first_line(model)}\n\n{_table(model)}")
    return "\n".join(parts)


def _sections(name: str, field: FieldInfo) -> list[tuple[str, type[BaseModel]]]:
    """A section, and those inside of it, with the titles they have in TOML."""
    titles: dict[Any, str] = {list: f"[[{name}]]", dict: f"NAME = {{ … }} of [{name}]"}
    title = titles.get(typing.get_origin(field.annotation), f"[{name}]")
    found = []
    for model in _models(field.annotation):
        found.append((title, model))
        for inner, below in model.model_fields.items():
            choices = _models(below.annotation)
            for choice in choices:
                kind = choice.model_fields.get("kind")
                which = f' with kind = "{kind.default}"' if kind is not None and isinstance(kind.default, str) else ""
                found.append((f"{inner} = {{ … }} of {title}{which}", choice))
    return found


def _table(model: type[BaseModel]) -> str:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if _models(field.annotation):
            continue
        default = "**required**" if field.is_required() else f"`{_shown(field.default, field)}`"
        meaning = " ".join(filter(None, [field.description or "", _limits(field)])).replace("|", "\\|")
        lines.append(f"| `{name}` | {_kind(field)} | {'–' if default == '`None`' else default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]


def _first_line(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _unit_of(field: FieldInfo) -> str:
    """`duration`, `size` or `path`, where the field is one: told by the validator that parses it."""
    marks = [*field.metadata, *(mark for part in typing.get_args(field.annotation) for mark in _metadata(part))]
    kinds = {"duration": config.Duration, "size": config.Size, "path": config.PathTo, "existing path": config.Existing}
    return next((kind for kind, of in kinds.items() if any(mark in marks for mark in _metadata(of))), "")


def _metadata(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__metadata__", ())


def _kind(field: FieldInfo) -> str:
    return _unit_of(field) or _plain(field.annotation)


def _plain(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_plain(part) for part in typing.get_args(annotation) if part is not type(None))
    if origin in (list, dict):
        return "list" if origin is list else "table"
    names = {str: "string", int: "integer", float: "number", bool: "true or false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _shown(value: Any, field: FieldInfo) -> str:
    kind = _unit_of(field)
    if kind == "duration" and isinstance(value, int):
        return json.dumps(_in_units(value, units.DURATIONS_US))
    if kind == "size" and isinstance(value, int):
        return json.dumps(_in_units(value, {u: n for u, n in units.SIZES_BYTES.items() if "i" in u or u == "B"}))
    if isinstance(value, (bool, str)):
        return json.dumps(value)
    return str(value) if not isinstance(value, Path) else json.dumps(str(value))


def _in_units(value: int, sizes: dict[str, int]) -> str:
    """In the largest unit that leaves no fraction."""
    unit, size = max(((u, n) for u, n in sizes.items() if value % n == 0), key=lambda pair: pair[1])
    return f"{value // size}{unit}" if value else f"0{min(sizes, key=lambda u: sizes[u])}"


def _limits(field: FieldInfo) -> str:
    words = []
    for mark in field.metadata:
        if isinstance(mark, (Ge, Gt)):
            low = mark.ge if isinstance(mark, Ge) else mark.gt
            words.append(f"{'At least' if isinstance(mark, Ge) else 'More than'} {_shown(low, field)}.")
        elif isinstance(mark, (Le, Lt)):
            high = mark.le if isinstance(mark, Le) else mark.lt
            words.append(f"{'At most' if isinstance(mark, Le) else 'Less than'} {_shown(high, field)}.")
        elif isinstance(mark, MinLen):
            words.append("Not empty." if mark.min_length == 1 else f"At least {mark.min_length} long.")
        elif isinstance(mark, MaxLen):
            words.append(f"At most {mark.max_length} long.")
    return " ".join(words)
