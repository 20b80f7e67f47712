"""The loop: sensors in, records out, feedback applied. The only place that waits and reads the clock; decides nothing.

Order within a turn: what is due is sensed and decided first, then spooled and sent; feedback, status and everything
else that can wait comes a few times a second. Nothing in it waits for the broker.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_filters.assemble import build_scorer, remember_package, remember_thresholds
from edge_filters.blocks import Block
from edge_filters.claims import Claims
from edge_filters.courier import Courier
from edge_filters.device import Device, Slot
from edge_filters.engine import Engine, Step
from edge_filters.lease import Lease
from edge_filters.outgoing import Parcel, pack, pack_status
from edge_filters.ports import Delivery, Feedback, Inbox, Outbox, Sensor, Spool, Store
from edge_filters.telemetry import Meters
from edge_filters.updates import Candidate
from schemas.errors import DecodeError, ModelError, SpoolError, TidegateError
from schemas.records import ArtifactChunk, DeviceClaim, EdgeEvent, Health, ModelUpdate, ThresholdUpdate
from schemas.scoring import Scorer
from schemas.sketch import Sketch
from schemas.tracing import feedback_trace

log = logging.getLogger("edge_filters")

TICK_S = 0.05
#: News of a device, such as applied thresholds, are told no sooner after its last status.
NEWS_S = 0.2
#: A broker that is away for less is not worth a sentence.
AWAY_S = 1.5
#: What goes on for long is said again after this.
SAY_AGAIN_S = 30.0
#: A sensor that can wait is left waiting above this share of the spool, or this many parcels.
ENOUGH_SPOOLED, ENOUGH_WAITING = 0.5, 20_000


def wall_us() -> int:
    """Microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


def _checked(block: Block, device_id: str) -> Block:
    """A block as the engine needs it, whatever somebody else's sensor calls a block. Raises ValueError, TypeError."""
    if block.device_id == device_id and block.times.dtype == np.int64 and block.values.dtype == np.float32:
        return block
    return Block(device_id, np.asarray(block.times, np.int64), np.asarray(block.values, np.float32))


def _trace_fields(item: object) -> dict[str, str]:
    """Log fields of a feedback message: the trace of the newest event that it stands on."""
    trace = feedback_trace(item.evidence) if isinstance(item, ThresholdUpdate) else None
    return {} if trace is None else {"trace_id": trace.trace_id, "span_id": trace.span_id}


@dataclass(slots=True)
class Limits:
    """How the loop behaves; the figures of a configuration."""

    status_every_s: float = 5.0
    drain_s: float = 10.0
    max_blocks: int = 64


class Shell:
    """Runs an engine on its ports. One thread, but for building models and writing state."""

    def __init__(
        self,
        engine: Engine,
        sensors: dict[str, Sensor],
        spool: Spool,
        outbox: Outbox,
        inbox: Inbox | None,
        store: Store | None,
        limits: Limits | None = None,
        clock: Callable[[], int] = wall_us,
        lease: Lease | None = None,
        heard: Iterable[Feedback | str] = (),
    ) -> None:
        """`inbox` and `store` are None where there is no feedback, as in a replay; then `clock` is event time.

        `lease`: begun by whoever starts the process; without one nothing is claimed. `heard`: what the inbox has given
        already.
        """
        self._lease, self._claims, self._heard = lease, Claims(outbox), list(heard)
        self._claimed = False
        self._clock = clock
        self.engine = engine
        self._sensors = sensors
        self._spool, self._outbox, self._inbox, self._store = spool, outbox, inbox, store
        self._limits = limits or Limits()
        self._courier = Courier(spool, outbox)
        self.meters = Meters(turned_s=time.monotonic())
        self._statuses: dict[str, Any] = {}
        self._told_s: dict[str, float] = {}
        self._builds: list[tuple[Slot, Candidate, Future[Scorer]]] = []
        self._saves: list[Future[None]] = []
        self._behind = ThreadPoolExecutor(1, "edge-behind")
        self._away_since: float | None = None
        self._said_away = False
        self._said_deaf = ""
        self._dropped, self._said_dropped_s = 0, -SAY_AGAIN_S
        self._decided = False
        self.failures: list[TidegateError] = []

    def run(self, stop: threading.Event) -> None:
        """Until every sensor has ended or `stop` is set; then everything open is closed, sent and acknowledged.

        Raises:
            SpoolError: the disk failed; what could be sent was sent.
        """
        Sketch.of(np.zeros((1, 1), np.float32))  # its tables take a moment, and the first window shall not wait for it
        gc.collect()
        gc.freeze()  # what is there now stays: the collector need not walk through it in the middle of a decision
        try:
            self._sense_until(stop)
        finally:
            try:
                self._finish()
            finally:
                self._close()

    # -- sensing --------------------------------------------------------------------------------------------------

    def _sense_until(self, stop: threading.Event) -> None:
        monotonic_s, started_us = time.monotonic(), wall_us()
        turns = itertools.count()  # who was read longest ago goes first among those that are due at once
        due: list[tuple[float, int, str]] = []
        for device_id, sensor in self._sensors.items():
            try:
                sensor.start(monotonic_s, started_us)
                self._plan(due, device_id, turns)
            except Exception as failed:  # as below
                self._sensor_failed(device_id, failed)
        next_tick = 0.0
        while due and not stop.is_set() and not self._is_lost:
            now = time.monotonic()
            blocks = self._due_blocks(due, now, turns)
            if blocks or self.engine.has_work:
                self._send(self.engine.step(blocks, self._clock))
                if blocks:
                    self.meters.step.observe(time.monotonic() - now)
                    self.meters.sensed = self._decided = True
            self._pump()
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + TICK_S
                self._tick(now)
            if due and not self.engine.has_work:
                wait_s = min(due[0][0], next_tick) - time.monotonic()
                if wait_s > 0:
                    stop.wait(wait_s)

    def _due_blocks(self, due: list[tuple[float, int, str]], now: float, turns: itertools.count[int]) -> list[Block]:
        blocks: list[Block] = []
        put_off: list[str] = []
        is_enough = bool(due) and due[0][0] <= now and self._is_enough()
        while due and due[0][0] <= now and len(blocks) < self._limits.max_blocks:
            _, _, device_id = heapq.heappop(due)
            sensor = self._sensors[device_id]
            if is_enough and sensor.can_wait:
                put_off.append(device_id)
                continue
            try:
                block = sensor.read()
                if block is not None:
                    blocks.append(_checked(block, device_id))
                self._plan(due, device_id, turns)
            except Exception as failed:  # a damaged recording, or code of somebody else
                self._sensor_failed(device_id, failed)
        for device_id in put_off:
            heapq.heappush(due, (now + TICK_S / 5, next(turns), device_id))
        return blocks

    def _plan(self, due: list[tuple[float, int, str]], device_id: str, turns: itertools.count[int]) -> None:
        at = self._sensors[device_id].due_s()
        if at is not None:
            heapq.heappush(due, (at, next(turns), device_id))

    def _is_enough(self) -> bool:
        return self._spool.fullness > ENOUGH_SPOOLED or self._spool.waiting_records > ENOUGH_WAITING

    def _sensor_failed(self, device_id: str, failed: Exception) -> None:
        error = failed if isinstance(failed, TidegateError) else None
        sentence = str(error) if error else f"the sensor failed: {type(failed).__name__}: {failed}"
        self.failures.append(error or DecodeError(sentence, device=device_id))
        device = self.engine.devices[device_id]
        device.problem, device.news = sentence, True
        log.error("%s: %s; this device is silent from now on, the others go on", device_id, sentence)

    # -- sending --------------------------------------------------------------------------------------------------

    def _send(self, step: Step) -> None:
        for notice in step.notices:
            log.warning(notice)
        if not step.records:
            return
        parcels: list[Parcel] = []
        for record in step.records:
            self.engine.devices[record.device_id].counters["records_enqueued"] += 1
            try:
                parcels.append(pack(record))
                if type(record) is EdgeEvent:
                    self.meters.decided(record)
            except DecodeError as too_large:
                log.error("%s: a record cannot be sent: %s", record.device_id, too_large)
                self.engine.devices[record.device_id].counters["records_dropped"] += 1
        self._courier.put(parcels)

    def _pump(self) -> None:
        courier = self._courier
        courier.pump()
        if courier.acked:
            self._count(courier.acked, "records_acked")
            self._count(courier.acked_bytes, "bytes_acked")
        if courier.refused:
            self._count(courier.refused, "records_dropped")
        if courier.notices:
            for notice in courier.notices:
                log.error(notice)
            courier.notices.clear()

    def _count(self, by_key: dict[bytes, int], counter: str) -> None:
        for key, count in by_key.items():
            device = self.engine.devices.get(key.decode(errors="replace"))
            if device is not None:  # the spool may still hold records of a device that was taken out
                device.counters[counter] += count
        by_key.clear()

    # -- now and then ---------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        self._send(self.engine.tick(self._clock))
        self._hear()
        self._claim()
        self._install()
        self._take_dropped(now)
        for notice in self._spool.take_notices():
            log.error(notice)
        self._watch_broker(now)
        self._note(now)
        self._tell(now)

    def _note(self, now: float) -> None:
        """For whoever asks how it goes, from another thread."""
        meters, courier, spool = self.meters, self._courier, self._spool
        meters.send_errors, meters.refused = courier.lost_total, courier.refused_total
        meters.spool_records, meters.spool_bytes = spool.waiting_records, spool.waiting_bytes
        meters.fullness, meters.spool = spool.fullness, spool.problem
        ready, why = self._outbox.ready, self._outbox.problem
        meters.broker = why or ("" if ready else "not connected")
        if self._inbox is not None:
            meters.feedback = self._inbox.problem or ("" if self._inbox.ready else "not caught up with the topics")
        meters.turned_s = now

    def _take_dropped(self, now: float) -> None:
        if dropped := self._spool.take_dropped():
            self._dropped += sum(dropped.values())
            self._count(dropped, "records_dropped")
        if self._dropped and now - self._said_dropped_s > SAY_AGAIN_S:
            self._said_dropped_s = now
            log.error(
                "the spool is full: its %d oldest records were dropped, bulk before urgent; "
                "raise spool.max_bytes, or bring the broker back",
                self._dropped,
            )
            self._dropped = 0

    @property
    def _is_lost(self) -> bool:
        return self._lease is not None and self._lease.lost is not None

    def _claim(self) -> None:
        """Claim the devices as soon as that can be heard, and answer whoever asks."""
        if self._lease is None or self._inbox is None or self._is_lost:
            return
        if not self._claimed and self._inbox.ready and self._inbox.hears_claims:
            self._claimed = True
            self._claims.put(self._lease.claims())
        self._claims.put(self._lease.answers())
        self._claims.pump()

    def _hear(self) -> None:
        if self._inbox is None:
            return
        heard, self._heard = self._heard, []
        for item in [*heard, *self._inbox.poll()]:
            now_us = self._clock()
            if isinstance(item, DeviceClaim):
                if self._lease is not None:
                    self._lease.hear(item)
                continue
            if isinstance(item, ThresholdUpdate):
                notices = self.engine.apply_thresholds(item, now_us)
                if notices and self._store is not None:
                    for device in self.engine.devices.values():
                        if device.news:
                            self._saves.append(self._behind.submit(remember_thresholds, device, self._store))
            elif isinstance(item, ModelUpdate):
                notices = self.engine.offer_model(item, now_us)
            elif isinstance(item, ArtifactChunk):
                notices = self.engine.add_chunk(item, now_us)
            else:
                notices = [item]
                for device in self.engine.devices.values():
                    device.counters["feedback_refused"] += 1
            where = _trace_fields(item)
            for notice in notices:
                log.info(notice, extra=where)
        self._inbox.want(self.engine.wanted)

    def _install(self) -> None:
        candidates, notices = self.engine.candidates(self._clock())
        for slot, candidate in candidates:
            self._builds.append((slot, candidate, self._behind.submit(build_scorer, candidate.package)))
        for build in [build for build in self._builds if build[2].done()]:
            self._builds.remove(build)
            slot, candidate, future = build
            try:
                scorer = future.result()
            except ModelError as wrong:
                notices += self.engine.refuse_model(slot, candidate.update, wrong, self._clock())
                continue
            notices += self.engine.install_model(slot, candidate, scorer, self._clock())
            if self._store is not None:
                self._saves.append(self._behind.submit(remember_package, self._store, candidate.package, slot.cohort))
        for save in [save for save in self._saves if save.done()]:
            self._saves.remove(save)
            if failed := save.exception():
                notices.append(f"applied, but not remembered over a restart: {failed}")
        for notice in notices:
            log.info(notice)

    def _watch_broker(self, now: float) -> None:
        problem = self._outbox.problem
        deaf = "" if problem or self._inbox is None else self._inbox.problem
        if deaf and deaf != self._said_deaf:
            log.warning("%s; the thresholds and models in force stay", deaf)
        self._said_deaf = deaf or self._said_deaf
        if not problem:
            if self._said_away:
                log.warning("the broker is back; %d records wait to be sent", self._spool.waiting_records)
            self._away_since, self._said_away = None, False
        elif self._away_since is None:
            self._away_since = now
        elif not self._said_away and now - self._away_since > AWAY_S:
            self._said_away = True
            log.warning("%s; deciding goes on, and records wait in the spool", problem)

    def _tell(self, now: float, health: Health = Health.OK) -> None:
        if not self._outbox.ready:
            return
        self._pending_statuses()
        problem = self._outbox.problem if self._said_away else ""
        problem = problem or self._spool.problem
        if not problem and self._spool.fullness > 0.9:
            problem = f"the spool is {self._spool.fullness:.0%} full"
        for device in self.engine.devices.values():
            since = now - self._told_s.get(device.device_id, -1e9)
            if since < (NEWS_S if device.news else self._limits.status_every_s) and health is not Health.STOPPED:
                continue
            if device.device_id in self._statuses and health is not Health.STOPPED:
                continue  # the one before is still on its way; the newest one is enough
            self._told_s[device.device_id] = now
            self._statuses[device.device_id] = self._outbox.send(pack_status(self._status(device, health, problem)))

    def _status(self, device: Device, health: Health, problem: str) -> Any:
        if health is Health.OK and not self._decided:
            health = Health.STARTING
        return device.status(health, self._clock(), self._spool.waiting_records, self._spool.waiting_bytes, problem)

    # -- the end --------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Close what is open, send it, wait for the acknowledgements and say good-bye.

        Where a device was lost nothing more is sent under its name: what was sensed last is lost as after a kill, and
        what is in the spool stays there.
        """
        if self._is_lost:
            log.error("nothing more is sent; %d records stay in the spool", self._spool.waiting_records)
            return
        self._send(self.engine.flush(self._clock))
        deadline = time.monotonic() + self._limits.drain_s
        self._wait(deadline, lambda: self._courier.idle)
        self._take_dropped(float("inf"))
        self._tell(time.monotonic(), Health.STOPPED)
        self._wait(deadline, lambda: not self._pending_statuses())
        if self._lease is not None and self._claimed:
            self._claims.put(self._lease.releases(self._clock()))
            self._wait(deadline, self._claims.pump)
        if waiting := self._spool.waiting_records:
            log.warning("%d records wait in the spool; they are sent after the next start", waiting)

    def _pending_statuses(self) -> bool:
        self._statuses = {
            device_id: receipt
            for device_id, receipt in self._statuses.items()
            if self._outbox.report(receipt).delivery is Delivery.PENDING
        }
        return bool(self._statuses)

    def _wait(self, deadline: float, done: Callable[[], bool]) -> None:
        while True:
            self._pump()
            now = time.monotonic()
            if done() or now >= deadline:
                return
            self._watch_broker(now)
            self._note(now)
            time.sleep(0.002)

    def _close(self) -> None:
        for sensor in self._sensors.values():
            try:
                sensor.close()
            except Exception as failed:  # code of somebody else, and we are going anyway
                log.warning("a sensor did not close: %s", failed)
        if self._inbox is not None:
            self._inbox.close()
        self._behind.shutdown(wait=True, cancel_futures=True)
        self._outbox.close(1.0)
        try:
            self._spool.close()
        except SpoolError as failed:
            log.error("the spool did not close: %s", failed)
