"""The one Kafka source, for every topic and every runner.

A parked splittable DoFn emits one key per shard and sleeps for good; a keyed stateful DoFn per shard is woken by a
processing-time timer on a grid, keeps (offset, watermark) of its partitions in state, takes what the process-wide
feed has read ahead, and holds the watermark back with the timer's output timestamp. Measured reasons for this form
(an unbounded source, or any DoFn that defers itself, leaks checkpoint bytes on Flink and loses late data on Prism)
are in docs/adr. A shard owns many partitions (number modulo shards), so a tick costs the same for one partition as
for sixty-four, and partitions that appear later are picked up by their shard without a restart.

In order: parked.py starts the shards, loop.py is the loop of one, shard.py what it keeps in state.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam

from pipelines.io.chunk import Chunk
from pipelines.io.feed_config import FeedConfig
from pipelines.io.flow import FlowConfig
from pipelines.io.loop import EventTime, Identify, Loop, SourceConfig, append_time
from pipelines.io.parked import Park
from pipelines.io.watermark import WatermarkRule
from schemas.librdkafka import Library


class ReadFromKafka(beam.PTransform):
    """Topics to a PCollection[Chunk], timestamped with the earliest event time of each chunk.

    Args:
        topics, bootstrap_servers, group_id, client, library, start_deadline_s, outage_grace_s: see FeedConfig.
        branches, lanes, exact: who must answer for a chunk before its offsets are committed, and of which topics they
            are committed with the answers; see FlowConfig. All empty:
            nothing is committed, for runners that keep the offsets in checkpoints of their own.
        disorder_s, idle_s, future_s: see WatermarkRule.
        event_time: record -> us since 1970. A record for which it raises still travels, and moves no watermark.
        identity:   record -> identity, or None for "do not dedupe this one". None: nothing is deduped.
        warm_up_records: of each partition, read again before the committed offset to know what was seen already, where
            no earlier run has kept that in `memory_topic`, a topic like schemas.topics.SEEN; empty: nothing is kept.

    Both callables must be module-level functions: they travel to the workers by name.
    """

    def __init__(
        self,
        topics: Iterable[str],
        bootstrap_servers: str,
        group_id: str | None = None,
        *,
        branches: Iterable[str] = (),
        lanes: Mapping[str, float] | None = None,
        exact: Iterable[str] = (),
        event_time: EventTime = append_time,
        identity: Identify | None = None,
        disorder_s: float = 2.0,
        idle_s: float | None = 1.0,
        future_s: float = 1.0,
        grid_s: float = 0.05,
        eager: bool = True,
        shards: int = 1,
        max_chunk: int = 1_000,
        warm_up_records: int = 2_000,
        memory_topic: str = "",
        start_deadline_s: float | None = None,
        outage_grace_s: float = 5.0,
        client: Mapping[str, Any] | None = None,
        library: Library = "kafka-python",
    ) -> None:
        super().__init__()
        names = tuple(dict.fromkeys(topics))
        feed = FeedConfig(
            topics=names,
            bootstrap_servers=bootstrap_servers,
            group_id=group_id,
            client=dict(client or {}),
            library=library,
            start_deadline_s=start_deadline_s,
            outage_grace_s=outage_grace_s,
            warm_up_records=warm_up_records if identity is not None else 0,
            memory_topic=memory_topic if identity is not None else "",
        )
        self.flow = f"{'+'.join(names)}-{uuid.uuid4().hex[:12]}"
        self.config = SourceConfig(
            flow=FlowConfig(
                name=self.flow,
                feed=feed,
                branches=tuple(branches),
                lanes={lane: round(late_s * 1e6) for lane, late_s in (lanes or {}).items()},
                exact=tuple(exact),
            ),
            rule=WatermarkRule(
                disorder_us=round(disorder_s * 1e6),
                idle_us=None if idle_s is None else round(idle_s * 1e6),
                future_us=round(future_s * 1e6),
            ),
            event_time=event_time,
            identity=identity,
            grid_s=grid_s,
            eager=eager,
            shards=shards,
            max_chunk=max_chunk,
        )

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection[Chunk]:
        """Impulse -> one key per shard -> chunks."""
        return (
            pbegin
            | "Start" >> beam.Create([b""])
            | "Park" >> beam.ParDo(Park(self.config.shards)).with_output_types(tuple[bytes, bytes])
            | "Loop" >> beam.ParDo(Loop(self.config)).with_output_types(Chunk)
        )
