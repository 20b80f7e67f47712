"""A whole edge process: parts, ports and shell put together; live against a broker, or offline over recordings."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Sequence
from importlib import metadata
from pathlib import Path

from edge_filters.assemble import assemble, build_scorer
from edge_filters.blocks import Block
from edge_filters.claims import begin, lease_of
from edge_filters.config import PRODUCER_ONLY, EdgeConfig, Kafka
from edge_filters.device import Device, Rules, Slot
from edge_filters.engine import Engine
from edge_filters.io.files import FileOutbox, edge_package
from edge_filters.io.sensors import RecordedSensor
from edge_filters.io.spool import FileSpool
from edge_filters.io.state import FileStore
from edge_filters.ports import Inbox, Outbox, Sensor, Spool
from edge_filters.shell import Limits, Shell, wall_us
from edge_filters.telemetry import hanging, readiness, readings
from edge_filters.updates import HashTrust, ModelUpdates
from schemas.container import read
from schemas.errors import ConfigError, DecodeError, exit_code
from schemas.probes import STARTING, Page, alive
from schemas.records import SensorBlock

log = logging.getLogger("edge_filters")


def run_edge(config: EdgeConfig, stop: threading.Event) -> int:
    """Run until the sensors end or `stop` is set. Returns the exit code: that of the first sensor that failed, or 0.

    Raises:
        ConfigError: something that the configuration names does not fit.
        MissingToolError: the Kafka client that it names is not installed.
        SpoolError: the disk failed, or another process has the spool.
        LeaseError: another process acts for one of the devices, or began to.
    """
    if config.http is None:
        return _run(config, stop, {})
    from edge_filters.io.http import HttpServer  # asyncio and prometheus-client: 3 MB that not everybody wants

    pages: dict[str, Callable[[], Page]] = {"/livez": lambda: alive(""), "/readyz": STARTING.page}
    server = HttpServer(config.http.host, config.http.port, pages)
    try:
        log.info("metrics and probes are on http://%s:%d", server.host, server.port)
        return _run(config, stop, pages)
    finally:
        server.close()


def _run(config: EdgeConfig, stop: threading.Event, pages: dict[str, Callable[[], Page]]) -> int:
    spool = FileSpool(
        config.spool_path,
        max_bytes=config.spool.max_bytes,
        fsync=config.spool.fsync,
        fsync_every_s=config.spool.fsync_every / 1e6,
    )
    try:
        store = FileStore(config.edge.state_dir)
        parts = assemble(config, 0, store)
        outbox, inbox = connect(config.kafka, parts.engine.devices)
    except BaseException:  # whatever ends it: the spool has to be free for the next start
        spool.close()
        raise
    try:
        lease = lease_of(parts.engine.devices, config.edge.id, store)
        epoch, heard = begin(lease, store, inbox, outbox, stop, wall_us, leftovers=spool.waiting_records > 0)
    except BaseException:  # as above
        inbox.close()
        outbox.close(1.0)
        spool.close()
        raise
    for each in parts.engine.devices.values():
        each.boot_epoch = epoch
    for notice in parts.notices:
        log.info(notice)
    if spool.waiting_records:
        log.info("%d records of an earlier run wait in the spool", spool.waiting_records)
    for key, count in spool.waiting_by_key.items():
        device = parts.engine.devices.get(key.decode(errors="replace"))
        if device is not None:
            device.counters["records_enqueued"] += count
    limits = Limits(status_every_s=config.status.every / 1e6)
    shell = Shell(parts.engine, parts.sensors, spool, outbox, inbox, store, limits, lease=lease, heard=heard)
    if config.http is not None:
        pages |= _pages(shell, config.edge.id)
    log.info("%d device(s) run", len(parts.sensors))
    shell.run(stop)
    if lease.lost is not None:
        raise lease.lost
    totals = _totals(parts.engine)
    log.info(
        "stopped: %d readings sensed, %d windows scored, %d escalated, %d records acknowledged",
        totals["readings_sensed"],
        totals["windows_scored"],
        totals["windows_escalated"],
        totals["records_acked"],
    )
    return exit_code(shell.failures[0]) if shell.failures else 0


def _pages(shell: Shell, edge_id: str) -> dict[str, Callable[[], Page]]:
    """What the process answers to a scraper and to an orchestrator."""
    from schemas.exposition import CONTENT_TYPE, expose

    engine, meters, version = shell.engine, shell.meters, _version()
    return {
        "/metrics": lambda: Page(expose(readings(engine, meters, edge_id, version)), CONTENT_TYPE),
        "/livez": lambda: alive(hanging(meters, time.monotonic())),
        "/readyz": lambda: readiness(engine, meters).page(),
    }


def _version() -> str:
    try:
        return metadata.version("tidegate")
    except metadata.PackageNotFoundError:  # used from a tree that is not installed
        return "unknown"


def connect(kafka: Kafka, devices: Collection[str] = ()) -> tuple[Outbox, Inbox]:
    """Both ends of the link, on the chosen library. Neither waits for the broker. Claims on `devices` are heard.

    Raises:
        MissingToolError: the library is not installed.
        ConfigError: a setting that it has no counterpart for.
    """
    where = (kafka.bootstrap_servers, kafka.topic_prefix)
    heard = {name: value for name, value in kafka.settings.items() if name not in PRODUCER_ONLY}
    if kafka.client == "confluent":  # loaded here, both: a third of a second that --check and offline runs save
        from edge_filters.io.confluent import ConfluentInbox, ConfluentOutbox

        return ConfluentOutbox(*where, kafka.settings), ConfluentInbox(*where, heard, devices)
    from edge_filters.io.kafka import KafkaInbox, KafkaOutbox

    return KafkaOutbox(*where, kafka.settings), KafkaInbox(*where, heard, devices)


def replay(
    recordings: Sequence[Path],
    model: Path,
    out: Path,
    *,
    audit_rate: float = 0.01,
    aggregate_us: int = 1_000_000,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Filter recordings offline, with their own event times, and write one Avro file per topic.

    Args:
        recordings: container files of SensorBlocks; the devices are those named in them.
        model: folder of the package that all of them run.
        out: folder for `edge.events.avro` and the others; what is there already is replaced.
        audit_rate: share of the answered windows that is sampled.
        aggregate_us: length of the aggregates' windows, microseconds.
        progress: told how many readings more were read, block by block.

    Returns:
        the ledger, summed over the devices.

    Raises:
        ModelError, DecodeError: a package or a recording that cannot be used. What was read before the damage of a
            recording has been filtered and written.
        ConfigError: channels of a recording are not those of the model.
    """
    package = edge_package(model)
    scorer = build_scorer(package)
    rules = Rules(audit_rate=audit_rate, aggregate_us=aggregate_us)
    slots: dict[str, Slot] = {}
    devices: list[Device] = []
    sensors: dict[str, Sensor] = {}
    for path in recordings:
        for device_id, cohort in _devices_in(path).items():
            if device_id in sensors:
                raise ConfigError("two recordings hold the same device", device=device_id, recording=str(path))
            sensor = RecordedSensor(
                device_id,
                path,
                speed=None,
                keep_times=True,
                max_readings=package.manifest.window_readings,
                device=device_id,
            )
            if list(sensor.channels) != package.manifest.channels:
                raise ConfigError(
                    "the recording does not fit the model",
                    device=device_id,
                    recording=list(sensor.channels),
                    model=package.manifest.channels,
                )
            cohort = cohort or package.manifest.cohort
            if cohort not in slots:
                slots[cohort] = Slot(
                    scorer, cohort, ModelUpdates(package, cohort, package.manifest.channels, HashTrust())
                )
            devices.append(Device(device_id, cohort, 1, slots[cohort], rules))
            sensors[device_id] = sensor
    engine = Engine(devices, rules)
    clock = _EventClock()
    clocked: dict[str, Sensor] = {device_id: _Clocked(sensor, clock, progress) for device_id, sensor in sensors.items()}
    folder = Path(tempfile.mkdtemp(prefix="tidegate-replay-"))
    try:
        spool: Spool = FileSpool(folder / "spool", max_bytes=256 * 1024 * 1024, fsync="never")
        outbox: Outbox = FileOutbox(out)
        shell = Shell(engine, clocked, spool, outbox, None, None, Limits(), clock)
        shell.run(threading.Event())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if shell.failures:
        raise shell.failures[0]
    return _totals(engine)


class _EventClock:
    """The latest event time that was read: the same on every run, so that a replay gives the same bytes twice."""

    def __init__(self) -> None:
        self.latest_us = 0

    def __call__(self) -> int:
        return self.latest_us


class _Clocked:
    """A sensor that moves an event clock."""

    can_wait = True

    def __init__(self, sensor: Sensor, clock: _EventClock, progress: Callable[[int], None] | None) -> None:
        self._sensor, self._clock, self._progress = sensor, clock, progress
        self.channels = sensor.channels
        self.start, self.due_s, self.close = sensor.start, sensor.due_s, sensor.close

    def read(self) -> Block | None:
        block = self._sensor.read()
        if block is not None:
            self._clock.latest_us = max(self._clock.latest_us, int(block.times.max()))
            if self._progress is not None:
                self._progress(len(block.times))
        return block


def _devices_in(path: Path) -> dict[str, str]:
    """Devices of a recording with their cohorts, in the order in which they first appear."""
    found: dict[str, str] = {}
    try:
        with path.open("rb") as file:
            for record in read(file, SensorBlock):
                assert isinstance(record, SensorBlock)
                found.setdefault(record.device_id, record.cohort)
    except DecodeError as wrong:
        if not found:
            raise DecodeError(wrong.problem, fix=wrong.fix, **({"recording": str(path)} | wrong.where)) from wrong
    except OSError as cause:
        raise DecodeError("the recording cannot be read", recording=str(path), cause=cause.strerror) from cause
    if not found:
        raise DecodeError("the recording is empty", recording=str(path))
    return found


def _totals(engine: Engine) -> dict[str, int]:
    totals: dict[str, int] = {}
    for device in engine.devices.values():
        for name, value in device.counters.items():
            totals[name] = totals.get(name, 0) + value
    return totals
