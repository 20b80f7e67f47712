"""docs/reference says what the code says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.reference import asyncapi, configuration
from deploy.reference.__main__ import FOLDER, PAGES, main, render
from edge_filters.config import EdgeConfig
from pipelines.graph import INPUTS
from schemas.topics import CATALOGUE


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    return render()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_says_now(rendered: dict[str, str], name: str) -> None:
    assert (FOLDER / name).read_text() == rendered[name], "run `make docs`"


def test_check_names_a_page_that_is_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deploy.reference.__main__.FOLDER", tmp_path)
    assert main([]) == 0
    assert main(["--check"]) == 0
    (tmp_path / "topics.md").write_text("# Topics")
    assert main(["--check"]) == 1
    assert "docs/reference/topics.md is out of date; `make docs`" in capsys.readouterr().err
    assert (tmp_path / "topics.md").read_text() == "# Topics"


def test_every_key_of_the_configuration_is_explained(rendered: dict[str, str]) -> None:
    rows = [line for line in rendered["configuration.md"].splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    assert [row for row in rows if row.endswith("|  |")] == []
    for section in EdgeConfig.model_fields:
        assert f"[{section}]" in rendered["configuration.md"]


def test_a_default_is_shown_as_one_would_write_it() -> None:
    page = configuration.page()
    assert '| `max_bytes` | size | `"64MiB"` |' in page
    assert '| `window` | duration | `"1s"` |' in page


def _refs(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [ref for value in node.values() for ref in _refs(value)]
    return [ref for value in node for ref in _refs(value)] if isinstance(node, list) else []


def test_the_asyncapi_document_says_who_reads_what() -> None:
    read = {who: {topic.name for topic in heard} for who, heard in asyncapi.RECEIVES.items()}
    assert read["pipeline"] >= {topic.name for topic in INPUTS}
    operations = asyncapi.document()["operations"]
    assert {name for name in operations if ".receive." in name} == {
        f"{who}.receive.{name}" for who, names in read.items() for name in names
    }
    assert {name.partition(".send.")[2] for name in operations if ".send." in name} == {t.name for t in CATALOGUE}


def test_the_asyncapi_document_has_every_topic_and_no_dangling_reference() -> None:
    document = json.loads((FOLDER / "asyncapi.json").read_text())
    assert document == asyncapi.document()
    assert set(document["channels"]) == {t.name for t in CATALOGUE}
    refs = _refs(document)
    assert len(refs) > 2 * len(CATALOGUE)
    for ref in refs:
        node = document
        for part in ref.removeprefix("#/").split("/"):
            node = node[part]
