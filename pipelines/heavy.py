"""The heavy model: final decisions for events, and second opinions on the audit sample, batched inside the bundle.

A chunk is the batch: its windows go through the model in one call per model and window length, each event keeping its
own times. Where the model cannot answer, the provisional decision stands with the reason; no event is left undecided.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics

from pipelines import decide
from pipelines.controller import Evidence, merged, of_audit, of_decision
from pipelines.elements import Lanes
from pipelines.io.chunk import Batch, Outgoing
from pipelines.io.models import FolderShelf, Shelf, WatchSettings, watcher
from pipelines.metering import LatencyCounters
from schemas.codec import encode
from schemas.errors import ModelError
from schemas.records import Decision, EdgeEvent, SensorBlock, Verdict
from schemas.scoring import Scorer, Scores
from schemas.tracing import Hop, headers_of

log = logging.getLogger(__name__)
EVIDENCE = "evidence"

#: Where a worker finds its models: the feedback topics, or package folders for batch replay.
ModelSource = WatchSettings | tuple[str, ...]
Window = TypeVar("Window", EdgeEvent, SensorBlock)


def open_shelf(source: ModelSource) -> Shelf:
    """The shelf for a source. Waits until what is published was read. Raises UnavailableError or ModelError."""
    return watcher(source).wait_ready() if isinstance(source, WatchSettings) else FolderShelf(list(source))


class Judged(NamedTuple):
    """Output of HeavyModel, one element per chunk each: encoded decisions, and evidence as lines of JSON."""

    decisions: beam.PCollection[Batch]
    evidence: beam.PCollection[bytes]


class HeavyModel(beam.PTransform):
    """Lanes -> decisions and evidence. `spread` puts a Reshuffle in front, so that many workers share the work."""

    def __init__(self, models: ModelSource, *, spread: bool = False, recorded_clock: bool = False) -> None:
        super().__init__()
        self._judge, self._spread = _Judge(models, recorded_clock), spread

    def expand(self, lanes: beam.PCollection[Lanes]) -> Judged:
        """See Judged."""
        if self._spread:
            lanes = lanes | "Spread" >> beam.Reshuffle()
        out = lanes | "Judge" >> beam.ParDo(self._judge).with_outputs(EVIDENCE, main="decisions")
        out["decisions"].element_type = Batch
        out[EVIDENCE].element_type = bytes
        return Judged(out["decisions"], out[EVIDENCE])


class _Judge(beam.DoFn):
    def __init__(self, models: ModelSource, recorded_clock: bool) -> None:
        self._models, self._recorded_clock = models, recorded_clock
        self._decided = Metrics.counter("tidegate.heavy", "decided")
        self._overridden = Metrics.counter("tidegate.heavy", "overridden")
        self._unanswered = Metrics.counter("tidegate.heavy", "unanswered")
        self._shelf: Shelf | None = None

    def setup(self) -> None:
        self._shelf = open_shelf(self._models)
        self._seconds = LatencyCounters("tidegate.heavy", "seconds")
        self._latency = LatencyCounters("tidegate.heavy", "latency")

    def process(self, lanes: Lanes) -> Iterator[Any]:
        assert self._shelf is not None
        clock = None if self._recorded_clock else wall_clock
        began_s = time.perf_counter()
        decisions = judge_events(lanes.events, self._shelf, clock)
        evidence = [seen for seen in map(of_decision, decisions) if seen is not None]
        evidence += judge_audits(lanes.audits, self._shelf, clock)
        if lanes.events or lanes.audits:
            self._seconds.observe([time.perf_counter() - began_s])
        if clock is not None:
            self._latency.observe([(d.decided_at - d.sensed_to) / 1e6 for d in decisions])
        self._decided.inc(len(decisions))
        self._overridden.inc(sum(d.verdict is Verdict.OVERRIDDEN for d in decisions))
        self._unanswered.inc(sum(d.heavy_score is None for d in decisions))
        yield Batch([_outgoing(d) for d in decisions], (lanes.receipt,))
        if evidence:
            yield beam.pvalue.TaggedOutput(EVIDENCE, b"\n".join(seen.to_bytes() for seen in merged(evidence)))


def _outgoing(decision: Decision) -> Outgoing:
    """A decision for the sink, with the trace of its event."""
    trace = headers_of(decision.identity.event_id, Hop.DECISION)
    return Outgoing(decision.device_id.encode(), encode(decision), trace)


def wall_clock() -> int:
    """Now, microseconds."""
    return time.time_ns() // 1000  # noqa: TID251


def judge_events(events: Sequence[EdgeEvent], shelf: Shelf, now_us: Callable[[], int] | None = None) -> list[Decision]:
    """One decision per event, in their order. Raises nothing: what the model refuses, the edge has decided.

    `now_us` dates the decisions, microseconds. None, for a replay: each is dated as its event's provisional one, so
    that it is the same however the events are cut into chunks.
    """
    reasons: dict[int, str] = {}
    todo: dict[str, list[int]] = defaultdict(list)
    for i, event in enumerate(events):
        if not event.values:
            reasons[i] = decide.KEPT_BACK
        elif not np.isfinite(event.matrix).all():
            reasons[i] = decide.NOT_FINITE
        else:
            todo[event.model_name].append(i)
    answers: dict[int, tuple[float, Scorer]] = {}
    for model_name, places in todo.items():
        scorer = shelf.heavy(model_name)
        if scorer is None:
            reasons |= dict.fromkeys(places, decide.NO_MODEL)
            continue
        scores, refused = _scores(scorer, [events[i] for i in places])
        reasons |= {places[at]: why for at, why in refused.items()}
        answers |= {places[at]: (score, scorer) for at, score in scores.items()}
    now = now_us() if now_us else None
    out = []
    for i, event in enumerate(events):
        at_us = event.decided_at if now is None else now
        if i in reasons:
            out.append(decide.by_edge(event, reasons[i], at_us))
            continue
        score, scorer = answers[i]
        package = scorer.package
        out.append(
            decide.by_heavy_model(
                event, score, scorer.threshold, package.manifest.version, package.sha256, decided_at=at_us
            )
        )
    return out


def judge_audits(
    blocks: Sequence[SensorBlock], shelf: Shelf, now_us: Callable[[], int] | None = None
) -> list[Evidence]:
    """What the heavy model says of windows that the edge had answered alone. Unusable ones tell nothing.

    `now_us` as for `judge_events`; None dates each by its newest reading.
    """
    out = []
    by_model: dict[str, list[SensorBlock]] = defaultdict(list)
    for block in blocks:
        if block.model_name is not None and block.event_times and np.isfinite(block.matrix).all():
            by_model[block.model_name].append(block)
    for model_name, group in by_model.items():
        scorer = shelf.heavy(model_name)
        if scorer is None:
            continue
        scores, _ = _scores(scorer, group)
        now = now_us() if now_us else None
        for at, score in scores.items():
            block = group[at]
            at_us = int(block.times.max()) if now is None else now
            version = block.thresholds_version or 0
            anomalous = score >= scorer.threshold
            out.append(of_audit(block.device_id, model_name, version, block.identity.event_id, anomalous, at_us))
    return out


def _scores(scorer: Scorer, windows: Sequence[Window]) -> tuple[dict[int, float], dict[int, str]]:
    """Scores and refusals by place. Windows of one length share a call; a call that fails is tried one by one."""
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, window in enumerate(windows):
        by_shape[window.matrix.shape].append(i)
    scores: dict[int, float] = {}
    refused: dict[int, str] = {}
    for places in by_shape.values():
        try:
            scores |= zip(places, _call(scorer, [windows[i] for i in places]).tolist(), strict=True)
        except ModelError:
            for i in places:
                try:
                    scores[i] = float(_call(scorer, [windows[i]])[0])
                except ModelError as why:
                    refused[i] = str(why)[:500]
    if refused:
        log.warning(
            "the heavy model %s refused %d windows: %s",
            scorer.manifest.name,
            len(refused),
            next(iter(refused.values())),
        )
    return scores, refused


def _call(scorer: Scorer, windows: Sequence[Window]) -> Scores:
    return scorer.score(np.stack([w.matrix for w in windows]), [w.device_id for w in windows])
