"""Pages that stand alone: one file, no script, nothing from anywhere else. Everything that is given is escaped."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deploy.text import duration, utc
from schemas.errors import ConfigError


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"utc": utc, "duration": duration}
    return environment


def render(template: str, **values: Any) -> str:
    """A page from a template, as `explain/event.html.j2`; it extends page.html.j2 of this folder."""
    return _environment().get_template(template).render(**values)


def write_page(path: Path, page: str) -> None:
    """Write it whole or not at all. Raises ConfigError: it cannot be written."""
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(page, encoding="utf-8")
        os.replace(beside, path)
    except OSError as cause:
        raise ConfigError("the page cannot be written", file=str(path), cause=cause.strerror) from None
