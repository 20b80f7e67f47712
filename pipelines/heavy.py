"""The heavy model: final decisions for events, and second opinions on the audit sample, batched inside the bundle.

A chunk is the batch: its windows go through the model in one call per model and window length, each event keeping its
own times. Where the model cannot answer, the provisional decision stands with the reason; no event is left undecided.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics

from pipelines import decide
from pipelines.controller import Evidence, merged, of_audit, of_decisions
from pipelines.elements import Lanes
from pipelines.io.chunk import Batch, Outgoing
from pipelines.io.models import FolderShelf, Shelf, WatchSettings, watcher
from pipelines.io.recorded_models import RecordedModels, RecordedShelf, recorded_shelf
from pipelines.metering import LatencyCounters
from schemas.clocks import latency_us
from schemas.codec import encode
from schemas.errors import ModelError
from schemas.records import Decision, EdgeEvent, Floats, SensorBlock, Verdict
from schemas.scoring import Scorer
from schemas.tracing import Hop, headers_of

log = logging.getLogger(__name__)
EVIDENCE = "evidence"

#: Where a worker finds its models: the feedback topics, or package folders for batch replay, with recorded decisions
#: where each event shall go to the version that decided it then.
ModelSource = WatchSettings | RecordedModels | tuple[str, ...]


def open_shelf(source: ModelSource) -> Shelf:
    """The shelf for a source. Waits until what is published was read. Raises UnavailableError or ModelError."""
    if isinstance(source, RecordedModels):
        return recorded_shelf(source)
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
        self._latency_unknown = Metrics.counter("tidegate.heavy", "latency_unknown")
        self._shelf: Shelf | None = None

    def setup(self) -> None:
        self._shelf = open_shelf(self._models)
        self._seconds = LatencyCounters("tidegate.heavy", "seconds")
        self._latency = LatencyCounters("tidegate.heavy", "latency")

    def process(self, lanes: Lanes) -> Iterator[Any]:
        assert self._shelf is not None
        clock = None if self._recorded_clock else wall_clock
        began_s = time.perf_counter()
        decisions = _judge_by(self._shelf, lanes.events, clock)
        evidence = of_decisions(decisions)
        evidence += judge_audits(lanes.audits, self._shelf, clock)
        if lanes.events or lanes.audits:
            self._seconds.observe([time.perf_counter() - began_s])
        if clock is not None:
            ahead = lanes.ahead_us or (0,) * len(decisions)
            found = [latency_us(d.sensed_to, d.decided_at, off) for d, off in zip(decisions, ahead, strict=True)]
            known = [us / 1e6 for us in found if us is not None]
            self._latency.observe(known)
            self._latency_unknown.inc(len(found) - len(known))
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
    return time.time_ns() // 1000  # noqa: TID251  # the one clock of this step, passed on from here


def _judge_by(shelf: Shelf, events: Sequence[EdgeEvent], now_us: Callable[[], int] | None) -> list[Decision]:
    """judge_events, each event with the version that decided it where that is recorded."""
    if not isinstance(shelf, RecordedShelf):
        return judge_events(events, shelf, now_us)
    out: dict[int, Decision] = {}
    for places, one_version in shelf.split(events):
        out |= zip(places, judge_events([events[at] for at in places], one_version, now_us), strict=True)
    return [out[at] for at in range(len(events))]


def judge_events(events: Sequence[EdgeEvent], shelf: Shelf, now_us: Callable[[], int] | None = None) -> list[Decision]:
    """One decision per event, in their order. Raises nothing: what the model refuses, the edge has decided.

    `now_us` dates the decisions, microseconds. None, for a replay: each is dated as its event's provisional one, so
    that it is the same however the events are cut into chunks.
    """
    now = now_us() if now_us else None
    out: dict[int, Decision] = {}
    groups: dict[tuple[str, int, int], list[int]] = defaultdict(list)

    def stands(at: int, reason: str) -> None:
        event = events[at]
        out[at] = decide.by_edge(event, reason, event.decided_at if now is None else now)

    for at, event in enumerate(events):
        if event.values:
            groups[event.model_name, event.readings, event.channels].append(at)
        else:
            stands(at, decide.KEPT_BACK)
    for (model_name, *shape), places in groups.items():
        windows = np.frombuffer(b"".join([events[at].values for at in places]), "<f4").reshape(-1, *shape)
        finite = np.isfinite(windows).all(axis=(1, 2))
        if not finite.all():
            for at in np.flatnonzero(~finite).tolist():
                stands(places[at], decide.NOT_FINITE)
            places, windows = [places[at] for at in np.flatnonzero(finite).tolist()], windows[finite]
        scorer = shelf.heavy(model_name)
        if scorer is None:
            for at in places:
                stands(at, decide.NO_MODEL)
            continue
        threshold, version, sha256 = scorer.threshold, scorer.manifest.version, scorer.package.sha256
        for at, score in zip(places, _scores(scorer, windows, [events[at].device_id for at in places]), strict=True):
            if isinstance(score, str):
                stands(at, score)
                continue
            event = events[at]
            decided_at = event.decided_at if now is None else now
            out[at] = decide.by_heavy_model(event, score, threshold, version, sha256, decided_at)
    return [out[at] for at in range(len(events))]


def judge_audits(
    blocks: Sequence[SensorBlock], shelf: Shelf, now_us: Callable[[], int] | None = None
) -> list[Evidence]:
    """What the heavy model says of windows that the edge had answered alone. Unusable ones tell nothing.

    `now_us` as for `judge_events`; None dates each by its newest reading.
    """
    out = []
    groups: dict[tuple[str, tuple[int, ...]], list[SensorBlock]] = defaultdict(list)
    for block in blocks:
        if block.model_name is not None and block.event_times and np.isfinite(block.matrix).all():
            groups[block.model_name, block.matrix.shape].append(block)
    for (model_name, _), group in groups.items():
        scorer = shelf.heavy(model_name)
        if scorer is None:
            continue
        scores = _scores(scorer, np.stack([block.matrix for block in group]), [block.device_id for block in group])
        now = now_us() if now_us else None
        for block, score in zip(group, scores, strict=True):
            if isinstance(score, str):
                continue
            at_us = int(block.times.max()) if now is None else now
            version = block.thresholds_version or 0
            anomalous = score >= scorer.threshold
            out.append(of_audit(block.device_id, model_name, version, block.identity.event_id, anomalous, at_us))
    return out


def _scores(scorer: Scorer, windows: Floats, devices: Sequence[str]) -> list[float | str]:
    """Score of each window, or why it has none. A call that fails is tried again window by window."""
    if not devices:
        return []
    try:
        scores: list[float | str] = scorer.score(windows, devices).tolist()
        return scores
    except Exception as failed:  # one window must not end the job, nor keep the others of its chunk from an answer
        if not isinstance(failed, ModelError):
            log.warning("the heavy model %s failed: %s: %s", scorer.manifest.name, type(failed).__name__, failed)
        scores = [_score(scorer, windows[at : at + 1], device) for at, device in enumerate(devices)]
    refused = [why for why in scores if isinstance(why, str)]
    if refused:
        log.warning("the heavy model %s refused %d windows: %s", scorer.manifest.name, len(refused), refused[0])
    return scores


def _score(scorer: Scorer, window: Floats, device: str) -> float | str:
    try:
        return float(scorer.score(window, [device])[0])
    except ModelError as why:
        return str(why)[:500]
    except Exception as failed:  # as above
        return f"{type(failed).__name__}: {failed}"[:500]
