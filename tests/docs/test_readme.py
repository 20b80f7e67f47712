"""The README is executed: its commands exist, its links lead somewhere, its examples run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import cli as tidegate
from pipelines import cli as pipelines

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.partition("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]


def test_every_make_target_in_the_documents_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    for page in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        assert set(re.findall(r"\bmake ([a-z]+)", page)) <= targets


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("tidegate ")])
def test_every_tidegate_command_is_one(command: str) -> None:
    words = shlex.split(command)[1:]
    if words[0] in ("edge", "pipeline"):
        assert words[1] in ("run", "publish")
    else:
        tidegate.parser().parse_args(words)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python -m pipelines ")])
def test_every_pipelines_command_is_one(command: str) -> None:
    words = shlex.split(command)[3:]
    if words[0] != "run":
        pipelines.parser().parse_args(words)
    else:
        from pipelines.job import prepare

        prepare(words[1:])


PAGES = [str(p.relative_to(ROOT)) for p in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / link).exists(), link


def test_the_decisions_are_numbered_without_gaps_and_all_listed() -> None:
    pages = sorted(p.name for p in (ROOT / "docs" / "adr").glob("0*.md"))
    assert [int(name[:4]) for name in pages] == list(range(1, len(pages) + 1))
    index = (ROOT / "docs" / "adr" / "README.md").read_text()
    assert all(f"({name})" in index for name in pages)


def test_the_sample_configuration_is_valid_but_for_the_models_that_a_user_brings() -> None:
    command = [sys.executable, "-m", "edge_filters", "run", "deploy/config/edge.toml", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 78)
    assert "unknown key" not in done.stderr
