"""Every parser of bytes from outside, as a function of bytes: it returns, or raises what it says that it raises.

Each target has seeds, from which fuzzers start, and the size of the largest input that it takes.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edge_filters.config import EdgeConfig
from edge_filters.io import frames
from edge_filters.outgoing import Priority, pack
from edge_filters.updates import HashTrust, ModelUpdates
from pipelines.controller import DeviceState, Evidence
from pipelines.elements import Lanes, LanesCoder, Sighting
from pipelines.fleet import Fleet
from pipelines.io.chunk import (
    Batch,
    Chunk,
    Outgoing,
    Receipt,
    Record,
    WindowAck,
    decode_batch,
    decode_chunk,
    encode_batch,
    encode_chunk,
)
from pipelines.io.commit_note import CommitNote
from schemas import tracing
from schemas.artifacts import Assembler, cut
from schemas.clocks import check_times
from schemas.codec import decode_any, encode, peek_identity
from schemas.config import MAX_CONFIG_BYTES
from schemas.config import read as read_toml
from schemas.container import read, read_header
from schemas.errors import ConfigError, DecodeError, ModelError, TidegateError, UpdateRefused
from schemas.ids import Identity
from schemas.manifest import MAX_MANIFEST_BYTES, parse_manifest
from schemas.probes import MAX_REQUEST_BYTES, Page, respond
from schemas.records import ArtifactChunk, EdgeAggregate, EdgeEvent, ModelUpdate, SensorBlock, ThresholdUpdate
from schemas.sketch import Sketch
from tests.doubles import edge_model
from tests.doubles import records as make
from tests.doubles.edge_parts import T0, engine, model_update, thresholds
from tests.golden.samples import SAMPLES
from tests.hostile import avro

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """`parse` raises nothing but `refuses`. `limit_bytes`: of its input; memory may be ten times that."""

    parse: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...]
    seeds: Callable[[], Sequence[bytes]]
    limit_bytes: int = MIB


# --- what devices and pipelines send ---------------------------------------------------------------------------------


def _record(data: bytes) -> None:
    peek_identity(data)
    record = decode_any(data)
    assert encode(record) == data
    if isinstance(record, EdgeEvent | EdgeAggregate | SensorBlock):
        check_times(record)


def _bins(data: bytes) -> None:
    rows = np.zeros(2)
    fields: dict[str, Any] = {"mean": rows.tobytes(), "m2": rows.tobytes()}
    fields |= {"min": rows.astype("<f4").tobytes(), "max": rows.astype("<f4").tobytes(), "bins": data}
    for readings in (0, 1, 4):
        try:
            sketch = Sketch.from_aggregate(make.aggregate(**fields, readings=readings))
        except ValueError:  # what it says that it raises; Split makes a dead letter of it
            continue
        sketch.merge(sketch).quantile(0.5)
        Fleet.of(make.aggregate(**fields, readings=readings), sketch).window(0, 1)


def _feedback(data: bytes) -> None:
    record = decode_any(data)
    filtering = _engine()
    if isinstance(record, ThresholdUpdate):
        filtering.apply_thresholds(record, T0)
    elif isinstance(record, ModelUpdate):
        filtering.offer_model(record, T0)
    elif isinstance(record, ArtifactChunk):
        filtering.add_chunk(record, T0)


@cache
def _engine() -> Any:
    return engine()


def _offer(data: bytes) -> None:
    """A manifest that comes over the air under its true hash."""
    package = edge_model.package()
    updates = ModelUpdates(package, "pumps", package.manifest.channels, HashTrust())
    update, _ = model_update()
    forged = {"manifest": data, "manifest_sha256": hashlib.sha256(data).digest()}
    updates.offer(ModelUpdate(**{n: getattr(update, n) for n in update.__slots__} | forged), T0)


def _chunks(data: bytes) -> None:
    """Pieces of files with any numbers, cut out of the input."""
    assembler = Assembler(64 * 1024)
    numbers = np.frombuffer(data[: len(data) // 8 * 8], "<i8").tolist()
    for index, count, total in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=False):
        try:
            chunk = ArtifactChunk(
                sha256=bytes([index & 1]) * 32, index=index, count=count, total_bytes=total, data=data[: count % 64]
            )
        except ValueError:
            continue
        assembler.add(chunk)
        assert assembler._held_bytes <= 2 * 64 * 1024


# --- between the steps of a pipeline ---------------------------------------------------------------------------------

_RECEIPT = Receipt("flow", "edge.events", 3, 10, 20)


def _lanes_seeds() -> list[bytes]:
    aggregate = make.aggregate()
    sighting = Sighting(1, aggregate, Sketch.from_aggregate(aggregate))
    return [LanesCoder().encode(Lanes(_RECEIPT, [make.event()], [make.audit()], [sighting], (None,)))]


def _chunk_seeds() -> list[bytes]:
    records = [Record(10 + n, b"k" if n % 2 else None, b"v" * n if n else None, 7) for n in range(4)]
    return [encode_chunk(Chunk("flow", "topic", 1, 10, 20, 5, records)), encode_chunk(Chunk("", "", 0, 0, 0, 0, []))]


def _batch_seeds() -> list[bytes]:
    window = WindowAck("flow", "fleet", 10, b"key", 2, True)
    return [encode_batch(Batch([Outgoing(b"k", b"v", (("h", b"x"),))], (_RECEIPT,), (window,)))]


def _fleet_seeds() -> list[bytes]:
    aggregate = make.aggregate()
    return [Fleet.of(aggregate, Sketch.from_aggregate(aggregate)).to_bytes(), b"[" * 100_000, b"{}\n", b"1e999\n"]


def _json(*more: object) -> list[bytes]:
    """JSON that parsers choke on."""
    deep = b"[" * 100_000 + b"]" * 100_000
    hard = [
        deep,
        b'{"a":' * 50_000,
        b"NaN",
        b"9" * 10_000,
        b'{"a":1,"a":2}',
        b'"\\ud800"',
        b"\xff",
        b"",
        b"null",
        b"[]",
    ]
    return [json.dumps(each).encode() for each in more] + hard


# --- files -----------------------------------------------------------------------------------------------------------


def _container(data: bytes) -> None:
    file = io.BytesIO(data)
    try:
        read_header(file)
    finally:
        for record in read(io.BytesIO(data)):
            encode(record)


def _toml(data: bytes) -> None:
    read_toml(EdgeConfig, data, "edge.toml", environ={"HOME": "/nowhere"})


_TOML = b"""
[edge]
id = "edge-1"
state_dir = "state"
[kafka]
bootstrap_servers = "127.0.0.1:9092"
[model]
path = "${HOME}/model"
[audit]
rate = 0.2
[status]
every = "500ms"
[[device]]
id = "pump-1"
sensor = { path = "r.avro", kind = "recorded", speed = "10x" }
"""


def _spool(data: bytes) -> None:
    owner = frames.Owner.of(data)
    seed = owner.seed() if owner is not None else 7
    for _ in zip(frames.frames(data, Priority.URGENT, seed, 0), range(10_000), strict=False):
        pass
    frames.read_slots(data, seed)


def _spool_seeds() -> list[bytes]:
    owner = frames.Owner(b"n" * 16, Priority.URGENT, 0)
    parcels = b"".join(frames.frame(pack(make.event(seq=n)), n, owner.seed()) for n in range(3))
    return [owner.packed() + parcels, parcels, frames.slot(3, 9, 7).ljust(frames.SLOT_APART, b"\0")]


def _table(ending: str) -> Callable[[bytes], None]:
    def parse(data: bytes) -> None:
        from deploy.importing.importer import import_files
        from deploy.importing.wanted import Wanted

        folder = Path(tempfile.mkdtemp(prefix="tidegate-hostile-"))
        try:
            path = folder / f"pump{ending}"
            path.write_bytes(data)
            import_files([path], None, Wanted(step_us=1000.0))
        finally:
            shutil.rmtree(folder)

    return parse


def _csv_seeds() -> list[bytes]:
    rows = "".join(f"2024-01-01 00:00:{n:02d},{n}.5,{n},0\n" for n in range(20))
    return [
        ("time,flow,temp,label\n" + rows).encode(),
        ("zeit;druck\n" + "01.02.2024 10:00:00;1,5\n" * 5).encode("latin-1"),
        b"\xff\xfea\0,\0b\0\n\0",
        b'"' * 1000,
        b"a," * 5000 + b"\n" + b"1," * 5000,
        b"\0" * 100,
        b"",
    ]


def _npy(array: Any, **how: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **how)
    return out.getvalue()


def _npy_seeds() -> list[bytes]:
    whole = _npy(np.arange(40, dtype="<f4").reshape(20, 2))
    at = whole.index(b"(20, 2)")
    return [
        whole,
        whole[:at] + b"(2**9,)" + whole[at + 7 :],
        _npy(np.asfortranarray(np.zeros((4, 3)))),
        _npy(np.array([{"code": 1}], object), allow_pickle=True),
        _npy(np.zeros(3, [("t", "<M8[us]"), ("v", "<f4")])),
    ]


def _npz_seeds() -> list[bytes]:
    out = io.BytesIO()
    np.savez_compressed(out, t=np.arange(20), values=np.zeros((20, 2), "<f4"))
    return [out.getvalue(), b"PK\x05\x06" + bytes(18)]


def _parquet_seeds() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table({"t": list(range(20)), "flow": [float(n) for n in range(20)]}), out)
    return [out.getvalue(), b"PAR1" + bytes(20) + b"PAR1"]


# --- requests --------------------------------------------------------------------------------------------------------


def _http(data: bytes) -> None:
    answer = respond(data, {"/livez": lambda: Page(b"alive\n")})
    assert answer is None or answer.startswith(b"HTTP/1.1 ")
    assert answer is not None or len(data) < MAX_REQUEST_BYTES


_EVIDENCE = Evidence(device_id="pump-1", model_name="tiny", thresholds_version=1, at_us=5, event_ids=("pump-1:1:1",))
_BOTH = (ConfigError, DecodeError)

TARGETS: dict[str, Target] = {
    "record": Target(_record, (DecodeError,), lambda: [encode(sample()) for sample in SAMPLES.values()]),
    "sketch": Target(
        _bins, (), lambda: [make.aggregate().bins, *(case.data for case in avro.sketch_bins())], 256 * 1024
    ),
    "feedback": Target(
        _feedback,
        (DecodeError,),
        lambda: [encode(r) for r in (thresholds(), model_update()[0], *cut(model_update()[1]))],
    ),
    "manifest": Target(
        lambda data: parse_manifest(data),
        (ModelError,),
        lambda: [edge_model.package().manifest_bytes, *_json()],
        MAX_MANIFEST_BYTES,
    ),
    "offer": Target(_offer, (UpdateRefused,), lambda: [model_update()[0].manifest, *_json()], MAX_MANIFEST_BYTES),
    "artifact": Target(_chunks, (), lambda: [np.array([0, 2, 100, 1, 2, 100], "<i8").tobytes() + b"x" * 64]),
    "lanes": Target(lambda data: LanesCoder().decode(data), (DecodeError,), _lanes_seeds),
    "chunk": Target(lambda data: decode_chunk(data), (DecodeError,), _chunk_seeds),
    "batch": Target(lambda data: decode_batch(data), (DecodeError,), _batch_seeds),
    "fleet": Target(lambda data: Fleet.from_bytes(data), (DecodeError,), _fleet_seeds),
    "evidence": Target(
        lambda data: Evidence.from_bytes(data), (DecodeError,), lambda: [_EVIDENCE.to_bytes(), *_json()]
    ),
    "device_state": Target(
        lambda data: DeviceState.from_bytes(data), (DecodeError,), lambda: [DeviceState().to_bytes(), *_json()]
    ),
    "commit_note": Target(
        lambda data: CommitNote.parse(data.decode(errors="replace")),
        (DecodeError,),
        lambda: [str(CommitNote(7, {"fleet": 5}, "a:1")).encode(), *_json({"v": 1, "p": 1e999, "h": {}})],
        4096,
    ),
    "container": Target(
        _container,
        (DecodeError,),
        lambda: [avro.container([sample()] * 3, codec) for sample in SAMPLES.values() for codec in ("null", "deflate")],
        16 * MIB,
    ),
    "config": Target(_toml, (ConfigError,), lambda: [_TOML], MAX_CONFIG_BYTES),
    "spool": Target(_spool, (), _spool_seeds),
    "trace": Target(
        lambda data: tracing.parse(data), (), lambda: [b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]
    ),
    "event_id": Target(
        lambda data: Identity.parse(data.decode(errors="replace")), (DecodeError,), lambda: [b"pump-7:3:1042"]
    ),
    "http": Target(_http, (), lambda: [b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"HEAD /x?y HTTP/1.0\n\n"]),
    "csv": Target(_table(".csv"), _BOTH, _csv_seeds, 4 * MIB),
    "npy": Target(_table(".npy"), _BOTH, _npy_seeds, 4 * MIB),
    "npz": Target(_table(".npz"), _BOTH, _npz_seeds, 4 * MIB),
    "parquet": Target(_table(".parquet"), _BOTH, _parquet_seeds, 4 * MIB),
}


def outcome(target: Target, data: bytes) -> str:
    """What became of an input: "taken", or the name of the error it was refused with. Raises what must not be."""
    try:
        target.parse(data)
    except target.refuses as refused:
        return _named(refused)
    return "taken"


def _named(refused: Exception) -> str:
    """The family of an error, which must be ours and have something to say."""
    if not isinstance(refused, TidegateError) or not str(refused):
        raise TypeError(f"not an error of ours: {type(refused).__name__}") from refused
    return type(refused).__name__
