"""TOML to a checked configuration: every problem at once, each with its path and, where there is one, a guess.

    edge.toml: 2 problems:
      unknown key at $.devise; did you mean 'device'?
      missing unit in duration '250' at $.window.max_wait; write it like 250ms; units are us, ms, s, min, h, d

Configurations are pydantic models that derive from `Section`. Values may hold `${NAME}` or `${NAME:-default}`, which
are taken from the environment that is passed in. Pure: whether a file exists is asked through `exists`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Tag, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError

from schemas.errors import ConfigError
from schemas.units import duration_us, size_bytes

MAX_CONFIG_BYTES = 1024 * 1024

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
M = TypeVar("M", bound=BaseModel)


class Section(BaseModel):
    """Base of every part of a configuration: unknown keys are problems, and nothing is converted behind one's back."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def problem(sentence: str, fix: str = "") -> PydanticCustomError:
    """What a validator of a Section raises: the sentence is shown with the path of the value, then the advice."""
    return PydanticCustomError("tidegate", "{sentence}", {"sentence": sentence, "fix": fix})


def _unit(value: Any, parse: Callable[[str], int], what: str, example: str) -> int:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise problem(f"missing unit in {what} {value}", f'write it with its unit, like "{example}"')
    if not isinstance(value, str):
        raise problem(f"expected a {what} like '{example}', got {_kind(value)}")
    try:
        return parse(value)
    except ConfigError as wrong:
        raise problem(wrong.problem, wrong.fix) from None


def _path(value: Any, info: ValidationInfo) -> Path:
    if not isinstance(value, str):
        raise problem(f"expected a path, got {_kind(value)}")
    base: Path = (info.context or {}).get("base", Path())
    return base / value


def _existing(value: Any, info: ValidationInfo) -> Path:
    path = _path(value, info)
    exists: Callable[[Path], bool] = (info.context or {}).get("exists", lambda _: True)
    if not exists(path):
        raise problem(f"there is no {value!r}", f"looked for {path}")
    return path


#: Microseconds, written as "250ms".
Duration = Annotated[int, BeforeValidator(lambda v: _unit(v, duration_us, "duration", "250ms"))]
#: Bytes, written as "64MiB".
Size = Annotated[int, BeforeValidator(lambda v: _unit(v, size_bytes, "size", "64MiB"))]
#: A path; relative ones start at the folder of the configuration.
PathTo = Annotated[Path, BeforeValidator(_path)]
#: A path of something that must be there already.
Existing = Annotated[Path, BeforeValidator(_existing)]


def read(
    model: type[M],
    text: bytes,
    source: str,
    *,
    environ: Mapping[str, str],
    base: Path = Path(),
    exists: Callable[[Path], bool] = lambda _: True,
) -> M:
    """A configuration from the bytes of a TOML file.

    Args:
        model: what it must look like.
        text: the bytes of the file.
        source: name of the file, for the sentences.
        environ: where `${NAME}` is looked up.
        base: folder that relative paths start at.
        exists: whether a path is there.

    Raises:
        ConfigError: it is no TOML, or it has problems; the sentence lists all of them.
    """
    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{source} is too large for a configuration", bytes=len(text), max_bytes=MAX_CONFIG_BYTES)
    try:
        raw = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise ConfigError(f"{source} is not TOML: {wrong}") from None
    problems: list[str] = []
    filled = _fill(raw, "$", environ, problems)
    try:
        config = model.model_validate(filled, context={"base": base, "exists": exists})
    except ValidationError as wrong:
        known = _keys(model)
        problems += [_sentence(error, known, filled) for error in wrong.errors(include_url=False)]
    if problems:
        plural = "problem" if len(problems) == 1 else "problems"
        lines = "".join(f"\n  {line}" for line in problems)
        raise ConfigError(f"{source}: {len(problems)} {plural}:{lines}")
    return config


def _fill(value: Any, path: str, environ: Mapping[str, str], problems: list[str]) -> Any:
    """Replace `${NAME}` everywhere in strings; a name that is not set and has no default is a problem."""
    if isinstance(value, dict):
        return {key: _fill(item, f"{path}.{key}", environ, problems) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, f"{path}[{at}]", environ, problems) for at, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def look_up(match: re.Match[str]) -> str:
        name = match[1]
        found: str | None = environ.get(name, match[2])
        if found is None:
            problems.append(f"environment variable {name} is not set at {path}; set it, or write ${{{name}:-default}}")
            return match[0]
        return found

    return _VARIABLE.sub(look_up, value)


def _sentence(error: Any, known: Mapping[str, frozenset[str]], raw: Any) -> str:
    where, kind = _where(error["loc"], raw), error["type"]
    context = error.get("ctx", {})
    if kind == "extra_forbidden":
        siblings = known.get(
            ".".join(str(part) for part in error["loc"][:-1] if not isinstance(part, int)), frozenset()
        )
        near = difflib.get_close_matches(str(error["loc"][-1]), sorted(siblings), n=1, cutoff=0.6)
        return f"unknown key at {where}" + (f"; did you mean {near[0]!r}?" if near else "")
    if kind == "missing":
        return f"missing key at {where}"
    if kind == "tidegate":
        return f"{context['sentence']} at {where}" + (f"; {context['fix']}" if context["fix"] else "")
    expected = {
        "string_type": "str",
        "int_type": "int",
        "float_type": "float",
        "bool_type": "bool",
        "list_type": "list",
        "dict_type": "table",
        "model_type": "table",
        "model_attributes_type": "table",
    }.get(kind)
    if expected:
        return f"expected {expected}, got {_kind(error['input'])} at {where}"
    message = error["msg"]
    return f"{message[0].lower()}{message[1:]}, got {error['input']!r} at {where}"


def _kind(value: Any) -> str:
    return {"dict": "table", "NoneType": "nothing"}.get(type(value).__name__, type(value).__name__)


def _where(loc: tuple[Any, ...], raw: Any) -> str:
    """Path in the file. pydantic names the branch of a union in its path too; the file knows nothing of that."""
    path = "$"
    for at, part in enumerate(loc):
        if isinstance(part, int):
            path += f"[{part}]"
            raw = raw[part] if isinstance(raw, list) and part < len(raw) else None
        elif not isinstance(raw, dict) or part in raw or at == len(loc) - 1:
            path += f".{part}"
            raw = raw.get(part) if isinstance(raw, dict) else None
    return path


def _keys(model: type[BaseModel], at: str = "") -> dict[str, frozenset[str]]:
    """Keys that may stand at each path (without list positions and union tags), for the guesses."""
    found = {at: frozenset(field.alias or name for name, field in model.model_fields.items())}
    for name, field in model.model_fields.items():
        for inner, tag in _models_in(field.annotation):
            below = ".".join(part for part in (at, field.alias or name, tag) if part)
            found |= _keys(inner, below)
    return found


def _models_in(annotation: Any) -> list[tuple[type[BaseModel], str]]:
    """Models inside of an annotation such as `list[Device]`, and the tag that pydantic puts into paths of a union."""
    tag = next((mark.tag for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Tag)), "")
    inner = annotation.__origin__ if tag else annotation
    if isinstance(inner, type) and issubclass(inner, BaseModel):
        return [(inner, tag)]
    return [pair for part in getattr(inner, "__args__", ()) for pair in _models_in(part)]
