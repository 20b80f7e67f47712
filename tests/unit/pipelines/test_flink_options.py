"""What the job asks of Flink where the user says nothing, and which runners count as Flink."""

from __future__ import annotations

import logging

import pytest
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, StandardOptions

from pipelines import cli
from pipelines.job import FLINK_DEFAULTS, on_flink, prepare

ON_FLINK = ["--runner=FlinkRunner", "--job_endpoint=127.0.0.1:1", "--environment_type=EXTERNAL"]


@pytest.mark.parametrize(
    ("runner", "expected"),
    [("FlinkRunner", True), ("PortableRunner", True), ("flink", True), ("PrismRunner", False), ("DirectRunner", False)],
)
def test_what_is_handed_to_a_job_server_counts_as_flink(runner: str, expected: bool) -> None:
    assert on_flink(PipelineOptions([f"--runner={runner}"])) is expected


def test_bundles_are_shorter_than_the_grid_of_the_source_where_nothing_is_said() -> None:
    options = prepare(ON_FLINK)
    assert options.view_as(StandardOptions).streaming is True
    assert options.view_as(PortableOptions).environment_type == "EXTERNAL"
    assert f"--max_bundle_time_mills={FLINK_DEFAULTS['--max_bundle_time_mills']}" in options._flags
    assert int(FLINK_DEFAULTS["--max_bundle_time_mills"]) < 50, "the grid is 50 ms"


def test_what_the_user_says_counts() -> None:
    flags = prepare([*ON_FLINK, "--checkpointing_interval=500"])._flags
    assert [flag for flag in flags if flag.startswith("--checkpointing_interval")] == ["--checkpointing_interval=500"]


def test_beam_is_not_heard_when_it_warns_of_what_only_a_job_server_knows() -> None:
    assert set(cli.JOB_SERVER_OPTIONS) == set(FLINK_DEFAULTS)

    def heard(text: str) -> bool:
        record = logging.LogRecord("apache_beam.options.pipeline_options", logging.WARNING, "", 0, text, (), None)
        return cli._worth_reading(record)

    assert not any(heard(f"Unparseable argument: {name}={value}") for name, value in FLINK_DEFAULTS.items())
    assert heard("Unparseable argument: --checkpoint_intervall=5")
