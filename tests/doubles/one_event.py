"""Records that tell the path of one event, with everything that a hostile sender could put into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.recording.files import Stamp, TopicFile
from pipelines.decide import by_heavy_model
from schemas import topics
from schemas.codec import encode
from schemas.records import (
    Applied,
    Decision,
    DeviceStatus,
    EdgeEvent,
    Failure,
    FeedbackKind,
    Health,
    ModelUpdate,
    TargetKind,
    ThresholdsSource,
    ThresholdUpdate,
)
from tests.doubles import records as make

HEAVY = b"h" * 32
MS = 1_000
T = 1_790_000_000_000_000
HOSTILE = "<script>alert(1)</script>\"'\x1b[2J\u202e{{7*7}}"


def event(seq: int = 5, **changes: Any) -> EdgeEvent:
    fields: dict[str, Any] = {
        "sensed_from": T,
        "sensed_to": T + 700 * MS,
        "decided_at": T + 702 * MS,
        "thresholds_version": 4,
        "cohort": "pumps",
        "score": 3.2,
    }
    return make.event(seq=seq, **fields | changes)


def decision(of: EdgeEvent, score: float = 1.5) -> Decision:
    return by_heavy_model(of, score, 2.0, 2, HEAVY, decided_at=T + 800 * MS)


def thresholds(version: int = 4, target: str = "pump-1", **changes: Any) -> ThresholdUpdate:
    fields: dict[str, Any] = {
        "target": target,
        "target_kind": TargetKind.DEVICE,
        "version": version,
        "model_name": "tiny",
        "escalate_at": 1.25,
        "raise_at": 2.5,
        "clear_at": 0.75,
        "issued_at": T - 5_000 * MS,
        "expires_at": T + 3_600_000 * MS,
        "reason": "the heavy model calls 18 of 32 escalated windows normal",
        "evidence": [],
        "evidence_count": 0,
    }
    return ThresholdUpdate(**fields | changes)


def status(**changes: Any) -> DeviceStatus:
    fields: dict[str, Any] = {
        "device_id": "pump-1",
        "boot_epoch": 1,
        "seq": 0,
        "cohort": "pumps",
        "at": T + 1_000 * MS,
        "health": Health.OK,
        "problem": None,
        "model_name": "tiny",
        "model_version": 1,
        "model_sha256": b"m" * 32,
        "thresholds_version": 5,
        "thresholds_source": ThresholdsSource.FEEDBACK,
        "escalate_at": 1.5,
        "raise_at": 3.0,
        "clear_at": 1.0,
        "counters": {},
        "spool_records": 0,
        "spool_bytes": 0,
        "applied": [
            Applied(
                kind=FeedbackKind.THRESHOLDS,
                version=5,
                accepted=True,
                reason="",
                issued_at=T + 900 * MS,
                applied_at=T + 950 * MS,
            )
        ],
    }
    return DeviceStatus(**fields | changes)


def published() -> ModelUpdate:
    return ModelUpdate(
        model_name="tiny",
        version=2,
        cohort="pumps",
        manifest=b"{}",
        manifest_sha256=HEAVY,
        issued_at=T - 60_000 * MS,
        expires_at=T + 1,
    )


def dead_letter(of: EdgeEvent) -> Failure:
    return Failure(
        source="plant1.edge.events",
        partition=1,
        offset=7,
        key=b"pump-1",
        payload=encode(of),
        stage="split",
        reason="LATE",
        problem=HOSTILE,
        failed_at=T + 850 * MS,
    )


def write_folder(folder: Path, records: list[Any] | None = None) -> Path:
    """A recorded folder; of the whole path of pump-1:1:5, between two other events, where nothing else is given."""
    folder.mkdir(exist_ok=True)
    events = [event(seq) for seq in (3, 5, 9)]
    whole = [
        *events,
        make.audit(seq=4),
        make.audit("pump-2", 5),
        make.aggregate(),
        *(decision(each) for each in events),
        thresholds(),
        thresholds(4, "pump-2", escalate_at=9.0, raise_at=9.0, clear_at=9.0),
        thresholds(5, evidence=["pump-1:1:5"], issued_at=T + 900 * MS),
        published(),
        status(),
    ]
    files: dict[str, TopicFile] = {}
    for record in whole if records is None else records:
        topic = next(topic for topic in topics.CATALOGUE if topic.record is type(record))
        if topic.name not in files:
            files[topic.name] = TopicFile(folder / f"{topic.name}.avro", topic.record)
        file = files[topic.name]
        stamped = {"edge.events": T + 710 * MS, "cloud.decisions": T + 820 * MS}.get(topic.name, T)
        file.write(record, Stamp(2, file.written, stamped // 1000))
    for file in files.values():
        file.finish()
    return folder
