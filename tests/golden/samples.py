"""One record of each type with every field set, as version 1 of its schema carries it. Never changed once released."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from schemas import records as r

T0 = 1_700_000_000_000_000
SHA = bytes(range(32))
_IDENTITY: dict[str, Any] = {"device_id": "plant1/line2/pump-7", "boot_epoch": 3, "seq": 1042, "cohort": "pumps"}
_MODEL: dict[str, Any] = {"model_name": "pumps", "model_version": 2, "model_sha256": SHA, "thresholds_version": 5}

#: By file name of the schema: a function, so that no test can change another one's sample.
SAMPLES: dict[str, Callable[[], r.Record]] = {
    "sensor_block": lambda: r.SensorBlock(
        **_IDENTITY,
        channels=["flow", "temp_c"],
        event_times=np.array([T0, T0, T0 - 7], "<i8").tobytes(),
        values=np.array([[1.5, -2.0], [np.nan, 0.0], [3e38, 1e-40]], "<f4").tobytes(),
        labels=b"\x00\x01\x00",
        sampled_at_rate=0.25,
        score=1.25,
        **_MODEL,
    ),
    "edge_event": lambda: r.EdgeEvent(
        **_IDENTITY,
        sensed_from=T0,
        sensed_to=T0 + 60_000_000,
        decided_at=T0 + 60_004_000,
        **_MODEL,
        policy_version=1,
        score=2.75,
        outcome=r.Outcome.SUSPECT,
        transition=r.Transition.RAISED,
        reason="raised",
        readings=2,
        channels=2,
        values=np.array([[1, 2], [3, 4]], "<f4").tobytes(),
    ),
    "edge_aggregate": lambda: r.EdgeAggregate(
        **_IDENTITY,
        window_start=T0,
        window_end=T0 + 1_000_000,
        channels=["flow"],
        readings=3,
        invalid=1,
        mean=np.array([2.0], "<f8").tobytes(),
        m2=np.array([2.0], "<f8").tobytes(),
        min=np.array([1.0], "<f4").tobytes(),
        max=np.array([3.0], "<f4").tobytes(),
        bins=bytes([3, 0x98, 0x75, 1, 18, 1, 10, 1]),
        windows_scored=4,
        windows_escalated=1,
        score_max=2.75,
    ),
    "device_status": lambda: r.DeviceStatus(
        **_IDENTITY,
        at=T0,
        health=r.Health.DEGRADED,
        problem="the broker is away",
        **_MODEL,
        thresholds_source=r.ThresholdsSource.FEEDBACK,
        escalate_at=1.0,
        raise_at=2.0,
        clear_at=0.5,
        counters={"readings_sensed": 12_345},
        spool_records=2,
        spool_bytes=2_048,
        applied=[
            r.Applied(
                kind=r.FeedbackKind.THRESHOLDS,
                version=5,
                accepted=True,
                reason="",
                issued_at=T0 - 5,
                applied_at=T0 - 1,
            )
        ],
    ),
    "decision": lambda: r.Decision(
        **_IDENTITY,
        sensed_from=T0,
        sensed_to=T0 + 60_000_000,
        edge_decided_at=T0 + 60_004_000,
        decided_at=T0 + 60_090_000,
        **_MODEL,
        policy_version=1,
        provisional=r.Outcome.ANOMALY,
        outcome=r.Outcome.NORMAL,
        verdict=r.Verdict.OVERRIDDEN,
        decided_by=r.DecidedBy.HEAVY,
        reason="",
        edge_score=2.75,
        heavy_score=0.5,
        heavy_threshold=3.0,
        heavy_version=2,
        heavy_sha256=SHA,
    ),
    "fleet_window": lambda: r.FleetWindow(
        cohort="pumps",
        window_start=T0,
        window_end=T0 + 1_000_000,
        revision=1,
        devices=["pump-7", "pump-8"],
        channels=["flow"],
        readings=6,
        invalid=0,
        mean=[2.0],
        stddev=[0.5],
        min=[1.0],
        max=[3.0],
        p50=[2.0],
        p99=[3.0],
        windows_scored=8,
        windows_escalated=1,
        score_max=2.75,
    ),
    "failure": lambda: r.Failure(
        source="edge.events",
        partition=3,
        offset=4_711,
        key=b"pump-7",
        payload=b"\x00\xffnot a record",
        stage="decode",
        reason="DecodeError",
        problem="not a record: the single-object header is missing",
        failed_at=T0,
    ),
    "threshold_update": lambda: r.ThresholdUpdate(
        target="pump-7",
        target_kind=r.TargetKind.DEVICE,
        version=6,
        model_name="pumps",
        escalate_at=1.1,
        raise_at=2.2,
        clear_at=0.5,
        issued_at=T0,
        expires_at=T0 + 600_000_000,
        reason="override rate 0.62",
        evidence=["pump-7:3:1042"],
        evidence_count=40,
        override_rate=0.62,
        missed_rate=0.0,
    ),
    "model_update": lambda: r.ModelUpdate(
        model_name="pumps",
        version=2,
        cohort="pumps",
        manifest=b'{"format":"tidegate-model/1"}',
        manifest_sha256=SHA,
        issued_at=T0,
        expires_at=T0 + 86_400_000_000,
    ),
    "artifact_chunk": lambda: r.ArtifactChunk(sha256=SHA, index=1, count=3, total_bytes=12, data=b"part"),
}
