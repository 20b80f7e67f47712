"""The whole flow on one screen. Live and replay differ in `source` and `sinks`, and in nothing else.

source -> Split -+-> HeavyModel -+-> decisions
                 |               +-> Feedback -> thresholds
                 +-> FleetWindows -------------> fleet
                 +-----------------------------> failed
"""

from __future__ import annotations

from dataclasses import dataclass, field

import apache_beam as beam

from pipelines.aggregate import FleetWindows
from pipelines.controller import ControllerPolicy
from pipelines.feedback import Feedback
from pipelines.heavy import HeavyModel, ModelSource
from pipelines.limits import FailureLimit
from pipelines.split import FLEET_LANE, Split, WindowRule
from schemas import topics

#: Branches that answer for every chunk before its offsets may be committed, and the lane that answers by windows.
BRANCHES = ("decisions", "failed")
LANES = (FLEET_LANE,)
INPUTS = (topics.EVENTS, topics.AGGREGATES, topics.SAMPLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphConfig:
    """What the graph needs to know, whatever it runs on.

    `flow` is the name of the source's ledger, empty where nothing is committed; `spread` shuffles chunks in front of
    the heavy model so that many workers share it; `recorded_clock` dates what is decided by the records instead of the
    wall clock, so that a replay gives the same bytes every time; `limit` says how much of the input may be refused.
    """

    models: ModelSource
    window: WindowRule
    policy: ControllerPolicy = field(default_factory=ControllerPolicy)
    topic_prefix: str = ""
    flow: str = ""
    spread: bool = False
    recorded_clock: bool = False
    limit: FailureLimit = field(default_factory=FailureLimit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinks:
    """Where each output goes; every one takes a PCollection[Batch]."""

    decisions: beam.PTransform
    fleet: beam.PTransform
    thresholds: beam.PTransform
    failed: beam.PTransform


def build(p: beam.Pipeline, source: beam.PTransform, sinks: Sinks, config: GraphConfig) -> None:
    """Put the graph together. Labels are stable: a running job can be replaced by a newer graph."""
    routed = (
        p
        | "Read" >> source
        | "Split" >> Split(config.topic_prefix, config.window, recorded_clock=config.recorded_clock, limit=config.limit)
    )
    judged = routed.lanes | "Heavy" >> HeavyModel(
        config.models, spread=config.spread, recorded_clock=config.recorded_clock
    )
    fleet = routed.lanes | "Fleet" >> FleetWindows(config.window, config.flow)
    ticking = not (config.spread or config.recorded_clock)
    thresholds = judged.evidence | "Feedback" >> Feedback(
        config.models, config.policy, gather_s=0.5 if ticking else 0.0
    )
    judged.decisions | "WriteDecisions" >> sinks.decisions
    fleet | "WriteFleet" >> sinks.fleet
    thresholds | "WriteThresholds" >> sinks.thresholds
    routed.failed | "WriteFailed" >> sinks.failed
