"""The configuration of an edge process: what may stand in its TOML file. schemas/config.py reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from schemas.config import Duration, Existing, PathTo, Section, Size, problem, read
from schemas.errors import ConfigError
from schemas.ids import DEVICE_ID
from schemas.librdkafka import Library

#: Settings of kafka-python that may be passed through; how records are batched and acknowledged is ours.
KAFKA_SETTINGS = frozenset(
    {
        "client_id",
        "compression_type",
        "connections_max_idle_ms",
        "metadata_max_age_ms",
        "proxy_url",
        "reconnect_backoff_max_ms",
        "reconnect_backoff_ms",
        "request_timeout_ms",
        "sasl_kerberos_domain_name",
        "sasl_kerberos_name",
        "sasl_kerberos_service_name",
        "sasl_mechanism",
        "sasl_plain_password",
        "sasl_plain_username",
        "security_protocol",
        "socks5_proxy",
        "ssl_cafile",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_ciphers",
        "ssl_crlfile",
        "ssl_keyfile",
        "ssl_password",
    }
)
#: Of those, the ones that only a producer has.
PRODUCER_ONLY = frozenset({"compression_type"})
_SPEED = re.compile(r"(\d+(?:\.\d+)?)x")


def _speed(value: Any) -> float | None:
    if value == "max" or value is None:
        return None
    match = _SPEED.fullmatch(value) if isinstance(value, str) else None
    if match is None or not float(match[1]):
        raise problem(f"not a speed: {value!r}", 'write it like "60x", or "max"')
    return float(match[1])


class Edge(Section):
    """The process."""

    id: str = Field(default="edge", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Name in logs.")
    state_dir: PathTo = Field(description="Folder for what is remembered over a restart; one per process.")
    cohort: str | None = Field(default=None, max_length=128, description="Default of the devices; else the model's.")


class Kafka(Section):
    """The broker. Other keys are settings of kafka-python, such as security_protocol and ssl_cafile."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    bootstrap_servers: str = Field(min_length=1, description="host:port[,host:port…]")
    topic_prefix: str = Field(default="", description="Put before every topic name, with its dot: plant1.")
    client: Library = Field(
        default="kafka-python", description='The library: "kafka-python", or the faster "confluent" (extra `fast`).'
    )

    @model_validator(mode="after")
    def _known_settings(self) -> Kafka:
        for name in self.model_extra or {}:
            if name not in KAFKA_SETTINGS:
                raise problem(
                    f"unknown key {name!r}", f"beside ours, these are passed on: {', '.join(sorted(KAFKA_SETTINGS))}"
                )
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What is passed on to the client, under kafka-python's names."""
        return dict(self.model_extra or {})

    def __repr__(self) -> str:
        return f"Kafka({self.bootstrap_servers!r}, ***)"


class Plugin(Section):
    """A sensor of one's own: kind is `module:name` or the name of an entry point; other keys are passed to it."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    kind: str = Field(min_length=1, description="`module:name`, or the name of an entry point.")

    @property
    def options(self) -> dict[str, Any]:
        """The keys that are passed on."""
        return dict(self.model_extra or {})


class DetectorTable(Plugin):
    """A detector of one's own scores windows; all else of the package stays. Other keys are passed to it."""


class FeatureTable(Plugin):
    """A statistic of one's own, known under this name to packages that list it. Other keys are passed to it."""


class SinkTable(Plugin):
    """A sink of one's own: where records go beside Kafka. Other keys are passed to it."""

    records: list[Literal["events", "aggregates", "samples"]] = Field(
        default=["events"], min_length=1, description="Which records it gets."
    )


class PluginsTable(Section):
    """Where code of one's own is."""

    path: Existing = Field(description="Folder that Python looks for modules in, after all others.")


class ModelSource(Section):
    """The model package that devices run unless they name their own."""

    path: Existing = Field(description="Folder with manifest.json.")
    detector: DetectorTable | None = Field(default=None, description="Scores in place of the package's edge model.")


class Recorded(Section):
    """A recording, replayed as a live device."""

    kind: Literal["recorded"] = Field(default="recorded", description="Chooses this sensor.")
    path: Existing = Field(description="Avro container file of SensorBlocks.")
    device: str | None = Field(default=None, description="Which device of the file, where it holds several.")
    speed: Annotated[float | None, BeforeValidator(_speed)] = Field(default=1.0, description='"60x", or "max".')
    time: Literal["now", "recorded"] = Field(default="now", description="Event times: moved to now, or as recorded.")
    max_pause: Duration = Field(default=5_000_000, description="Longer gaps are shortened to this.")
    max_readings: int | None = Field(
        default=None, ge=1, le=65536, description="Of a block; default: the model's window."
    )
    max_wait: Duration | None = Field(default=None, description="A block is given out after this, full or not.")
    repeat: bool = Field(default=False, description="Begin again at the end, for ever.")


class Synthetic(Section):
    """A signal made by rule."""

    kind: Literal["synthetic"] = Field(default="synthetic", description="Chooses this sensor.")
    rate_hz: float = Field(default=100.0, gt=0, description="Readings per second.")
    noise: float = Field(default=0.1, ge=0, description="Standard deviation of what is added to each reading.")
    burst_every: Duration = Field(
        default=30_000_000, description="In one second of so long the signal is 3 higher; 0s: never."
    )
    readings: int | None = Field(default=None, ge=1, description="Ends after so many; default: never.")
    max_readings: int | None = Field(
        default=None, ge=1, le=65536, description="Of a block; default: the model's window."
    )
    seed: int = Field(default=0, description="The same seed gives the same signal.")


def _kind_of(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if kind in ("recorded", "synthetic") else "plugin"


SensorTable = Annotated[
    Annotated[Recorded, Tag("recorded")] | Annotated[Synthetic, Tag("synthetic")] | Annotated[Plugin, Tag("plugin")],
    Discriminator(_kind_of),
]


class DeviceTable(Section):
    """One device."""

    id: str = Field(description="ISA-95 path of the device, also its Kafka key.")
    cohort: str | None = Field(
        default=None, min_length=1, max_length=128, description="Its group; default: that of [edge], else the model's."
    )
    model: Existing | None = Field(default=None, description="Folder of its own model package.")
    detector: DetectorTable | None = Field(default=None, description="Scores in place of the package's edge model.")
    sensor: SensorTable

    @field_validator("id")
    @classmethod
    def _path_like(cls, value: str) -> str:
        if not DEVICE_ID.fullmatch(value):
            raise problem(f"not a device id: {value!r}", "it is a path of letters, digits and ._-/")
        return value


class WindowTable(Section):
    """How readings become windows."""

    max_gap: Duration | None = Field(
        default=None, description="A longer gap in event time closes a window short; default: none does."
    )
    max_wait: Duration | None = Field(default=None, description="A window open for longer is closed short.")


class AggregateTable(Section):
    """How readings become aggregates."""

    window: Duration = Field(default=1_000_000, gt=0, description="Length of the tumbling windows.")


class AuditTable(Section):
    """The random sample of what was not escalated."""

    rate: float = Field(default=0.01, ge=0.0, le=1.0, description="Share of the answered windows, 0..1.")


class SpoolTable(Section):
    """Store and forward."""

    path: PathTo | None = Field(default=None, description="Folder; default: spool in the state folder.")
    max_bytes: Size = Field(
        default=64 * 1024 * 1024,
        ge=1024 * 1024,
        description="When it is full, audit samples go first, then aggregates, then events; each named on edge.gaps.",
    )
    fsync: Literal["always", "interval", "never"] = Field(
        default="interval", description="When data is forced to disk."
    )
    fsync_every: Duration = Field(default=1_000_000, ge=1000, description='With fsync = "interval": how often.')


class StatusTable(Section):
    """The heartbeat."""

    every: Duration = Field(default=5_000_000, ge=10_000, description="How often a device reports its state.")


class HttpTable(Section):
    """`/metrics`, `/livez` and `/readyz`; without this table nothing listens."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(ge=0, le=65535, description="0: a free port, which the log names.")


class EdgeConfig(Section):
    """The whole file."""

    edge: Edge
    kafka: Kafka
    model: ModelSource | None = None
    device: list[DeviceTable] = Field(min_length=1)
    window: WindowTable = WindowTable()
    aggregate: AggregateTable = AggregateTable()
    audit: AuditTable = AuditTable()
    spool: SpoolTable = SpoolTable()
    status: StatusTable = StatusTable()
    http: HttpTable | None = None
    plugins: PluginsTable | None = None
    features: dict[str, FeatureTable] = Field(
        default={}, description="Statistics of one's own, by the name packages use."
    )
    sink: list[SinkTable] = Field(default=[], description="Where records go beside Kafka.")

    @field_validator("device")
    @classmethod
    def _distinct(cls, value: list[DeviceTable], info: ValidationInfo) -> list[DeviceTable]:
        seen: set[str] = set()
        for device in value:
            if device.id in seen:
                raise problem(f"two devices have the id {device.id!r}", "give each its own")
            seen.add(device.id)
        return value

    @model_validator(mode="after")
    def _each_has_a_model(self) -> EdgeConfig:
        bare = [device.id for device in self.device if device.model is None]
        if bare and self.model is None:
            raise problem(f"no model for {', '.join(bare[:5])}", "add [model] with its path, or `model` to the device")
        return self

    @property
    def spool_path(self) -> Path:
        """Folder of the spool."""
        return self.spool.path or self.edge.state_dir / "spool"

    def model_of(self, device: DeviceTable) -> Path:
        """Folder of the package that a device starts with."""
        chosen = device.model or (self.model.path if self.model else None)
        assert chosen is not None  # checked above
        return chosen

    def detector_of(self, device: DeviceTable) -> DetectorTable | None:
        """What scores for a device in place of its package's edge model: its own, else that of the shared package."""
        if device.detector is None and device.model is None and self.model is not None:
            return self.model.detector
        return device.detector


def read_config(path: Path, environ: Mapping[str, str], exists: Callable[[Path], bool] = Path.exists) -> EdgeConfig:
    """The configuration in a file. Raises ConfigError: with every problem in it."""
    try:
        text = path.read_bytes()
    except OSError as cause:
        raise ConfigError("the configuration cannot be read", file=str(path), cause=cause.strerror) from None
    return read(EdgeConfig, text, path.name, environ=environ, base=path.parent, exists=exists)
