"""The demo's site: eight recorded devices in two edge processes, their models, their configuration files."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from deploy.demo.recordings import WINDOW_READINGS, DemoDevice
from schemas.errors import ModelError

#: Readings that each device shall give per second, so that a minute meets several anomalies.
READINGS_PER_SECOND = 90.0
AGGREGATE_WINDOW = "5s"
AUDIT_RATE = 0.08


@dataclass(frozen=True, slots=True)
class EdgeProcess:
    """One edge process: a cohort and its devices."""

    cohort: str
    devices: tuple[DemoDevice, ...]
    config: Path


def processes(devices: Sequence[DemoDevice], folder: Path) -> list[EdgeProcess]:
    """One process per cohort."""
    by_cohort = groupby(sorted(devices, key=lambda d: d.cohort), key=lambda d: d.cohort)
    return [EdgeProcess(cohort, tuple(group), folder / f"{cohort}.toml") for cohort, group in by_cohort]


def speed(device: DemoDevice) -> float:
    """How much faster than recorded a device must run to give READINGS_PER_SECOND."""
    recorded_s = (device.live.last_time - device.live.first_time) / 1e6
    return max(1.0, round(READINGS_PER_SECOND * recorded_s / device.live.readings))


def write_config(process: EdgeProcess, package: Path, bootstrap_servers: str, topic_prefix: str) -> None:
    """The process's TOML file, as a user would write it."""
    folder = process.config.parent
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "[edge]",
        f'id = "{process.cohort}"',
        f"state_dir = {json.dumps(str(folder / process.cohort))}",
        "",
        "[kafka]",
        f'bootstrap_servers = "{bootstrap_servers}"',
        f'topic_prefix = "{topic_prefix}"',
        "",
        "[model]",
        f"path = {json.dumps(str(package))}",
        "",
        "[aggregate]",
        f'window = "{AGGREGATE_WINDOW}"',
        "",
        "[audit]",
        f"rate = {AUDIT_RATE}",
        "",
        "[status]",
        'every = "2s"',
    ]
    for device in process.devices:
        lines += [
            "",
            "[[device]]",
            f'id = "{device.device_id}"',
            f'cohort = "{process.cohort}"',
            "",
            "[device.sensor]",
            'kind = "recorded"',
            f"path = {json.dumps(str(device.live.path))}",
            f'speed = "{speed(device):g}x"',
            'max_pause = "250ms"',
            "repeat = true",
        ]
    process.config.write_text("\n".join(lines) + "\n")


def package(process: EdgeProcess, version: int, cache: Path, say: Callable[[str], None]) -> Path:
    """Folder of a trained package; trained on first use, then taken from the cache.

    Version 2 learns from more of the normal recordings than version 1, with another seed: a different, real model.
    Raises ModelError: the trainer failed.
    """
    share, seed = ("0.6", "1") if version == 1 else ("1.0", "2")
    readings = str(WINDOW_READINGS[process.cohort])
    recordings = [d.normal.path for d in process.devices]
    evaluated = [d.live.path for d in process.devices]
    folder = cache / f"{process.cohort}-v{version}-{_fingerprint([*recordings, *evaluated], share, seed, readings)}"
    if (folder / "manifest.json").exists():
        return folder
    say(f"training {process.cohort} version {version} on {len(recordings)} recordings of normal operation")
    unfinished = folder.with_suffix(".unfinished")
    command = [
        sys.executable, "-m", "deploy.train", "--normal", *map(str, recordings), "--live", *map(str, evaluated),
        "--name", process.cohort, "--cohort", process.cohort, "--version", str(version), "--seed", seed,
        "--normal-share", share, "--window-readings", readings, "--quiet", "--format", "json", "-o", str(unfinished),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ModelError("the trainer failed", cohort=process.cohort, fix=done.stderr.strip()[-600:])
    (unfinished / "evaluation.json").write_text(done.stdout)
    unfinished.rename(folder)
    return folder


def _fingerprint(recordings: Sequence[Path], *settings: str) -> str:
    """What the package depends on: the data, the settings, and the trainer itself."""
    digest = hashlib.sha256("|".join(settings).encode())
    trainer = sorted((Path(__file__).parent.parent / "train").glob("*.py"))
    for path in [*recordings, *trainer]:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]
