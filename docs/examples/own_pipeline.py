"""A pipeline of one's own: Tidegate's source, split and heavy model, a step of one's own between, a topic of one's own.

    python own_pipeline.py --runner=PrismRunner --kafka_bootstrap_servers=127.0.0.1:9092

It writes a ticket for every window in which edge and cloud disagree. docs/own-pipeline.md walks through it.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import apache_beam as beam

from pipelines import (
    Batch,
    Feedback,
    FleetWindows,
    HeavyModel,
    Outgoing,
    ReadFromKafka,
    Split,
    TidegateOptions,
    WatchSettings,
    WriteToKafka,
    event_time,
    identity,
    run_own,
)
from schemas import topics
from schemas.codec import decode
from schemas.records import Decision, Verdict

TICKETS = "site.tickets"  # make it first; brokers create no topics by themselves
INPUTS = (topics.EVENTS, topics.AGGREGATES, topics.SAMPLES)


class Tickets(beam.DoFn):
    """A step of one's own: decisions of one chunk in, tickets for the overridden ones out, as JSON."""

    def process(self, batch: Batch) -> Iterator[Batch]:
        """One batch per batch."""
        tickets = []
        for record in batch.records:
            decision = decode(record.value or b"", Decision)
            if decision.verdict is Verdict.OVERRIDDEN:
                ticket = {
                    "event": decision.identity.event_id,
                    "edge": decision.provisional.value,
                    "cloud": decision.outcome.value,
                }
                tickets.append(Outgoing(record.key, json.dumps(ticket).encode()))
        # also without tickets, and with its receipts: this is how the source learns that the chunk is dealt with
        yield Batch(tickets, batch.receipts)


def build(p: beam.Pipeline, options: TidegateOptions) -> ReadFromKafka:
    """The graph. `branches` and `lanes` name who answers for a chunk before its offsets are committed."""
    servers, prefix, window = options.kafka_bootstrap_servers, options.kafka_topic_prefix, options.window()
    source = ReadFromKafka(
        [topic.named(prefix) for topic in INPUTS],
        servers,
        options.kafka_group_id,
        branches=("decisions", "tickets", "failed"),
        lanes={"fleet": window.lateness_us / 1e6},
        event_time=event_time,
        identity=identity,
        disorder_s=options.disorder / 1e6,
        idle_s=options.idle / 1e6,
    )

    def to(topic: str, branch: str | None = None) -> WriteToKafka:
        return WriteToKafka(prefix + topic, servers, branch=branch)

    routed = p | "Read" >> source | "Split" >> Split(prefix, window)
    models = WatchSettings(servers, prefix)
    judged = routed.lanes | "Heavy" >> HeavyModel(models)
    judged.decisions | "WriteDecisions" >> to(topics.DECISIONS.name, "decisions")
    tickets = judged.decisions | "Tickets" >> beam.ParDo(Tickets()).with_output_types(Batch)
    tickets | "WriteTickets" >> to(TICKETS, "tickets")
    fleet = routed.lanes | "Fleet" >> FleetWindows(window, source.flow)
    fleet | "WriteFleet" >> to(topics.FLEET.name)
    thresholds = judged.evidence | "Feedback" >> Feedback(models, options.policy())
    thresholds | "WriteThresholds" >> to(topics.THRESHOLDS.name)
    routed.failed | "WriteFailed" >> to(topics.DEAD_LETTERS.name, "failed")
    return source


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    run_own(build, sys.argv[1:])
