from __future__ import annotations

import json
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions, StandardOptions

from pipelines.controller import ControllerPolicy
from pipelines.job import prepare
from pipelines.options import TidegateOptions, check, help_text
from pipelines.split import WindowRule
from schemas.errors import ConfigError

PRISM = "--runner=PrismRunner"


def ours(*argv: str) -> TidegateOptions:
    return PipelineOptions(list(argv)).view_as(TidegateOptions)


def test_our_options_collide_with_none_of_beams() -> None:
    every = PipelineOptions([PRISM]).get_all_options()
    assert {"kafka_bootstrap_servers", "fleet_window", "runner", "bootstrap_servers"} <= set(every)


def test_defaults_are_what_the_help_says() -> None:
    options = ours()
    assert options.window() == WindowRule(size_us=5_000_000, lateness_us=60_000_000)
    assert options.policy() == ControllerPolicy()
    assert (options.disorder, options.idle, options.source_grid) == (2_000_000, 1_000_000, 50_000)
    assert options.client() == {}


def test_durations_carry_their_unit() -> None:
    options = ours("--fleet_window=10s", "--allowed_lateness", "1.5h", "--feedback_ttl=90s", "--source_grid=20ms")
    assert options.window() == WindowRule(size_us=10_000_000, lateness_us=5_400_000_000)
    assert options.policy().ttl_us == 90_000_000
    assert options.source_grid == 20_000


DURATIONS = [
    "kafka_start_deadline", "fleet_window", "allowed_lateness", "disorder", "idle", "source_grid", "feedback_ttl",
]  # fmt: skip


@pytest.mark.parametrize("option", DURATIONS)
@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("5", "missing unit in duration '5'; write it like 250ms; units are us, ms, s, min, h, d"),
        ("5 parsecs", "not a duration: '5 parsecs'; write it like 250ms"),
        ("soon", "not a duration: 'soon'"),
        ("", "not a duration: ''"),
    ],
)
def test_a_bad_duration_is_a_usage_error_that_names_the_unit(
    capsys: pytest.CaptureFixture[str], option: str, value: str, sentence: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        check([PRISM, f"--{option}={value}"])
    assert ended.value.code == 2
    assert f"argument --{option}: {sentence}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--feedback_step=0.9", "controller rates must lie in (0, 1) and the step in (0, 0.5]"),
        ("--feedback_override_high=1", "controller rates must lie in (0, 1)"),
        ("--feedback_min_audited=0", "controller counts and ttl must be at least 1"),
        ("--feedback_ttl=0s", "controller counts and ttl must be at least 1"),
    ],
)
def test_limits_of_the_controller_that_cannot_be_are_a_sentence(argument: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        ours(argument).policy()
    assert str(raised.value).startswith(sentence)


def test_a_window_of_no_length_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="fleet windows need a positive size and a lateness of zero or more"):
        ours("--fleet_window=0s").window()


def test_client_settings_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "client.json"
    file.write_text(json.dumps({"security_protocol": "SSL", "ssl_cafile": "ca.pem"}))
    assert ours(f"--kafka_client_config={file}").client() == {"security_protocol": "SSL", "ssl_cafile": "ca.pem"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "--kafka_client_config cannot be read"),
        ("{", "--kafka_client_config cannot be read"),
        ("[1]", "--kafka_client_config must hold a JSON object"),
    ],
)
def test_client_settings_that_cannot_be_read_are_a_sentence(tmp_path: Path, text: str | None, sentence: str) -> None:
    file = tmp_path / "client.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        ours(f"--kafka_client_config={file}").client()


@pytest.mark.parametrize("argv", [["--runner=PrismRunner"], ["--runner", "PrismRunner"], ["--runner=prism"]])
def test_a_runner_may_be_named_as_beam_allows(argv: list[str]) -> None:
    assert check(argv).view_as(StandardOptions).runner.lower().startswith("prism")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "which runner?; give --runner=PrismRunner, or another of Beam's runners"),
        (
            ["--runner=PrismRuner"],
            "cannot use the runner 'PrismRuner': Unexpected pipeline runner: PrismRuner; did you mean PrismRunner?",
        ),
        (["--runner=Xyz"], "cannot use the runner 'Xyz': Unexpected pipeline runner: Xyz; Beam has DataflowRunner"),
        (["--runner=no.such.Module"], "cannot use the runner 'no.such.Module': No module named 'no'"),
        (["--runner=json.Nothing"], "cannot use the runner 'json.Nothing': module 'json' has no attribute 'Nothing'"),
        ([PRISM, "--fleet_windw=3s"], "unknown option --fleet_windw; did you mean --fleet_window?"),
        ([PRISM, "--kafka_boostrap_servers", "x:1"], "unknown option --kafka_boostrap_servers; did you mean"),
    ],
)
def test_a_command_line_that_beam_would_pass_over_or_crash_on_is_a_sentence(argv: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check(argv)
    assert str(raised.value).startswith(sentence)


def test_beams_own_options_pass_through_unchanged() -> None:
    options = check([PRISM, "--streaming", "--requirements_file=r.txt", "--no_such_option_of_anybody=1"])
    assert options.view_as(StandardOptions).streaming is True
    assert options.view_as(SetupOptions).requirements_file == "r.txt"
    assert "--no_such_option_of_anybody=1" in options._flags


def test_the_job_streams_also_when_nobody_says_so() -> None:
    assert prepare([PRISM]).view_as(StandardOptions).streaming is True


def test_the_help_shows_ours_first_and_then_beams() -> None:
    text = help_text("run")
    assert text.startswith("usage: python -m pipelines run --runner=NAME [option ...]\n")
    at = [
        text.index(word)
        for word in (
            "Tidegate: Kafka:",
            "Tidegate: event time:",
            "Tidegate: threshold feedback:",
            "Beam's options, passed on unchanged:",
            "--runner RUNNER",
            "--streaming",
        )
    ]
    assert at == sorted(at)
    for option in DURATIONS:
        assert f"--{option} DURATION" in text
    assert text.count("--fleet_window DURATION") == 1


def test_every_option_of_ours_says_what_it_is_for() -> None:
    from argparse import ArgumentParser

    parser = ArgumentParser(add_help=False)
    TidegateOptions._add_argparse_args(parser)
    assert all(action.help for action in parser._actions)
    assert len(parser._actions) > 10
