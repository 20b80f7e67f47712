"""Our own pipeline options, beside all of Beam's. Names start with kafka_ or say what they are about, because Beam
owns plain ones such as --bootstrap_servers for other runners.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import create_runner

from pipelines.controller import ControllerPolicy
from pipelines.limits import FailureLimit
from pipelines.split import WindowRule
from schemas import logs
from schemas.errors import ConfigError
from schemas.librdkafka import LIBRARIES
from schemas.units import duration_us


def port(text: str) -> int:
    """A TCP port, or 0. Raises argparse.ArgumentTypeError."""
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"not a port: {text!r}; give a number from 0 to 65535")
    return number


def _duration(text: str) -> int:
    try:
        return duration_us(text)
    except ConfigError as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from None


class TidegateOptions(PipelineOptions):
    """What `python -m pipelines run` understands on top of Beam's options."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        kafka = parser.add_argument_group("Tidegate: Kafka")
        kafka.add_argument("--kafka_bootstrap_servers", default="127.0.0.1:9092", help="host:port[,host:port…]")
        kafka.add_argument(
            "--kafka_topic_prefix", default="", help="put before every topic name, with its dot: plant1."
        )
        kafka.add_argument(
            "--kafka_group_id", default="tidegate-pipeline", help="group that offsets are committed under"
        )
        kafka.add_argument(
            "--kafka_client_config",
            default="",
            metavar="FILE",
            help="JSON object of further kafka-python settings, such as security_protocol and ssl_cafile",
        )
        kafka.add_argument(
            "--kafka_client_library",
            choices=LIBRARIES,
            default=LIBRARIES[0],
            help="what reads and writes records; confluent is faster and needs the extra fast (default: %(default)s)",
        )
        kafka.add_argument(
            "--delivery",
            choices=("exactly-once", "at-least-once"),
            default="exactly-once",
            help="write decisions and dead letters of events in transactions with the positions of their events, or "
            "before them; Flink is always at least once (default: %(default)s)",
        )
        kafka.add_argument(
            "--kafka_start_deadline",
            type=_duration,
            default="60s",
            metavar="DURATION",
            help="give up when broker or topics are not there by then (default: 60s)",
        )
        seen = parser.add_argument_group("Tidegate: what it says of itself")
        seen.add_argument(
            "--metrics_port",
            type=port,
            default=None,
            metavar="PORT",
            help="answer /metrics, /livez and /readyz there; 0 takes a free port and logs it (default: do not listen)",
        )
        seen.add_argument("--metrics_host", default="127.0.0.1", metavar="HOST", help="(default: 127.0.0.1)")
        seen.add_argument(
            "--supervisor_metrics_port",
            type=port,
            default=None,
            metavar="PORT",
            help="the same for the supervisor, which counts the restarts (default: do not listen)",
        )
        logs.add_argument(seen)
        time = parser.add_argument_group("Tidegate: event time")
        time.add_argument(
            "--fleet_window", type=_duration, default="5s", metavar="DURATION", help="fleet windows (default: 5s)"
        )
        time.add_argument(
            "--allowed_lateness",
            type=_duration,
            default="60s",
            metavar="DURATION",
            help="until how long after its end a window is corrected (default: 60s)",
        )
        time.add_argument(
            "--disorder",
            type=_duration,
            default="2s",
            metavar="DURATION",
            help="how far events of one partition may be out of order before they count as late (default: 2s)",
        )
        time.add_argument(
            "--idle",
            type=_duration,
            default="1s",
            metavar="DURATION",
            help="how long a record may take to the broker on a partition that seems empty (default: 1s)",
        )
        time.add_argument(
            "--source_grid",
            type=_duration,
            default="50ms",
            metavar="DURATION",
            help="how often the source looks for records: latency against idle CPU (default: 50ms)",
        )
        limits = parser.add_argument_group("Tidegate: what cannot be processed")
        limits.add_argument(
            "--max_failed_ratio",
            type=float,
            default=0.5,
            metavar="RATIO",
            help="share of --failed_window records in a row that may be refused before the job stops with exit code "
            "76; 1 puts everything away, however much (default: %(default)s)",
        )
        limits.add_argument(
            "--failed_window", type=int, default=10_000, metavar="N", help="see there (default: %(default)s)"
        )
        loop = parser.add_argument_group("Tidegate: threshold feedback")
        defaults = ControllerPolicy()
        loop.add_argument(
            "--feedback_min_escalated",
            type=int,
            default=defaults.min_escalated,
            metavar="N",
            help="escalated windows of a device before it is judged by them (default: %(default)s)",
        )
        loop.add_argument(
            "--feedback_min_audited",
            type=int,
            default=defaults.min_audited,
            metavar="N",
            help="audited windows of a device before it is judged by them (default: %(default)s)",
        )
        loop.add_argument(
            "--feedback_override_high",
            type=float,
            default=defaults.override_high,
            metavar="RATE",
            help="share of escalated windows that may turn out normal before less is escalated (default: %(default)s)",
        )
        loop.add_argument(
            "--feedback_missed_high",
            type=float,
            default=defaults.missed_high,
            metavar="RATE",
            help="share of audited windows that may turn out anomalous before more is escalated (default: %(default)s)",
        )
        loop.add_argument(
            "--feedback_step",
            type=float,
            default=defaults.step,
            metavar="SHARE",
            help="largest change of a threshold per update, as a share of its default (default: %(default)s)",
        )
        loop.add_argument(
            "--feedback_ttl",
            type=_duration,
            default="10min",
            metavar="DURATION",
            help="how long a device obeys an update that is not renewed (default: 10min)",
        )

    def window(self) -> WindowRule:
        """Fleet windows. Raises ConfigError."""
        return WindowRule(size_us=self.fleet_window, lateness_us=self.allowed_lateness)

    def limit(self) -> FailureLimit:
        """How much may be refused. Raises ConfigError."""
        return FailureLimit(self.max_failed_ratio, self.failed_window)

    def policy(self) -> ControllerPolicy:
        """Limits of the threshold controller. Raises ConfigError."""
        return ControllerPolicy(
            min_escalated=self.feedback_min_escalated,
            min_audited=self.feedback_min_audited,
            override_high=self.feedback_override_high,
            missed_high=self.feedback_missed_high,
            step=self.feedback_step,
            ttl_us=self.feedback_ttl,
        )

    def client(self) -> dict[str, Any]:
        """Further settings of the Kafka client. Raises ConfigError: the file is not there or not a JSON object."""
        return client_settings(self.kafka_client_config)


def client_settings(file: str) -> dict[str, Any]:
    """What --kafka_client_config names; nothing where it names nothing. Raises ConfigError."""
    if not file:
        return {}
    try:
        raw = json.loads(Path(file).read_text())
    except (OSError, ValueError) as cause:
        raise ConfigError("--kafka_client_config cannot be read", file=file, cause=str(cause)) from None
    if not isinstance(raw, dict):
        raise ConfigError("--kafka_client_config must hold a JSON object", file=file)
    return raw


def check(argv: Sequence[str]) -> PipelineOptions:
    """Options of a command line, with the mistakes found that Beam would pass over or answer with a traceback.

    Raises ConfigError: no runner, none of that name, or an option that is nearly one of ours. Exits with 2, as argparse
    does, for a value of the wrong form.
    """
    options = PipelineOptions(list(argv))
    ours = _names(TidegateOptions)
    known = frozenset().union(*map(_names, PipelineOptions.__subclasses__()))
    for word in argv:
        name = word.partition("=")[0]
        guess = difflib.get_close_matches(name, ours, 1, 0.85) if name.startswith("--") and name not in known else []
        if guess:
            raise ConfigError(f"unknown option {name}", fix=f"did you mean {guess[0]}?")
    options.view_as(TidegateOptions)
    runner = options.view_as(StandardOptions).runner
    if not runner:
        raise ConfigError("which runner?", fix="give --runner=PrismRunner, or another of Beam's runners")
    try:
        create_runner(runner)
    except (ValueError, ImportError, AttributeError) as cause:
        names = StandardOptions.KNOWN_RUNNER_NAMES
        guess = difflib.get_close_matches(runner, names, 1)
        fix = f"did you mean {guess[0]}?" if guess else f"Beam has {', '.join(names)}"
        raise ConfigError(f"cannot use the runner {runner!r}: {_first_sentence(cause)}", fix=fix) from None
    return options


def own_help(command: str) -> str:
    """Our options alone."""
    own = argparse.ArgumentParser(usage=f"python -m pipelines {command} --runner=NAME [option ...]", add_help=False)
    TidegateOptions._add_argparse_args(own)
    return own.format_help()


def help_text(command: str) -> str:
    """Our options, then all of Beam's."""
    every = _parser()
    for cls in PipelineOptions.__subclasses__():
        if cls is not TidegateOptions:
            cls._add_argparse_args(every)
    beam = every.format_help().partition("\n\n")[2].partition("\n")[2]
    return f"{own_help(command)}\nBeam's options, passed on unchanged:\n{beam}"


def _parser() -> Any:
    """Beam's own kind of parser: its options need more than argparse has. Private, so a test keeps an eye on it."""
    from apache_beam.options.pipeline_options import _BeamArgumentParser

    return _BeamArgumentParser(usage="", add_help=False, allow_abbrev=False)


def _names(cls: Any) -> frozenset[str]:
    parser = _parser()
    cls._add_argparse_args(parser)
    return frozenset(parser._option_string_actions)


def _first_sentence(cause: Exception) -> str:
    return str(cause).partition(". ")[0]
