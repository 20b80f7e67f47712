from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import cli
from schemas.errors import EXIT_CODES, ConfigError, ModelError, UnavailableError
from tests.doubles.tiny_model import write_package


@pytest.fixture(autouse=True)
def _logging_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the log set-up of the command line, and what it calls itself, inside of the test."""
    monkeypatch.setattr(cli, "log_to_stderr", lambda *_: None)
    monkeypatch.setattr(sys, "argv", list(sys.argv))


def command(*arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_the_help_lists_every_command_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name in ("run", "job", "replay", "publish", "explain"):
        assert f"\n    {name}" in text
    assert "examples:" in text


@pytest.mark.parametrize("name", ["run", "job"])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_help_of_a_live_command_starts_with_examples_and_our_options(
    capsys: pytest.CaptureFixture[str], name: str, flag: str
) -> None:
    assert cli.main([name, flag]) == 0
    text = capsys.readouterr().out
    assert text.startswith("examples:\n  python -m pipelines run --runner=PrismRunner")
    assert text.index(f"usage: python -m pipelines {name}") < text.index("--kafka_bootstrap_servers KAFKA")
    assert text.index("--fleet_window DURATION") < text.index("Beam's options")


@pytest.mark.parametrize("name", ["replay", "publish", "explain"])
def test_the_help_of_the_other_commands_describes_every_argument(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: python -m pipelines {name}" in capsys.readouterr().out
    (commands,) = (a for a in cli.parser()._actions if hasattr(a, "choices") and a.choices)
    assert all(action.help for action in commands.choices[name]._actions)  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["run"], "pipelines: which runner?; give --runner=PrismRunner, or another of Beam's runners\n"),
        (["job"], "pipelines: which runner?; give --runner=PrismRunner, or another of Beam's runners\n"),
        (["run", "--runner=Foo"], "pipelines: cannot use the runner 'Foo': Unexpected pipeline runner: Foo; Beam has"),
        (["run", "--runner", "Flinkrunnr"], "pipelines: cannot use the runner 'Flinkrunnr': "),
    ],
)
def test_a_wrong_runner_is_a_sentence_and_78(
    capsys: pytest.CaptureFixture[str], argv: list[str], sentence: str
) -> None:
    assert cli.main(argv) == EXIT_CODES[ConfigError]
    assert capsys.readouterr().err.startswith(sentence)


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["replay"], ["publish"]])
def test_an_incomplete_command_is_a_usage_error(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert ended.value.code == 2
    assert "usage: python -m pipelines" in capsys.readouterr().err


def test_explain_prints_the_graph(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain"]) == 0
    assert "source -> Split -+-> HeavyModel -+-> decisions" in capsys.readouterr().out


def test_publishing_a_broken_package_is_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (write_package(tmp_path / "m") / "edge.onnx").write_bytes(b"other")
    assert cli.main(["publish", str(tmp_path / "m")]) == EXIT_CODES[ModelError]
    assert "a file of the package is not the one its manifest names" in capsys.readouterr().err


def test_publishing_without_a_broker_is_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = str(write_package(tmp_path / "m"))
    assert cli.main(["publish", folder, "--kafka_bootstrap_servers=127.0.0.1:1"]) == EXIT_CODES[UnavailableError]
    err = capsys.readouterr().err
    assert err.startswith("pipelines: the model could not be published: ")
    assert err.endswith("; is the broker up and are the topics created? `tidegate status` tells\n")


def test_a_bad_duration_names_the_command_it_was_given_to() -> None:
    done = command("run", "--runner=PrismRunner", "--fleet_window=5")
    assert done.returncode == 2
    assert "python -m pipelines run: error: argument --fleet_window: missing unit in duration '5'" in done.stderr


def test_a_live_job_without_a_broker_says_so_without_noise() -> None:
    """On the in-process runner, which needs no program of its own: what a user sees is a sentence, exit code 69."""
    done = command("job", "--runner=FnApiRunner", "--kafka_bootstrap_servers=127.0.0.1:1", "--kafka_start_deadline=2s")
    assert done.returncode == 69, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("pipelines: ")
    assert "Traceback" not in done.stderr


def test_the_log_holds_our_progress_and_warnings_of_others_but_neither_reconnects_nor_what_warns_of_nothing() -> None:
    code = (
        "import logging, sys; from pipelines import cli; cli.log_to_stderr(); log = logging.getLogger;"
        "log('pipelines.job').info('ours'); log('apache_beam.x').info('beam info');"
        "log('kafka.x').error('reconnect failed');"
        "logging.warning('apitools not found, and bigquery'); logging.warning('other root warning');"
        "log('apache_beam.utils.subprocess_server').warning('Really starting service at %s', 1);"
        "log('apache_beam.utils.subprocess_server').warning('Error bringing up service')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    said = [line.split(": ", 1)[1] for line in done.stderr.splitlines()]
    assert said == ["ours", "other root warning", "Error bringing up service"]


def test_messages_that_are_not_texts_pass_the_filter() -> None:
    record = logging.LogRecord("root", logging.WARNING, "f", 1, ValueError("apitools?"), None, None)
    assert cli._worth_reading(record)


def test_json_output_of_replay_is_json_alone(tmp_path: Path) -> None:
    from schemas import topics
    from schemas.container import ContainerWriter
    from tests.doubles import records as make

    with (tmp_path / "edge.events.avro").open("wb") as file:
        writer = ContainerWriter(file, topics.EVENTS.record)
        writer.write(make.event())
        writer.close()
    done = command("replay", str(tmp_path), "--models", str(write_package(tmp_path / "m")), "-o", str(tmp_path / "out"))
    assert json.loads(done.stdout)["written"]["cloud.decisions"] == 1
    assert done.stderr == ""
