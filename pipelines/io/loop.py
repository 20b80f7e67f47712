"""The loop of one shard of a source: a processing-time timer that takes what was read ahead, and sets itself again.

Python's Beam has no public way to set the output timestamp of a processing-time timer; `_hold_watermark` uses the
private attribute that Beam itself uses. Beam is pinned, and tests/unit/pipelines/io/test_source.py guards it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from pipelines import refusal
from pipelines.dedupe import Dedupe, Seen
from pipelines.io import flow as flows
from pipelines.io.chunk import Chunk, Record
from pipelines.io.feed_config import Start
from pipelines.io.flow import Flow, FlowConfig
from pipelines.io.memory import Keeper
from pipelines.io.partition import Partition
from pipelines.io.readahead import Taken
from pipelines.io.shard import At, ShardState
from pipelines.io.trail import Step, trail
from pipelines.io.watermark import UNKNOWN_US, WatermarkRule
from schemas.errors import ConfigError
from schemas.ids import Identity

EventTime = Callable[[Record], int]
Identify = Callable[[Record], Identity | None]

#: What is not new and no resend either -> why it is put away.
_REFUSED = {Seen.OTHER_PAYLOAD: refusal.OTHER_PAYLOAD, Seen.WENT_BACK: refusal.WENT_BACK}
#: Deltas of the dedupe state before it is written anew as one snapshot.
COMPACT_AFTER = 512


def append_time(record: Record) -> int:
    """Default event time: when the broker appended the record, us."""
    return record.append_time_ms * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """How the source ticks and cuts. Times in seconds.

    grid_s:           shards tick at multiples of this; a busy one ticks again at once when `eager`.
    eager:            right on Prism; wrong on Flink, which moves the watermark between bundles only.
    shards:           keys that share the partitions out; 1 unless the runner has many workers.
    max_chunk:        records per chunk.
    max_chunk_bytes:  of payload per chunk; a single larger record passes.
    """

    flow: FlowConfig
    rule: WatermarkRule
    event_time: EventTime = append_time
    identity: Identify | None = None
    grid_s: float = 0.05
    eager: bool = True
    shards: int = 1
    max_chunk: int = 1_000
    max_chunk_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        if not 0.005 <= self.grid_s <= 10.0:
            raise ConfigError("the source's grid must be in [0.005, 10] seconds", got=self.grid_s)
        if self.shards < 1 or self.max_chunk < 1:
            raise ConfigError("the source needs at least one shard and one record per chunk", shards=self.shards)


#: (flow, shard) -> (serial, dedupe): what a tick would otherwise rebuild from state. Valid for one serial only.
_SEEN: dict[tuple[str, bytes], tuple[int, Dedupe]] = {}


#: Flow -> who keeps what its dedupe knows.
_KEEPERS: dict[str, Keeper] = {}


def safe_below(
    safe: Mapping[Partition, int], starts: Mapping[Partition, Start], read: Mapping[Partition, int]
) -> dict[Partition, int]:
    """Below which offsets everything is answered and the dedupe knows it: it must have read what warms it up."""
    return {p: at for p, at in safe.items() if p in starts and read.get(p, -1) >= starts[p].live_from}


class Loop(beam.DoFn):
    """One shard's loop: tick, take, emit, hold, again."""

    STATE = ReadModifyWriteStateSpec("at", BytesCoder())
    SEEN = BagStateSpec("seen", BytesCoder())
    TIMER = TimerSpec("tick", TimeDomain.REAL_TIME)

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        self._records = Metrics.counter("source", "records")
        self._duplicates = Metrics.counter("source", "duplicates")
        self._forgotten = Metrics.counter("source", "unverified_duplicates")
        self._diverged = {reason: Metrics.counter("source", f"diverged.{reason}") for reason in _REFUSED.values()}
        self._implausible = Metrics.counter("source", "implausible_event_times")
        self._unreadable = Metrics.counter("source", "unreadable_records")
        self._lost = Metrics.counter("source", "lost_records")

    def process(
        self,
        element: tuple[bytes, bytes],
        state: Any = beam.DoFn.StateParam(STATE),
        timer: Any = beam.DoFn.TimerParam(TIMER),
    ) -> None:
        """The first and only element of a shard: set the timer going."""
        state.write(ShardState().encode())
        self._arm(timer, UNKNOWN_US, busy=False)

    @on_timer(TIMER)
    def tick(
        self,
        key: Any = beam.DoFn.KeyParam,
        state: Any = beam.DoFn.StateParam(STATE),
        seen: Any = beam.DoFn.StateParam(SEEN),
        timer: Any = beam.DoFn.TimerParam(TIMER),
    ) -> Iterator[TimestampedValue]:
        """Hand out what the feed has for this shard's partitions."""
        flow = flows.flow(self._config.flow)
        saved = state.read()
        shard = ShardState.decode(saved) if saved else ShardState()
        if flow.stopping:
            self._arm(timer, shard.hold_us(), busy=False)
            return
        before = ShardState(shard.serial, shard.deltas, dict(shard.at))
        starts = self._own(flow.feed.starts(), key)
        dedupe = self._dedupe(key, shard, seen)
        busy = False
        watched = trail()
        for partition, start in starts.items():
            if partition not in shard.at:
                shard.at[partition] = At(start.offset, self._first_watermark(start, before))
                if dedupe is not None:
                    self._learn(partition, start, dedupe)
                if flow.ledger is not None:
                    flow.ledger.begin(partition, start.live_from, start.resume)
            offset, most = shard.at[partition].offset, self._config.max_chunk
            if watched is not None:
                most = watched.most(partition, offset, most)
            taken = flow.feed.take(partition, offset, most, self._config.max_chunk_bytes)
            busy = busy or taken.more
            if watched is not None and taken.records:
                watched.at(Step(*partition, taken.records[0].offset, taken.end, len(taken.records)))
            kills = () if watched is None else watched.kills(partition)
            chunk, event_us = self._advance(flow, shard, partition, start, taken, dedupe, kills)
            if chunk is not None:
                yield TimestampedValue(chunk, Timestamp(micros=event_us))
            if watched is not None and taken.records:
                watched.done()
        if dedupe is not None and flow.ledger is not None and (keeper := self._keeper()) is not None:
            ledger = flow.ledger
            keeper.turn(
                dedupe,
                lambda: safe_below(
                    {p: standing.safe for p, standing in ledger.standing().items()},
                    starts,
                    {p: at.offset for p, at in shard.at.items()},
                ),
            )
        if shard.at != before.at:
            shard.serial += 1
            if dedupe is not None:
                self._save(key, shard, seen, dedupe)
            state.write(shard.encode())
        self._arm(timer, shard.hold_us(), busy)

    def _learn(self, partition: Partition, start: Start, dedupe: Dedupe) -> None:
        """What earlier runs knew of a partition."""
        for device, last in start.known.items():
            dedupe.learn(partition.topic, device, last)
        if start.known and (keeper := self._keeper()) is not None:
            keeper.knew(partition, start.known)

    def _keeper(self) -> Keeper | None:
        """Who keeps what the dedupe knows, where there is a topic for it and offsets that are ours to commit."""
        feed, name = self._config.flow.feed, self._config.flow.name
        if not feed.memory_topic or feed.group_id is None or not self._config.flow.commits:
            return None
        found = _KEEPERS.get(name)
        if found is None:
            found = _KEEPERS[name] = Keeper(feed.group_id, feed.memory_topic, feed.producer)
        return found

    def _own(self, starts: Mapping[Partition, Start], key: bytes) -> dict[Partition, Start]:
        """This shard's part of the partitions, in order."""
        if self._config.shards == 1:
            return dict(sorted(starts.items()))
        mine = int(key)
        return {p: s for p, s in sorted(starts.items()) if p.number % self._config.shards == mine}

    @staticmethod
    def _first_watermark(start: Start, before: ShardState) -> int:
        """Watermark of a partition that a shard meets for the first time.

        A partition that was added to a running shard starts at what the shard stands for already; one of a resumed
        run at the closed horizon, so that no closed window opens again.
        """
        horizon_us = max((at for _, at in start.resume.horizons), default=UNKNOWN_US)
        return max(horizon_us, before.hold_us()) if before.at else horizon_us

    def _advance(
        self,
        flow: Flow,
        shard: ShardState,
        partition: Partition,
        start: Start,
        taken: Taken,
        dedupe: Dedupe | None,
        kills: Collection[int] = (),
    ) -> tuple[Chunk | None, int]:
        """Move one partition by what was taken; the chunk to emit, if any, and its event time in us.

        `kills`: offsets of records that are not to be looked at.
        """
        rule = self._config.rule
        offset, watermark_us = shard.at[partition]
        now_us = time.time_ns() // 1000
        if not taken.records:
            if taken.nothing_unread_at_us is not None and not taken.settling:
                watermark_us = rule.after_silence(watermark_us, taken.nothing_unread_at_us)
            shard.at[partition] = At(taken.end, watermark_us)
            if flow.ledger is not None:
                flow.ledger.watermark(partition, watermark_us)
            if taken.lost_from < 0:
                return None, 0
            self._lost.inc(taken.end - taken.lost_from)
        times = []
        first_us = now_us
        for record in taken.records:
            at_us = record.append_time_ms * 1000 if record.offset in kills else self._event_us(record)
            first_us = min(first_us, at_us)
            if rule.plausible(at_us, record.append_time_ms, now_us):
                times.append(at_us)
            else:
                self._implausible.inc()
        records = taken.records
        refused: tuple[tuple[int, str], ...] = ()
        if dedupe is not None or kills:
            records, refused = self._only_new(partition, taken.records, dedupe, start, kills)
        after_us = watermark_us if taken.settling else rule.after_records(watermark_us, times)
        shard.at[partition] = At(taken.end, after_us)
        begin = max(offset, start.live_from)
        if taken.end <= start.live_from:
            return None, 0
        if offset < start.live_from:
            records = [r for r in records if r.offset >= start.live_from]
        name = self._config.flow.name
        chunk = Chunk(
            name, *partition, begin, taken.end, watermark_us, records, start.resume, taken.lost_from, refused
        )  # fmt: skip
        self._records.inc(len(records))
        if flow.ledger is not None:
            flow.ledger.register(partition, begin, taken.end, watermark_us)
            flow.ledger.watermark(partition, after_us)
            if not records and taken.lost_from < 0:
                flow.ledger.acknowledge_all(chunk.receipt)
        if not records and taken.lost_from < 0:
            return None, 0
        return chunk, max(0, first_us)

    def _event_us(self, record: Record) -> int:
        try:
            return self._config.event_time(record)
        except Exception:  # the callable sees bytes from outside; the decoder further on names what is wrong with them
            self._unreadable.inc()
            return record.append_time_ms * 1000

    def _only_new(
        self,
        partition: Partition,
        records: list[Record],
        dedupe: Dedupe | None,
        start: Start,
        kills: Collection[int],
    ) -> tuple[list[Record], tuple[tuple[int, str], ...]]:
        """What is handed on, and which of it only to be put away. What is there for warming up counts nowhere."""
        identify = self._config.identity
        if dedupe is not None:
            dedupe.from_the_beginning = start.whole
        out: list[Record] = []
        new: set[str] = set()
        refused: list[tuple[int, str]] = []
        duplicates = forgotten = 0
        for record in records:
            if record.offset in kills:
                out.append(record)
                refused.append((record.offset, refusal.KILLS))
                continue
            if identify is None or dedupe is None:
                out.append(record)
                continue
            try:
                identity = identify(record)
            except Exception:  # as above
                identity = None
            seen = (
                Seen.NEW
                if identity is None
                else dedupe.see(partition.topic, identity, record.value or b"", record.offset)
            )
            if identity is not None and seen is Seen.NEW:
                new.add(identity.device_id)
            if seen is Seen.NEW or record.retried:  # a dead letter is new, too, though its device has sent others since
                out.append(record)
                continue
            if record.offset < start.live_from:
                continue
            if reason := _REFUSED.get(seen):
                out.append(record)
                refused.append((record.offset, reason))
                self._diverged[reason].inc()
            else:
                duplicates += 1
                forgotten += seen is Seen.FORGOTTEN
        if new and (keeper := self._keeper()) is not None:
            keeper.saw(partition, new)
        if duplicates:
            self._duplicates.inc(duplicates)
        if forgotten:
            self._forgotten.inc(forgotten)
        return out, tuple(refused)

    def _dedupe(self, key: bytes, shard: ShardState, seen: Any) -> Dedupe | None:
        """The dedupe of this shard as of its serial: from the process, or rebuilt from state."""
        if self._config.identity is None:
            return None
        cached = _SEEN.pop((self._config.flow.name, key), None)
        if cached is not None and cached[0] == shard.serial:
            return cached[1]
        return Dedupe.restore(seen.read())

    def _save(self, key: bytes, shard: ShardState, seen: Any, dedupe: Dedupe) -> None:
        if shard.deltas >= COMPACT_AFTER:
            seen.clear()
            seen.add(dedupe.snapshot())
            shard.deltas = 1
        elif delta := dedupe.delta():
            seen.add(delta)
            shard.deltas += 1
        _SEEN[self._config.flow.name, key] = (shard.serial, dedupe)

    def _arm(self, timer: Any, hold_us: int, busy: bool) -> None:
        """Set the next tick: at once when records wait and the runner allows it, else at the next grid point."""
        _hold_watermark(timer, hold_us)
        now_us = time.time_ns() // 1000
        if busy and self._config.eager:
            timer.set(Timestamp(micros=now_us + 1000))
            return
        grid_us = round(self._config.grid_s * 1e6)
        timer.set(Timestamp(micros=((now_us + grid_us * 3 // 10) // grid_us + 1) * grid_us))


def _hold_watermark(timer: Any, hold_us: int) -> None:
    """Make the stage's watermark stand at `hold_us` until this timer has fired."""
    timer._input_timestamp = Timestamp(micros=hold_us)
