from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, Tag

from schemas.config import MAX_CONFIG_BYTES, Duration, Existing, PathTo, Section, Size, read
from schemas.errors import ConfigError


class Dog(Section):
    kind: Literal["dog"]
    bark: Existing


class Cat(Section):
    kind: Literal["cat"]
    lives: int = 9


class Spool(Section):
    max_bytes: Size = 1
    path: PathTo = Path("spool")


class Window(Section):
    max_wait: Duration = 1
    rate: float = Field(default=0.5, le=1.0)


class Pet(Section):
    id: str
    animal: Annotated[Annotated[Dog, Tag("dog")] | Annotated[Cat, Tag("cat")], Field(discriminator="kind")]


class Config(Section):
    name: str
    spool: Spool = Spool()
    window: Window = Window()
    pet: list[Pet] = Field(default=[])
    on: bool = False


def of(text: str, exists: bool = True, **environ: str) -> Config:
    return read(Config, text.encode(), "edge.toml", environ=environ, base=Path("/base"), exists=lambda _: exists)


def problems(text: str, exists: bool = True, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as wrong:
        of(text, exists, **environ)
    first, *lines = str(wrong.value).splitlines()
    assert first == f"edge.toml: {len(lines)} problem{'s' if len(lines) > 1 else ''}:"
    return [line.removeprefix("  ") for line in lines]


def test_values_come_with_their_units_and_paths_from_the_folder_of_the_file() -> None:
    config = of('name="x"\n[spool]\nmax_bytes="64MiB"\npath="a/b"\n[window]\nmax_wait="250ms"\n')
    assert config.spool.max_bytes == 64 * 1024 * 1024
    assert config.spool.path == Path("/base/a/b")
    assert config.window.max_wait == 250_000
    assert config.on is False


def test_every_problem_is_said_at_once_with_its_path() -> None:
    text = """
        on = 1
        devise = 3
        [spool]
        max_bytes = 64
        max_byte = "64MiB"
        [window]
        max_wait = "250"
        rate = 2.0
        [[pet]]
        id = 7
        animal = { kind = "dog", bark = "bark.wav", barks = 3 }
        [[pet]]
        animal = { kind = "cat", lives = "nine" }
    """
    assert sorted(problems(text, exists=False)) == sorted(
        [
            "missing key at $.name",
            "expected bool, got int at $.on",
            "unknown key at $.devise",
            'missing unit in size 64 at $.spool.max_bytes; write it with its unit, like "64MiB"',
            "unknown key at $.spool.max_byte; did you mean 'max_bytes'?",
            "missing unit in duration '250' at $.window.max_wait; write it like 250ms; units are us, ms, s, min, h, d",
            "input should be less than or equal to 1, got 2.0 at $.window.rate",
            "expected str, got int at $.pet[0].id",
            "there is no 'bark.wav' at $.pet[0].animal.bark; looked for /base/bark.wav",
            "unknown key at $.pet[0].animal.barks; did you mean 'bark'?",
            "missing key at $.pet[1].id",
            "expected int, got str at $.pet[1].animal.lives",
        ]
    )


def test_a_table_where_a_value_belongs_and_the_other_way_round() -> None:
    assert problems('name = {}\nwindow = "1s"\npet = "x"\nspool.path = 3\nspool.max_bytes = []') == [
        "expected str, got table at $.name",
        "expected a size like '64MiB', got list at $.spool.max_bytes",
        "expected a path, got int at $.spool.path",
        "expected table, got str at $.window",
        "expected list, got str at $.pet",
    ]


def test_true_is_no_duration() -> None:
    assert problems('name="x"\nwindow.max_wait = true') == [
        "expected a duration like '250ms', got bool at $.window.max_wait"
    ]


def test_variables_are_filled_in_anywhere() -> None:
    config = of('name = "${WHO}-${N:-7}"\n[[pet]]\nid = "${E:-}x"\nanimal = { kind = "${K}" }', WHO="pump", K="cat")
    assert config.name == "pump-7"
    assert config.pet[0].id == "x"


def test_a_variable_that_is_not_set_is_a_problem_beside_the_others() -> None:
    assert problems('name = "${WHO}"\nnane = 1') == [
        "environment variable WHO is not set at $.name; set it, or write ${WHO:-default}",
        "unknown key at $.nane; did you mean 'name'?",
    ]


def test_what_is_no_toml_is_told_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"^edge.toml is not TOML: .*at end of document"):
        of("name = ")
    with pytest.raises(ConfigError, match=r"^edge.toml is not TOML: "):
        read(Config, b"\xff\xfe", "edge.toml", environ={})


def test_a_file_that_is_much_too_large_is_not_even_parsed() -> None:
    with pytest.raises(ConfigError, match=r"edge\.toml is too large for a configuration"):
        of("#" * (MAX_CONFIG_BYTES + 1))
