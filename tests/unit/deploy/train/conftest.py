"""Packages trained once for all tests of the trainer, and small recordings to train bad ones from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deploy.demo.make_recordings import Part, write_part
from deploy.demo.recordings import WINDOW_READINGS, demo_devices
from deploy.train import TrainingOptions, TrainingReport, train

MINUTE_US = 60_000_000
Write = Callable[..., Path]


@pytest.fixture(scope="session", params=["servers", "temperature"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrainingReport:
    """The package of one of the demo's cohorts, as the demo trains its version 2."""
    devices = [d for d in demo_devices() if d.cohort == request.param]
    return train(
        [d.normal.path for d in devices],
        tmp_path_factory.mktemp(request.param),
        name=request.param,
        cohort=request.param,
        seed=2,
        version=2,
        live=[d.live.path for d in devices],
        options=TrainingOptions(window_readings=WINDOW_READINGS[request.param]),
    )


def wave(rows: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    """Something that goes up and down with noise on it, float32[rows, channels]."""
    random = np.random.default_rng(seed)
    slow = np.sin(np.arange(rows)[:, None] / 40 + np.arange(channels))
    return (slow + 0.1 * random.standard_normal((rows, channels))).astype(np.float32)


@pytest.fixture
def recording(tmp_path: Path) -> Write:
    """Writes a recording: recording(values, device=…, labels=…, times=…, cohort=…) -> path."""

    def make(
        values: np.ndarray,
        device: str = "pump-1",
        labels: np.ndarray | None = None,
        times: np.ndarray | None = None,
        cohort: str = "pumps",
    ) -> Path:
        path = tmp_path / f"{device}.{len(list(tmp_path.iterdir()))}.avro"
        at = np.arange(len(values), dtype=np.int64) * MINUTE_US if times is None else times
        names = tuple(f"c{i}" for i in range(values.shape[1]))
        write_part(path, Part(device, cohort, names, at, values.astype(np.float32), labels, "a test"))
        return path

    return make
