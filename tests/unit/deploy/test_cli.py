"""The `tidegate` command: exit codes, sentences, help."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import cli, ports
from deploy.commands import pipeline
from deploy.paths import ROOT
from deploy.recording.span import NOW, Moment
from schemas.errors import EXIT_CODES
from tests.command import tidegate


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address where no broker is, and a home without a stack."""
    [port] = ports.choose([None])
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{port}")
    monkeypatch.delenv("TIDEGATE_KAFKA__BOOTSTRAP_SERVERS", raising=False)
    return f"127.0.0.1:{port}"


@pytest.mark.parametrize("words", [["status"], ["topics", "plan"], ["tail", "edge.events"]])
def test_without_a_broker_every_command_ends_with_69_and_the_next_step(
    words: list[str], nobody: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 69
    said = capsys.readouterr().err
    assert re.fullmatch(
        rf"tidegate: no Kafka broker answers at {nobody} \(.*\); start one with `tidegate up`, or name yours with "
        r"--bootstrap-servers or KAFKA_BOOTSTRAP_SERVERS\n",
        said,
    ), said


def test_status_as_json_is_data_even_when_nothing_runs(nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "-o", "json"]) == 69
    broker = {"bootstrap_servers": nobody, "answers": False, "pid": None, "log": None}
    assert json.loads(capsys.readouterr().out) == {"broker": broker, "topics": [], "flink": None}


@pytest.mark.usefixtures("nobody")
def test_up_without_the_jars_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDEGATE_KAFKA_LIBS", str(tmp_path))
    assert cli.main(["up"]) == 69
    assert "run `make setup`" in capsys.readouterr().err
    assert not (tmp_path / "home" / "stack.json").exists()


@pytest.mark.usefixtures("nobody")
def test_down_with_nothing_to_do_is_a_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["down"]) == 0
    assert capsys.readouterr().out == "no local broker was running\n"


def test_a_damaged_state_file_is_78(nobody: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "stack.json").write_text("{")
    assert cli.main(["down"]) == 78
    assert "remove the file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [[], ["upp"], ["tail"], ["tail", "t", "--from", "5"], ["topics", "burn"], ["up", "--prot", "1"]]
)
def test_a_wrong_command_line_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert "usage: tidegate" in capsys.readouterr().err


def test_a_missing_unit_in_from_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["tail", "edge.events", "--from", "-5"])
    assert "beginning, end or a time ago such as -5min: missing unit in duration '5'" in capsys.readouterr().err


def test_a_time_ago_may_be_written_with_its_dash() -> None:
    words = cli._join(["tail", "t", "--from", "-5min", "-n", "3"], "--from")
    assert cli.parser().parse_args(words).start == Moment(-300_000_000, relative=True)


@pytest.mark.parametrize(
    "words", [["tail", "t"], ["record", "t", "-o", "x"], ["explain", "pump-7:1:2"], ["ledger"], ["dlq", "list"]]
)
def test_where_to_begin_is_said_in_the_same_words_everywhere(words: list[str]) -> None:
    def start(text: str) -> object:
        return cli.parser().parse_args([*words, f"--from={text}"]).start

    assert start("beginning") is None
    assert start("end") == NOW
    assert start("5min") == start("-5min") == Moment(-300_000_000, relative=True)
    assert start("1970-01-01T00:00:01Z") == Moment(1_000_000, relative=False)
    with pytest.raises(SystemExit):
        start("soon")


@pytest.mark.parametrize("name", [n for n in cli.COMMANDS if not hasattr(cli._module(n), "forward")])
def test_help_of_every_command_has_examples_and_exit_codes(name: str) -> None:
    examples = cli._module(name).EXAMPLES
    assert re.match(r"examples:\n  tidegate ", examples)
    assert f"tidegate {name}" in examples
    assert "\nexit codes: 0 " in examples


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from deploy import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'apache_beam', 'kafka', 'numpy', 'onnxruntime', 'rich', 'pydantic', 'psutil'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_debug_shows_the_traceback(nobody: str) -> None:
    done = tidegate("--debug", "topics", "plan")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "UnavailableError" in done.stderr


def test_pipeline_run_fills_in_the_local_stack_and_leaves_what_was_given(
    nobody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prism = tmp_path / "prism"
    prism.touch()
    monkeypatch.setenv("TIDEGATE_PRISM", str(prism))
    assert pipeline.with_defaults(["run"]) == [
        "run",
        f"--kafka_bootstrap_servers={nobody}",
        "--runner=PrismRunner",
        f"--prism_location={prism}",
    ]
    mine = ["run", "--runner=FlinkRunner", "--kafka_bootstrap_servers", "k:1"]
    assert pipeline.with_defaults(mine) == mine
    assert pipeline.with_defaults(["explain"]) == ["explain"]


def test_the_page_of_exit_codes_explains_each_code_and_names_each_family() -> None:
    page = (ROOT / "docs" / "exit-codes.md").read_text()
    sections = dict(re.findall(r"^## (\d+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert {int(code) for code in sections} == {0, 2, 130, 143} | set(EXIT_CODES.values())
    for text in sections.values():
        assert re.fullmatch(r"\n\*\*What it means\.\*\* .+\n\n\*\*How to resolve\.\*\* .+\n+", text, re.DOTALL)
    for family, code in EXIT_CODES.items():
        assert f"`{family.__name__}`" in sections[str(code)], family.__name__
