"""The files of a new site, put together in memory and written only where nothing is overwritten."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.site import starter
from deploy.site.survey import Survey, survey
from schemas.errors import ConfigError, ModelError
from schemas.ids import DEVICE_ID
from schemas.manifest import MANIFEST_FILE, Package, load_package
from schemas.topics import CATALOGUE

_TEMPLATES = Path(__file__).parent / "templates"
_SERVERS = re.compile(r"[A-Za-z0-9._\[\]-]+(:[0-9]+)?(,[A-Za-z0-9._\[\]-]+(:[0-9]+)?)*")
_PREFIX = re.compile(r"[A-Za-z0-9._-]{0,100}")
_NAME = re.compile(r"[^A-Za-z0-9._-]+")
#: Where the comments of a template begin.
_COLUMN = 35
#: Readings in a window of the starter package: half a second of the synthetic signal.
WINDOW_READINGS = 50
MAX_CHANNELS = 1024
CHANNELS = ("temperature", "vibration")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line says of a site; what is None is found out or made up."""

    folder: Path
    bootstrap_servers: str
    prefix: str = ""
    channels: Sequence[str] | None = None
    devices: Sequence[str] | None = None
    model: Path | None = None
    recording: Path | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Files by their path inside of the site, and what a reader should know."""

    files: dict[str, bytes]
    model: str
    devices: list[str]
    channels: list[str]
    is_starter: bool


def plan(wishes: Wishes) -> Plan:
    """Put a site together; writes nothing.

    Raises:
        ConfigError: a wish that cannot be, or two that do not go together.
        ModelError, DecodeError: a package or a recording that cannot be used.
    """
    _check(wishes)
    seen = survey(wishes.recording) if wishes.recording else None
    package = _package(wishes.model) if wishes.model else None
    channels = _channels(wishes, seen, package)
    devices = _devices(wishes, seen)
    if package is not None:
        name, model_files = package.manifest.name, {MANIFEST_FILE: package.manifest_bytes, **package.files}
    else:
        name, model_files = starter.NAME, _starter(channels, seen)
        load_package(lambda file: model_files[file], ("edge", "heavy"))  # before anything is written
    site = _NAME.sub("-", wishes.folder.absolute().name).strip("-._") or "site"
    values = {
        "SITE": site,
        "EDGE_ID": _toml(f"edge-{site}"[:64]),
        "KAFKA": wishes.bootstrap_servers,
        "MODEL": _toml(f"models/{name}"),
        "MODEL_NAME": name,
        "DEVICES": "\n\n".join(_device(wishes, seen, device) for device in devices),
        "GROUP": shlex.quote(f"tidegate-{site}"[:64]),
        "TAIL_PREFIX": f" --prefix {wishes.prefix}" if wishes.prefix else "",
        "NEXT": _NEXT_STARTER if package is None else _NEXT_OWN,
    }
    files = {
        "edge.toml": _fill("edge.toml", values | {"PREFIX": _toml(wishes.prefix)}),
        "edge.sh": _fill("edge.sh", values),
        "pipeline.sh": _fill("pipeline.sh", values | {"PREFIX": shlex.quote(wishes.prefix)}),
        "README.md": _fill("README.md", values),
        "topics.toml": _topics(wishes.prefix),
        **{f"models/{name}/{file}": data for file, data in model_files.items()},
    }
    return Plan(files, name, devices, channels, package is None)


def write(site: Plan, folder: Path) -> None:
    """Write a site; scripts may be executed.

    Raises:
        ConfigError: one of the files is there already, and then none is written; or the folder cannot be written.
    """
    there = [name for name in site.files if os.path.lexists(folder / name)]
    if there:
        raise ConfigError(
            "nothing was written: a site is there already",
            folder=str(folder),
            files=there[:5],
            fix="name another folder, or move these files away",
        )
    try:
        for name, data in site.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(data)
            if name.endswith(".sh"):
                path.chmod(0o755)
    except OSError as cause:
        raise ConfigError("the site cannot be written", folder=str(folder), cause=str(cause)) from cause


def _check(wishes: Wishes) -> None:
    if not _SERVERS.fullmatch(wishes.bootstrap_servers):
        raise ConfigError(
            "not a list of brokers", got=wishes.bootstrap_servers, fix="write it like host:9092,host:9093"
        )
    if not _PREFIX.fullmatch(wishes.prefix):
        raise ConfigError("not a prefix of topic names", got=wishes.prefix, fix="use letters, digits and ._-")
    names = list(wishes.channels or ())
    if len(names) > MAX_CHANNELS:
        raise ConfigError("more channels than a model may have", got=len(names), max_channels=MAX_CHANNELS)
    if wishes.channels is not None and (not all(names) or len(set(names)) != len(names)):
        raise ConfigError("channels need names, each its own", got=names)
    devices = list(wishes.devices or ())
    for device in devices:
        if not DEVICE_ID.fullmatch(device):
            raise ConfigError("not a device id", got=device, fix="it is a path of letters, digits and ._-/")
    if len(set(devices)) != len(devices):
        raise ConfigError("two devices have one id", got=devices)


def _package(folder: Path) -> Package:
    try:
        return load_package(lambda name: (folder / name).read_bytes(), ("edge", "heavy"))
    except ModelError as wrong:
        raise ModelError(wrong.problem, fix=wrong.fix, **({"package": str(folder)} | wrong.where)) from None


def _channels(wishes: Wishes, seen: Survey | None, package: Package | None) -> list[str]:
    said = {
        "--channels": wishes.channels,
        "the recording": seen.channels if seen else None,
        "the model": package.manifest.channels if package else None,
    }
    given = {who: list(names) for who, names in said.items() if names is not None}
    who, names = next(iter(given.items()), ("", list(CHANNELS)))
    for other, theirs in given.items():
        if theirs != names:
            raise ConfigError(
                f"{who} and {other} name different channels",
                first=names[:8],
                then=theirs[:8],
                fix="a model takes the channels it was trained on, in their order",
            )
    return names


def _devices(wishes: Wishes, seen: Survey | None) -> list[str]:
    wished = list(wishes.devices or ())
    if seen is None:
        return wished or ["plant1/machine-1"]
    if len(seen.devices) == 1 and len(wished) <= 1:
        return wished or seen.devices
    unknown = sorted(set(wished) - set(seen.devices))
    if unknown:
        raise ConfigError("the recording does not hold these devices", devices=unknown[:5], holds=seen.devices[:10])
    return wished or seen.devices


def _starter(channels: list[str], seen: Survey | None) -> dict[str, bytes]:
    if seen is None:  # the synthetic sensor: a sine of amplitude 1, bursts of 3
        wide = len(channels)
        window = starter.window_for(wide, WINDOW_READINGS)
        return starter.package_files("machines", channels, window, [0.0] * wide, [0.5] * wide)
    window = starter.window_for(len(channels), max(1, min(WINDOW_READINGS, seen.readings // 8)))
    return starter.package_files(seen.cohort or "machines", channels, window, seen.centre, seen.scale)


def _device(wishes: Wishes, seen: Survey | None, device: str) -> str:
    if wishes.recording is None or seen is None:
        sensor = _SYNTHETIC
    else:
        path = os.path.relpath(wishes.recording.absolute(), wishes.folder.absolute())
        chosen = (
            f"\ndevice = {_toml(device)}                # of those in the recording" if len(seen.devices) > 1 else ""
        )
        sensor = _RECORDED.replace("@PATH@", _toml(path)).replace("@CHOSEN@", chosen)
    head = f"id = {_toml(device)}"
    return f"[[device]]\n{head:<{_COLUMN - 1}} # path of the device, also its Kafka key\n\n{sensor}"


_SYNTHETIC = """\
[device.sensor]
kind = "synthetic"                 # a signal made by rule: replace it by your sensor, or by a recording
rate_hz = 100.0                    # readings per second
noise = 0.1                        # standard deviation; the sine has amplitude 1
burst_every = "30s"                # its last second is off by 3: the first alarm comes after 29 s"""
_RECORDED = """\
[device.sensor]
kind = "recorded"                  # replayed as a live device; replace it by your sensor
path = @PATH@
speed = "1x"                       # "60x" is a minute a second; "max" as fast as it is read
repeat = true                      # begin again at the end@CHOSEN@"""
_NEXT_STARTER = """\
The model `starter` is a place to start from: it says how far a channel is from its centre, and was not trained.
Train one on recordings of normal operation, put it into `models/`, and name it under `[model]` in `edge.toml`:

    tidegate train --normal my-machine.avro --name machines --cohort machines -o models/machines"""
_NEXT_OWN = """\
A newer version of the model reaches the running edges and the pipeline by `tidegate pipeline publish FOLDER`."""


def _fill(name: str, values: dict[str, str]) -> bytes:
    text = (_TEMPLATES / name).read_text()
    lines = []
    for line in text.splitlines():
        filled = re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], line)
        if filled != line and "\n" not in filled and (comment := re.search(r" +(# [^#]*)$", filled)):
            filled = f"{filled[: comment.start()]:<{_COLUMN - 1}} {comment[1]}"  # where the comments of its file stand
        lines.append(filled)
    return ("\n".join(lines) + "\n").encode()


def _toml(text: str) -> str:
    """A TOML string. Raises ConfigError: it would be read as a variable of the environment."""
    if "${" in text:
        raise ConfigError("a name must not hold ${, which stands for a variable in edge.toml", got=text)
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _topics(prefix: str) -> bytes:
    lines = [
        "# The topics of this site, for whoever makes them on your cluster; `tidegate topics apply` makes them from",
        "# the same catalogue. Brokers must not create topics by themselves (auto.create.topics.enable = false).",
    ]
    for topic in CATALOGUE:
        lines += [
            "",
            f"# {topic.doc} Keyed by {topic.key}.",
            "[[topic]]",
            f"name = {_toml(topic.named(prefix))}",
            f"partitions = {topic.partitions}",
        ]
        if topic.config:
            settings = ", ".join(f"{_toml(name)} = {_toml(value)}" for name, value in topic.config.items())
            lines.append(f"config = {{ {settings} }}")
    return ("\n".join(lines) + "\n").encode()
