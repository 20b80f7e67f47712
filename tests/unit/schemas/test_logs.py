from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import logs


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("edge_filters", logging.WARNING, "file", 1, message, (), None)
    made.created = 1_700_000_000.25
    made.__dict__.update(extra)
    return made


def line(formatter: logging.Formatter, made: logging.LogRecord) -> dict[str, object]:
    text = formatter.format(made)
    assert "\n" not in text
    found: dict[str, object] = json.loads(text)
    return found


def test_a_line_is_an_object_with_the_time_in_utc() -> None:
    assert line(logs.formatter("json", "edge-7", ""), record("the broker is back", trace_id="ab", other="dropped")) == {
        "timestamp": "2023-11-14T22:13:20.250000Z",
        "severity": "WARNING",
        "process": "edge-7",
        "logger": "edge_filters",
        "body": "the broker is back",
        "trace_id": "ab",
    }


@given(st.text())
def test_whatever_is_said_stays_on_one_line_and_reads_back(message: str) -> None:
    made = record("%s")
    made.args = (message,)
    assert line(logs.formatter("json", "edge", ""), made)["body"] == message


def test_a_traceback_is_a_field() -> None:
    made = record("failed")
    try:
        raise ValueError("with hunter2 in it")
    except ValueError:
        made.exc_info = sys.exc_info()
    found = line(logs.formatter("json", "edge", "", secrets=["hunter2"]), made)
    assert "ValueError: with *** in it" in str(found["exception"])
    assert "hunter2" not in str(found)


@pytest.mark.parametrize("kind", logs.FORMATS)
def test_secrets_are_hidden_in_both_formats_the_longer_one_first(kind: str) -> None:
    formatter = logs.formatter(kind, "edge", "%(message)s", secrets=["hunter2", "hunter2-canary", "abc"])
    text = formatter.format(record("refused: hunter2-canary, hunter2, abc"))
    assert "refused: ***, ***, abc" in text  # what is so short hides more than it protects


@pytest.mark.parametrize(
    ("argv", "chosen"),
    [
        ([], "text"),
        (["--log-format", "json"], "json"),
        (["--log-format=json", "--runner=X"], "json"),
        (["--log_format=json"], "json"),
        (["--runner", "X", "--log_format", "text"], "text"),
        (["--log-format", "yaml"], "text"),
        (["--log-format"], "text"),
        (["--log-form=json"], "text"),
    ],
)
def test_the_format_is_known_before_the_rest_of_the_command_line_is_read(argv: list[str], chosen: str) -> None:
    assert logs.format_of(argv) == chosen


def test_both_spellings_are_one_option() -> None:
    parser = argparse.ArgumentParser()
    logs.add_argument(parser)
    assert parser.parse_args(["--log_format", "json"]).log_format == "json"
    assert parser.parse_args(["--log-format", "json"]).log_format == "json"


def test_a_secret_that_is_learnt_later_is_hidden_from_then_on() -> None:
    formatter = logs.formatter("json", "pipeline", "", secrets=["first-one"])
    formatter.keep(logs.passwords({"ssl_password": "second-one", "ssl_cafile": "/ca.pem"}))
    assert line(formatter, record("first-one second-one /ca.pem"))["body"] == "*** *** /ca.pem"


def test_what_python_would_print_by_itself_is_a_line_too() -> None:
    code = """
import logging, sys, threading, warnings
from schemas import logs
handler = logging.StreamHandler(sys.stderr)
handler.setFormatter(logs.formatter("json", "edge", ""))
logging.basicConfig(handlers=[handler])
logs.log_uncaught(logging.getLogger("edge_filters"))
def fail(): raise ValueError("in a thread")
thread = threading.Thread(target=fail); thread.start(); thread.join()
warnings.warn("a warning")
raise ValueError("at the end")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    said = [json.loads(text) for text in done.stderr.splitlines()]
    assert [entry["severity"] for entry in said] == ["CRITICAL", "WARNING", "CRITICAL"]
    assert "ValueError: in a thread" in said[0]["exception"]
    assert "a warning" in said[1]["body"]
    assert "ValueError: at the end" in said[2]["exception"]
