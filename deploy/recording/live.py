"""A recording as live devices: the edge engine on the recording's readings, with the broker on its other side."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import records
from deploy.recording.progress import Progress
from deploy.recording.span import ALL, Span, blocks
from deploy.replay import assign, cut_to, is_recorded_topics, readings_in, recordings_in
from edge_filters.assemble import build_scorer
from edge_filters.blocks import Block
from edge_filters.device import Device, Rules, Slot
from edge_filters.engine import Engine
from edge_filters.io.files import edge_package
from edge_filters.io.kafka import KafkaInbox, KafkaOutbox
from edge_filters.io.sensors import RecordedSensor
from edge_filters.io.signals import SignalledEvent
from edge_filters.io.spool import FileSpool
from edge_filters.ports import Sensor
from edge_filters.shell import Limits, Shell
from edge_filters.updates import HashTrust, ModelUpdates
from schemas import topics
from schemas.codec import decode
from schemas.errors import ConfigError, DecodeError, UnavailableError, exit_code
from schemas.records import DeviceStatus, Health

#: A device that reported within this long and did not say good-bye counts as running; devices report every 5 s.
RUNNING_US = 30_000_000
#: How long the end waits until the broker has acknowledged everything.
DRAIN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSettings:
    """How to send. `speed`: None is as fast as the broker takes it; `window_us`: of the aggregates."""

    bootstrap_servers: str
    models: Sequence[Path]
    prefix: str = ""
    span: Span = ALL
    speed: float | None = 1.0
    keep_times: bool = False
    boot_epoch: int | None = None
    window_us: int | None = None
    audit_rate: float = 0.01
    feedback: bool = True
    quiet: bool = False


def replay_live(inputs: Sequence[Path], settings: LiveSettings) -> dict[str, Any]:
    """Send until the recordings end or a signal comes; what was filtered by then is sent. Returns the report.

    Raises: ConfigError: models, span or times do not fit, or a device of that name runs. UnavailableError: no broker,
    no topics, or it did not take everything. DecodeError, ModelError: a file is not what it should be.
    """
    if settings.speed is None and not settings.keep_times:
        raise ConfigError(
            "event times cannot be moved to now at --speed max: they would run ahead of the clock",
            fix="give a speed such as 100x, or --times recorded",
        )
    if topic_folder := next((path for path in inputs if is_recorded_topics(path)), None):
        raise ConfigError(
            "recorded topics hold what an edge sent already, and only readings can be replayed live",
            folder=str(topic_folder),
            fix="give the recording of readings, or leave --kafka out to decide the topics again",
        )
    if not settings.models:
        raise ConfigError("no model is named", fix="name packages with --models; `tidegate train` makes one")
    known = known_epochs(settings.bootstrap_servers, settings.prefix)
    recordings = recordings_in(inputs)
    groups = assign(recordings, settings.models)
    started_s = time.monotonic()
    with cut_to(recordings, settings.span) as parts, _spool() as spool:
        cut = {model: [parts[path] for path in chosen if path in parts] for model, chosen in groups.items()}
        total = readings_in(list(parts)) if settings.span.is_all else None
        what = f"sending {len(parts)} recording(s) to {settings.bootstrap_servers}"
        with Progress(what, total, "readings", quiet=settings.quiet) as progress:
            engine, sensors = _engine(cut, settings, known, progress.advance)
            shell = Shell(
                engine,
                sensors,
                spool,
                KafkaOutbox(settings.bootstrap_servers, settings.prefix),
                KafkaInbox(settings.bootstrap_servers, settings.prefix) if settings.feedback else None,
                None,
                Limits(drain_s=DRAIN_S),
            )
            stop = SignalledEvent()
            before = {n: signal.signal(n, lambda *_: stop.set()) for n in (signal.SIGINT, signal.SIGTERM)}
            try:
                shell.run(stop)
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
    totals = _totals(engine)
    unsent = totals["records_enqueued"] - totals["records_acked"] - totals["records_dropped"]
    if unsent:
        raise UnavailableError(
            "the broker did not take everything",
            broker=settings.bootstrap_servers,
            records=unsent,
            waited_s=DRAIN_S,
            fix="what is missing is lost to this replay; see its log, and replay again",
        )
    return {
        "seconds": round(time.monotonic() - started_s, 2),
        "stopped": stop.is_set(),
        "devices": {d.device_id: d.boot_epoch for d in engine.devices.values()},
        "ledger": totals,
        "failures": [str(failure) for failure in shell.failures],
        "exit_code": exit_code(shell.failures[0]) if shell.failures else 0,
    }


def known_epochs(bootstrap_servers: str, prefix: str) -> dict[str, tuple[int, bool]]:
    """Newest boot epoch of each device in the status topic, and whether it runs now. Raises UnavailableError."""
    newest: dict[str, tuple[DeviceStatus, int]] = {}
    for message in records.messages(bootstrap_servers, [topics.STATUS.named(prefix)]):
        try:
            status = decode(message.value or b"", DeviceStatus)
        except DecodeError:
            continue
        seen = newest.get(status.device_id)
        if seen is None or (status.boot_epoch, status.seq) >= (seen[0].boot_epoch, seen[0].seq):
            newest[status.device_id] = status, message.timestamp
    now_us = time.time_ns() // 1000
    return {
        device: (status.boot_epoch, status.health is not Health.STOPPED and now_us - stamped_ms * 1000 < RUNNING_US)
        for device, (status, stamped_ms) in newest.items()
    }


def text_of(report: dict[str, Any], say: Callable[[str], None]) -> None:
    """The report for people."""
    ledger = report["ledger"]
    for failure in report["failures"]:
        say(f"failed: {failure}")
    epochs = ", ".join(f"{device} (boot epoch {epoch})" for device, epoch in report["devices"].items())
    say(f"sent as {epochs}")
    say(
        f"{ledger['readings_sensed']:,} readings, {ledger['windows_scored']:,} windows scored, "
        f"{ledger['windows_escalated']:,} escalated, {ledger['records_acked']:,} records acknowledged "
        f"in {report['seconds']:.1f} s" + (" (stopped)" if report["stopped"] else "")
    )


class _Counted:
    """A sensor that says how many readings it gave."""

    def __init__(self, sensor: RecordedSensor, progress: Callable[[int], None]) -> None:
        self._sensor, self._progress = sensor, progress
        self.channels, self.can_wait = sensor.channels, sensor.can_wait
        self.start, self.due_s, self.close = sensor.start, sensor.due_s, sensor.close

    def read(self) -> Block | None:
        block = self._sensor.read()
        if block is not None:
            self._progress(len(block.times))
        return block


def _engine(
    groups: dict[Path, list[Path]],
    settings: LiveSettings,
    known: dict[str, tuple[int, bool]],
    progress: Callable[[int], None],
) -> tuple[Engine, dict[str, Sensor]]:
    rules = Rules(audit_rate=settings.audit_rate, aggregate_us=settings.window_us or 1_000_000)
    devices: list[Device] = []
    sensors: dict[str, Sensor] = {}
    for model, recordings in groups.items():
        package = edge_package(model)
        scorer = build_scorer(package)
        slots: dict[str, Slot] = {}
        for path in recordings:
            for device_id, cohort in _devices(path).items():
                if device_id in sensors:
                    raise ConfigError("two recordings hold the same device", device=device_id, recording=path.name)
                sensor = RecordedSensor(
                    device_id,
                    path,
                    speed=settings.speed,
                    keep_times=settings.keep_times,
                    max_readings=package.manifest.window_readings,
                    device=device_id,
                )
                cohort = cohort or package.manifest.cohort
                if cohort not in slots:
                    updates = ModelUpdates(package, cohort, package.manifest.channels, HashTrust())
                    slots[cohort] = Slot(scorer, cohort, updates)
                epoch = _epoch(device_id, settings, known)
                devices.append(Device(device_id, cohort, epoch, slots[cohort], rules))
                sensors[device_id] = _Counted(sensor, progress)
    return Engine(devices, rules), sensors


def _epoch(device_id: str, settings: LiveSettings, known: dict[str, tuple[int, bool]]) -> int:
    """One more than was ever seen: to the pipeline, lower numbers are records that it had already."""
    epoch, runs = known.get(device_id, (0, False))
    if runs:
        raise ConfigError(
            "a device of that name is running; a replay would take its place",
            device=device_id,
            boot_epoch=epoch,
            fix=f"stop it first, or wait {RUNNING_US // 1_000_000} s after its last report",
        )
    chosen = settings.boot_epoch or epoch + 1
    if chosen <= epoch:
        raise ConfigError(
            "the pipeline would take every record for one that it had already",
            device=device_id,
            boot_epoch=chosen,
            known=epoch,
            fix=f"leave --boot-epoch out, or give at least {epoch + 1}",
        )
    return chosen


def _devices(path: Path) -> dict[str, str]:
    """Devices of a recording with their cohorts; of a damaged one, those before the damage."""
    found: dict[str, str] = {}
    try:
        for block in blocks(path):
            found.setdefault(block.device_id, block.cohort)
    except DecodeError:
        if not found:
            raise
    return found


@contextmanager
def _spool() -> Iterator[FileSpool]:
    folder = Path(tempfile.mkdtemp(prefix="tidegate-replay-"))
    try:
        yield FileSpool(folder / "spool", max_bytes=256 * 1024 * 1024, fsync="never")  # the shell closes it
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _totals(engine: Engine) -> dict[str, int]:
    totals: dict[str, int] = {}
    for device in engine.devices.values():
        for name, value in device.counters.items():
            totals[name] = totals.get(name, 0) + value
    return totals
