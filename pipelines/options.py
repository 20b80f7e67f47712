"""Our own pipeline options, beside all of Beam's. Names start with kafka_ or say what they are about, because Beam
owns plain ones such as --bootstrap_servers for other runners.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.controller import ControllerPolicy
from pipelines.split import WindowRule
from schemas.errors import ConfigError
from schemas.units import duration_us


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
            "--kafka_start_deadline",
            type=_duration,
            default="60s",
            metavar="DURATION",
            help="give up when broker or topics are not there by then (default: 60s)",
        )
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
        loop = parser.add_argument_group("Tidegate: threshold feedback")
        defaults = ControllerPolicy()
        loop.add_argument("--feedback_min_escalated", type=int, default=defaults.min_escalated, metavar="N")
        loop.add_argument("--feedback_min_audited", type=int, default=defaults.min_audited, metavar="N")
        loop.add_argument("--feedback_override_high", type=float, default=defaults.override_high, metavar="RATE")
        loop.add_argument("--feedback_missed_high", type=float, default=defaults.missed_high, metavar="RATE")
        loop.add_argument("--feedback_step", type=float, default=defaults.step, metavar="SHARE")
        loop.add_argument("--feedback_ttl", type=_duration, default="10min", metavar="DURATION")

    def window(self) -> WindowRule:
        """Fleet windows. Raises ConfigError."""
        return WindowRule(size_us=self.fleet_window, lateness_us=self.allowed_lateness)

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
        if not self.kafka_client_config:
            return {}
        try:
            raw = json.loads(Path(self.kafka_client_config).read_text())
        except (OSError, ValueError) as cause:
            raise ConfigError(
                "--kafka_client_config cannot be read", file=self.kafka_client_config, cause=str(cause)
            ) from None
        if not isinstance(raw, dict):
            raise ConfigError("--kafka_client_config must hold a JSON object", file=self.kafka_client_config)
        return raw
