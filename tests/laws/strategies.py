"""Valid records of every type, for hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from schemas import records as r

LONG = st.integers(-(2**63), 2**63 - 1)
COUNT = st.integers(0, 2**62)
INT = st.integers(-(2**31), 2**31 - 1)
REAL = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(max_size=12)
SHA = st.binary(min_size=32, max_size=32)
DEVICE = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,20}", fullmatch=True)
NAMES = st.lists(TEXT, min_size=1, max_size=3)
MAYBE_REAL = st.none() | REAL

_IDENTITY: dict[str, Any] = {"device_id": DEVICE, "boot_epoch": LONG, "seq": LONG, "cohort": TEXT}
_MODEL: dict[str, Any] = {
    "model_name": TEXT,
    "model_version": INT,
    "model_sha256": SHA,
    "thresholds_version": LONG,
}


@st.composite
def sensor_blocks(draw: st.DrawFn) -> r.SensorBlock:
    rows, channels = draw(st.integers(0, 4)), draw(NAMES)
    return r.SensorBlock(
        **draw(st.fixed_dictionaries(_IDENTITY)),
        channels=channels,
        event_times=draw(st.binary(min_size=8 * rows, max_size=8 * rows)),
        values=draw(st.binary(min_size=4 * rows * len(channels), max_size=4 * rows * len(channels))),
        labels=draw(st.none() | st.binary(min_size=rows, max_size=rows)),
        sampled_at_rate=draw(st.floats(0.0, 1.0, exclude_min=True)),
        score=draw(MAYBE_REAL),
        **{name: draw(st.none() | values) for name, values in _MODEL.items()},
    )


@st.composite
def edge_events(draw: st.DrawFn) -> r.EdgeEvent:
    readings, channels = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    size = draw(st.sampled_from([0, 4 * readings * channels]))
    return r.EdgeEvent(
        **draw(st.fixed_dictionaries(_IDENTITY | _MODEL)),
        sensed_from=draw(LONG),
        sensed_to=draw(LONG),
        decided_at=draw(LONG),
        policy_version=draw(INT),
        score=draw(REAL),
        outcome=draw(st.sampled_from(r.Outcome)),
        transition=draw(st.sampled_from(r.Transition)),
        reason=draw(TEXT),
        readings=readings,
        channels=channels,
        values=draw(st.binary(min_size=size, max_size=size)),
    )


@st.composite
def edge_aggregates(draw: st.DrawFn) -> r.EdgeAggregate:
    channels = draw(NAMES)
    start = draw(st.integers(-(2**62), 2**62))
    sizes = {"mean": 8, "m2": 8, "min": 4, "max": 4}
    return r.EdgeAggregate(
        **draw(st.fixed_dictionaries(_IDENTITY)),
        window_start=start,
        window_end=start + draw(st.integers(1, 2**40)),
        channels=channels,
        readings=draw(COUNT),
        invalid=draw(COUNT),
        **{k: draw(st.binary(min_size=n * len(channels), max_size=n * len(channels))) for k, n in sizes.items()},
        bins=draw(st.binary(max_size=40)),
        windows_scored=draw(COUNT),
        windows_escalated=draw(COUNT),
        score_max=draw(MAYBE_REAL),
    )


applied = st.builds(
    r.Applied,
    kind=st.sampled_from(r.FeedbackKind),
    version=LONG,
    accepted=st.booleans(),
    reason=TEXT,
    issued_at=LONG,
    applied_at=LONG,
)
device_statuses = st.builds(
    r.DeviceStatus,
    **_IDENTITY | _MODEL,
    at=LONG,
    health=st.sampled_from(r.Health),
    problem=st.none() | TEXT,
    thresholds_source=st.sampled_from(r.ThresholdsSource),
    escalate_at=REAL,
    raise_at=REAL,
    clear_at=REAL,
    counters=st.dictionaries(TEXT, LONG, max_size=3),
    spool_records=LONG,
    spool_bytes=LONG,
    applied=st.lists(applied, max_size=3),
)
decisions = st.builds(
    r.Decision,
    **_IDENTITY | _MODEL,
    sensed_from=LONG,
    sensed_to=LONG,
    edge_decided_at=LONG,
    decided_at=LONG,
    policy_version=INT,
    provisional=st.sampled_from(r.Outcome),
    outcome=st.sampled_from(r.Outcome),
    verdict=st.sampled_from(r.Verdict),
    decided_by=st.sampled_from(r.DecidedBy),
    reason=TEXT,
    edge_score=REAL,
    heavy_score=MAYBE_REAL,
    heavy_threshold=MAYBE_REAL,
    heavy_version=st.none() | INT,
    heavy_sha256=st.none() | SHA,
)
fleet_windows = st.builds(
    r.FleetWindow,
    cohort=TEXT,
    window_start=LONG,
    window_end=LONG,
    revision=INT,
    devices=NAMES,
    channels=NAMES,
    readings=LONG,
    invalid=LONG,
    **dict.fromkeys(("mean", "stddev", "min", "max", "p50", "p99"), st.lists(REAL, max_size=3)),
    windows_scored=LONG,
    windows_escalated=LONG,
    score_max=MAYBE_REAL,
)
failures = st.builds(
    r.Failure,
    source=TEXT,
    partition=INT,
    offset=LONG,
    key=st.none() | st.binary(max_size=20),
    payload=st.binary(max_size=100),
    stage=TEXT,
    reason=TEXT,
    problem=TEXT,
    failed_at=LONG,
)
device_claims = st.builds(
    r.DeviceClaim,
    device_id=DEVICE,
    epoch=LONG,
    instance=TEXT,
    edge_id=TEXT,
    kind=st.sampled_from(r.ClaimKind),
    at=LONG,
)


@st.composite
def gap_markers(draw: st.DrawFn) -> r.GapMarker:
    ends = sorted(draw(st.sets(st.integers(0, 2**62), min_size=2, max_size=12)))
    firsts, lasts = ends[: len(ends) // 2 * 2 : 2], ends[1::2]
    return r.GapMarker(
        device_id=draw(DEVICE),
        boot_epoch=draw(LONG),
        seq=firsts[0],
        lane=draw(TEXT),
        reason=draw(st.sampled_from(r.GapReason)),
        count=sum(last - first + 1 for first, last in zip(firsts, lasts, strict=True)),
        firsts=firsts,
        lasts=lasts,
        at=draw(LONG),
    )


seen_pages = st.integers(1, 2**31 - 1).flatmap(
    lambda pages: st.builds(
        r.SeenPage,
        group=TEXT,
        source=TEXT,
        partition=INT,
        page=st.integers(0, pages - 1),
        pages=st.just(pages),
        as_of=LONG,
        devices=st.binary(max_size=60),
    )
)
threshold_updates = st.builds(
    r.ThresholdUpdate,
    target=TEXT,
    target_kind=st.sampled_from(r.TargetKind),
    version=LONG,
    model_name=TEXT,
    escalate_at=REAL,
    raise_at=REAL,
    clear_at=REAL,
    issued_at=LONG,
    expires_at=LONG,
    reason=TEXT,
    evidence=st.lists(TEXT, max_size=4),
    evidence_count=INT,
    override_rate=MAYBE_REAL,
    missed_rate=MAYBE_REAL,
)
model_updates = st.builds(
    r.ModelUpdate,
    model_name=TEXT,
    version=INT,
    cohort=TEXT,
    manifest=st.binary(max_size=50),
    manifest_sha256=SHA,
    issued_at=LONG,
    expires_at=LONG,
)


@st.composite
def artifact_chunks(draw: st.DrawFn) -> r.ArtifactChunk:
    data, count = draw(st.binary(max_size=50)), draw(st.integers(1, 2**31 - 1))
    return r.ArtifactChunk(
        sha256=draw(SHA),
        index=draw(st.integers(0, count - 1)),
        count=count,
        total_bytes=draw(st.integers(len(data), 2**40)),
        data=data,
    )


RECORDS: dict[type[Any], st.SearchStrategy[Any]] = {
    r.SensorBlock: sensor_blocks(),
    r.EdgeEvent: edge_events(),
    r.EdgeAggregate: edge_aggregates(),
    r.DeviceStatus: device_statuses,
    r.DeviceClaim: device_claims,
    r.GapMarker: gap_markers(),
    r.Decision: decisions,
    r.FleetWindow: fleet_windows,
    r.Failure: failures,
    r.SeenPage: seen_pages,
    r.ThresholdUpdate: threshold_updates,
    r.ModelUpdate: model_updates,
    r.ArtifactChunk: artifact_chunks(),
}
any_record = st.one_of(list(RECORDS.values()))
