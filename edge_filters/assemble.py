"""Configuration to parts: packages loaded, models built, sensors opened, everything that does not fit said at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edge_filters.config import DeviceTable, EdgeConfig, Plugin, Recorded, SinkTable, Synthetic
from edge_filters.device import NO_GAP_US, Device, Rules, Slot
from edge_filters.engine import Engine
from edge_filters.io.files import edge_package
from edge_filters.io.onnx import OnnxRuntime
from edge_filters.io.sensors import RecordedSensor, SyntheticSensor, make_sensor
from edge_filters.outgoing import FromDevice
from edge_filters.plugins import DetectorScorer, NoUpdates, PluginSensor, add_feature, load, look_in, make
from edge_filters.ports import Sensor, Sink, SinkFactory, Store
from edge_filters.sinks import SinkRunner, TappedEngine
from edge_filters.updates import HashTrust, ModelUpdates, Trust
from schemas.codec import decode, encode
from schemas.errors import ConfigError, DecodeError, ModelError, TidegateError
from schemas.manifest import Manifest, Package, check_file, parse_manifest
from schemas.records import EdgeAggregate, EdgeEvent, SensorBlock, ThresholdUpdate
from schemas.scoring import Runtime, Scorer

MakeRuntime = Callable[[bytes], Runtime]
_RECORDS: dict[str, type[FromDevice]] = {"events": EdgeEvent, "aggregates": EdgeAggregate, "samples": SensorBlock}


@dataclass(slots=True)
class Parts:
    """What the shell runs."""

    engine: Engine
    sensors: dict[str, Sensor]
    notices: list[str]


def build_scorer(package: Package, make_runtime: MakeRuntime = OnnxRuntime) -> Scorer:
    """Scorer of the edge half. Raises ModelError: it does not load, does not fit, or fails its self-test."""
    return Scorer(package, "edge", make_runtime(package.files[package.manifest.edge.file]))


def rules_of(config: EdgeConfig) -> Rules:
    """The numbers that the engine filters by."""
    return Rules(
        max_gap_us=NO_GAP_US if config.window.max_gap is None else config.window.max_gap,
        max_wait_us=config.window.max_wait,
        aggregate_us=config.aggregate.window,
        audit_rate=config.audit.rate,
    )


def assemble(config: EdgeConfig, boot_epoch: int, store: Store | None = None, trust: Trust | None = None) -> Parts:
    """Load, build and open everything.

    Args:
        config: as read.
        boot_epoch: of this start.
        store: where accepted thresholds and models of earlier runs are; None: nothing is remembered.
        trust: verdict on model updates.

    Raises:
        ConfigError: packages or devices that cannot be used, all of them in one sentence each.
    """
    problems: list[str] = []
    notices: list[str] = []
    rules = rules_of(config)
    slots: dict[tuple[Path, str, str], Slot | None] = {}
    devices: list[Device] = []
    sensors: dict[str, Sensor] = {}
    packages: dict[Path, Package | None] = {}
    if config.plugins is not None:
        look_in(config.plugins.path)
    for name, feature in config.features.items():
        _try(partial(add_feature, name, feature.kind, feature.options), problems)
    for table in config.device:
        folder = config.model_of(table)
        if folder not in packages:
            packages[folder] = _try(partial(edge_package, folder), problems)
        package = packages[folder]
        if package is None:
            continue
        cohort = table.cohort or config.edge.cohort or package.manifest.cohort
        detector = config.detector_of(table)
        which = folder, cohort, "" if detector is None else detector.model_dump_json()
        if which not in slots:
            if detector is None:
                slots[which] = _slot(package, cohort, store, trust or HashTrust(), problems, notices)
            else:
                slots[which] = _detector_slot(package, cohort, detector, problems)
        slot = slots[which]
        if slot is None:
            continue
        sensor = _sensor(table, slot.scorer.manifest, problems)
        if sensor is None:
            continue
        device = Device(table.id, cohort, boot_epoch, slot, rules)
        if store is not None:
            _remember_thresholds(device, store, notices)
        if isinstance(sensor, PluginSensor):
            sensor.tell = partial(_tell, device)
        devices.append(device)
        sensors[table.id] = sensor
    sinks = [] if problems else _sinks(config.sink, problems)
    if problems:
        for sensor in sensors.values():
            sensor.close()
        lines = "".join(f"\n  {line}" for line in problems)
        raise ConfigError(f"the configuration does not fit what it names: {len(problems)} problem(s):{lines}")
    engine = TappedEngine(devices, rules, sinks) if sinks else Engine(devices, rules)
    return Parts(engine, sensors, notices)


def _try(make: Callable[[], Any], problems: list[str]) -> Any:
    try:
        return make()
    except TidegateError as wrong:
        problems.append(str(wrong))
        return None


def _slot(
    package: Package, cohort: str, store: Store | None, trust: Trust, problems: list[str], notices: list[str]
) -> Slot | None:
    remembered = remembered_package(store, package.manifest.name, cohort) if store is not None else None
    for candidate in (remembered, package):
        if candidate is None or (candidate is remembered and not _follows(candidate.manifest, package.manifest)):
            continue
        try:
            scorer = build_scorer(candidate)
        except ModelError as wrong:
            if candidate is remembered:
                notices.append(f"the model kept from an earlier run is not used: {wrong}")
                continue
            problems.append(str(wrong))
            return None
        if candidate is remembered:
            notices.append(f"model {candidate.manifest.name} {candidate.manifest.version} from an earlier update runs")
        return Slot(scorer, cohort, ModelUpdates(candidate, cohort, candidate.manifest.channels, trust))
    return None


def _detector_slot(package: Package, cohort: str, detector: Plugin, problems: list[str]) -> Slot | None:
    try:
        scorer = DetectorScorer(package, detector.kind, detector.options)
    except (ConfigError, ModelError) as wrong:
        problems.append(str(wrong))
        return None
    updates = ModelUpdates(package, cohort, package.manifest.channels, NoUpdates(detector.kind))
    return Slot(scorer, cohort, updates)


def _sinks(tables: list[SinkTable], problems: list[str]) -> list[SinkRunner]:
    """Sinks, running. None of them runs where one cannot be made."""
    made: list[tuple[SinkTable, Sink]] = []
    for table in tables:
        try:
            factory: SinkFactory = load("sink", table.kind)
            made.append((table, make("sink", table.kind, partial(factory, table.options))))
        except ConfigError as wrong:
            problems.append(str(wrong))
    if problems:
        return []
    return [SinkRunner(table.kind, sink, [_RECORDS[name] for name in table.records]) for table, sink in made]


def _tell(device: Device, problem: str) -> None:
    device.problem, device.news = problem, True


def _follows(kept: Manifest, configured: Manifest) -> bool:
    return kept.version > configured.version and kept.channels == configured.channels


def _sensor(table: DeviceTable, manifest: Manifest, problems: list[str]) -> Sensor | None:
    try:
        sensor = _open(table, manifest)
    except (ConfigError, DecodeError) as wrong:
        problems.append(f"device {table.id}: {wrong}")
        return None
    if list(sensor.channels) == list(manifest.channels):
        return sensor
    sensor.close()
    problems.append(
        f"device {table.id}: the sensor gives channels {_few(sensor.channels)}, "
        f"but model {manifest.name} {manifest.version} takes {_few(manifest.channels)}"
    )
    return None


def _few(names: Any) -> str:
    shown = ", ".join(list(names)[:8])
    return f"[{shown}{', …' if len(names) > 8 else ''}] ({len(names)})"


def _open(table: DeviceTable, manifest: Manifest) -> Sensor:
    match table.sensor:
        case Recorded() as it:
            return RecordedSensor(
                table.id,
                it.path,
                speed=it.speed,
                keep_times=it.time == "recorded",
                max_readings=it.max_readings or manifest.window_readings,
                max_wait_us=it.max_wait,
                max_pause_us=it.max_pause,
                repeat=it.repeat,
                device=it.device,
            )
        case Synthetic() as it:
            return SyntheticSensor(
                table.id,
                channels=manifest.channels,
                rate_hz=it.rate_hz,
                noise=it.noise,
                burst_every_s=it.burst_every / 1e6,
                readings=it.readings,
                max_readings=it.max_readings or manifest.window_readings,
                seed=it.seed,
            )
        case Plugin() as it:
            return PluginSensor(it.kind, make_sensor(it.kind, table.id, it.options))


# -- what is remembered over a restart ----------------------------------------------------------------------------


def remember_thresholds(device: Device, store: Store) -> None:
    """Keep the accepted updates of a device, so that it obeys them after a restart without a broker."""
    for update in device.thresholds.latest:
        store.save(f"thresholds:{update.target_kind}:{device.device_id}", encode(update))


def _remember_thresholds(device: Device, store: Store, notices: list[str]) -> None:
    for kind in ("DEVICE", "COHORT"):
        data = store.load(f"thresholds:{kind}:{device.device_id}")
        if data is None:
            continue
        try:
            # time 0: whether it is expired by now is decided by the clock, window by window
            device.thresholds.offer(decode(data, ThresholdUpdate), 0)
        except TidegateError as wrong:
            notices.append(f"{device.device_id}: thresholds kept from an earlier run are not used: {wrong}")


def remember_package(store: Store, package: Package, cohort: str) -> None:
    """Keep an updated package. Manifest last: it is what makes the rest count."""
    name = f"model:{package.manifest.name}:{cohort}"
    store.save(f"{name}:file", package.files[package.manifest.edge.file])
    store.save(f"{name}:manifest", package.manifest_bytes)


def remembered_package(store: Store, name: str, cohort: str) -> Package | None:
    """The package that was kept, where it is whole."""
    manifest_bytes, data = store.load(f"model:{name}:{cohort}:manifest"), store.load(f"model:{name}:{cohort}:file")
    if manifest_bytes is None or data is None:
        return None
    try:
        manifest = parse_manifest(manifest_bytes)
        check_file(manifest.edge, data)
    except ModelError:
        return None
    return Package(manifest, manifest_bytes, {manifest.edge.file: data})
