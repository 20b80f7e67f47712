from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.io.models import FolderShelf, Shelves
from schemas import topics
from schemas.artifacts import cut
from schemas.codec import encode
from schemas.records import ArtifactChunk, ModelUpdate, TargetKind, ThresholdUpdate
from tests.doubles.tiny_model import package_files, write_package

ARTIFACTS, MODELS, THRESHOLDS = topics.ARTIFACTS.name, topics.MODELS.name, topics.THRESHOLDS.name


class Release:
    """A package as it is on the wire."""

    def __init__(self, **changes: Any) -> None:
        self.files = package_files(**changes)
        self.manifest = self.files["manifest.json"]
        self.sha256 = hashlib.sha256(self.manifest).digest()
        said = json.loads(self.manifest)
        self.name, self.version, self.cohort = said["name"], said["version"], said["cohort"]
        self.chunks = [c for name in ("edge.onnx", "heavy.onnx") for c in cut(self.files[name])]

    def update(self, **changes: Any) -> ModelUpdate:
        fields: dict[str, Any] = {
            "model_name": self.name,
            "version": self.version,
            "cohort": self.cohort,
            "manifest": self.manifest,
            "manifest_sha256": self.sha256,
            "issued_at": 1,
            "expires_at": 2,
        }
        return ModelUpdate(**fields | changes)


def send_files(shelves: Shelves, release: Release) -> None:
    for chunk in release.chunks:
        shelves.take(ARTIFACTS, encode(chunk))


def send_update(shelves: Shelves, release: Release, **changes: Any) -> None:
    shelves.take(MODELS, encode(release.update(**changes)))


def in_force(shelves: Shelves, name: str = "tiny") -> bytes | None:
    scorer = shelves.heavy(name)
    return scorer and scorer.package.sha256


def thresholds(version: int, target: str = "pump-1", **changes: Any) -> ThresholdUpdate:
    fields: dict[str, Any] = {
        "target": target,
        "target_kind": TargetKind.DEVICE,
        "version": version,
        "model_name": "tiny",
        "escalate_at": 1.0,
        "raise_at": 2.0,
        "clear_at": 0.5,
        "issued_at": 1,
        "expires_at": 2,
        "reason": "",
        "evidence": [],
        "evidence_count": 0,
    }
    return ThresholdUpdate(**fields | changes)


@pytest.mark.parametrize("first", ["files", "update"])
def test_a_model_is_in_force_once_update_and_files_are_there_in_either_order(first: str) -> None:
    shelves, release = Shelves(), Release()
    steps: list[Callable[[Shelves, Release], None]] = [send_files, send_update]
    for step in steps if first == "files" else steps[::-1]:
        assert shelves.heavy("tiny") is None
        step(shelves, release)
    assert in_force(shelves) == release.sha256
    assert shelves.refused == []
    scorer = shelves.heavy("tiny")
    assert scorer is not None
    assert scorer.score(np.full((1, 8, 2), 3.0, np.float32), ["x"]).tolist() == pytest.approx([3.0])


def test_chunks_may_come_in_any_order_and_twice() -> None:
    shelves, release = Shelves(), Release()
    send_update(shelves, release)
    data = release.files["heavy.onnx"]
    third = len(data) // 3
    pieces = [data[:third], data[third : 2 * third], data[2 * third :]]
    sha256 = hashlib.sha256(data).digest()
    for index in (2, 0, 2, 0, 1):
        piece = ArtifactChunk(sha256=sha256, index=index, count=3, total_bytes=len(data), data=pieces[index])
        assert shelves.heavy("tiny") is None
        shelves.take(ARTIFACTS, encode(piece))
    assert in_force(shelves) == release.sha256


def test_a_corrupt_chunk_is_refused_and_sending_the_file_again_heals_it() -> None:
    shelves, release = Shelves(), Release(heavy_gain=3.0)
    send_update(shelves, release)
    for chunk in cut(release.files["heavy.onnx"]):
        bad = ArtifactChunk(
            sha256=chunk.sha256, index=0, count=1, total_bytes=chunk.total_bytes, data=b"\0" * len(chunk.data)
        )
        shelves.take(ARTIFACTS, encode(bad))
    assert shelves.heavy("tiny") is None
    assert shelves.refused == [f"{ARTIFACTS}: the chunks do not add up to the hash they were sent under"]
    send_files(shelves, release)
    assert in_force(shelves) == release.sha256


def test_a_newer_version_takes_its_place_and_an_older_one_never_does(caplog: pytest.LogCaptureFixture) -> None:
    shelves = Shelves()
    old, new = Release(version=1), Release(version=2, heavy_gain=2.0)
    for release in (old, new):
        send_files(shelves, release)
        send_update(shelves, release)
        assert in_force(shelves) == release.sha256
    with caplog.at_level(logging.WARNING):
        send_files(shelves, old)
        send_update(shelves, old)
    assert in_force(shelves) == new.sha256
    assert shelves.refused == [
        f"{MODELS}: the model is not newer than the one in force (model='tiny', version=1, have=2)"
    ]
    assert "what was in force stays" in caplog.text


def test_an_older_version_does_not_push_out_a_newer_one_that_waits_for_its_files() -> None:
    shelves = Shelves()
    old, new = Release(version=1), Release(version=2, heavy_gain=2.0)
    send_update(shelves, new)
    send_files(shelves, old)
    send_update(shelves, old)
    assert shelves.heavy("tiny") is None
    send_files(shelves, new)
    assert in_force(shelves) == new.sha256


def test_the_same_update_again_changes_and_refuses_nothing() -> None:
    shelves, release = Shelves(), Release()
    send_files(shelves, release)
    send_update(shelves, release)
    scorer = shelves.heavy("tiny")
    send_files(shelves, release)
    send_update(shelves, release)
    assert shelves.heavy("tiny") is scorer
    assert shelves.refused == []


def test_other_content_under_the_same_version_is_refused() -> None:
    shelves, release, other = Shelves(), Release(version=3), Release(version=3, heavy_gain=2.0)
    for each in (release, other):
        send_files(shelves, each)
        send_update(shelves, each)
    assert in_force(shelves) == release.sha256
    assert "not newer than the one in force" in shelves.refused[0]


def broken(release: Release, **manifest: Any) -> Release:
    said = json.loads(release.manifest)
    said["heavy"] |= manifest.pop("heavy", {})
    release.manifest = json.dumps(said | manifest).encode()
    release.sha256 = hashlib.sha256(release.manifest).digest()
    return release


NO_MODEL = b"this is no ONNX file"
BROKEN: dict[str, tuple[Callable[[], tuple[Release, dict[str, Any]]], str]] = {
    "fails its self-test": (
        lambda: (broken(Release(version=2), heavy={"self_test": {"windows": [[[1.0] * 2] * 8], "scores": [9.0]}}), {}),
        "the model fails its self-test",
    ),
    "wrong output": (
        lambda: (broken(Release(version=2), heavy={"output": "nothing"}), {}),
        "the model has no such output",
    ),
    "wrong size": (
        lambda: (broken(Release(version=2), heavy={"bytes": 7}), {}),
        "a file of the package is not the one its manifest names",
    ),
    "announced under another hash": (
        lambda: (Release(version=2), {"manifest_sha256": b"x" * 32}),
        "the manifest is not the one that was announced",
    ),
    "announced as another version": (
        lambda: (Release(version=2), {"version": 9}),
        "the manifest says something else than its update (model='tiny', version=9, manifest='tiny 2 for pumps')",
    ),
    "announced under another name": (
        lambda: (Release(version=2, name="other"), {"model_name": "tiny"}),
        "the manifest says something else than its update",
    ),
    "no manifest": (
        lambda: (
            Release(version=2),
            {"manifest": b"{", "manifest_sha256": hashlib.sha256(b"{").digest()},
        ),
        "manifest is not valid",
    ),
    "no model": (
        lambda: (
            broken(
                Release(version=2),
                heavy={"sha256": hashlib.sha256(NO_MODEL).hexdigest(), "bytes": len(NO_MODEL)},
            ),
            {},
        ),
        "onnxruntime cannot load the model",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_model_is_refused_and_the_old_one_stays_in_force(kind: str) -> None:
    make, sentence = BROKEN[kind]
    shelves, good = Shelves(), Release(version=1)
    send_files(shelves, good)
    send_update(shelves, good)
    bad, changes = make()
    send_files(shelves, bad)
    for chunk in cut(NO_MODEL):
        shelves.take(ARTIFACTS, encode(chunk))
    send_update(shelves, bad, **changes)
    assert in_force(shelves) == good.sha256
    assert len(shelves.refused) == 1
    assert sentence in shelves.refused[0]
    better = Release(version=2, heavy_gain=5.0)
    send_files(shelves, better)
    send_update(shelves, better)
    assert in_force(shelves) == better.sha256


@pytest.mark.parametrize("topic", [ARTIFACTS, MODELS, THRESHOLDS])
@pytest.mark.parametrize("payload", [b"", b"junk", b"\xc3\x01" + b"\xff" * 2_000, encode(Release().update())[:-3]])
def test_whatever_a_topic_holds_is_refused_and_nothing_is_raised(topic: str, payload: bytes) -> None:
    shelves = Shelves()
    shelves.take(topic, payload)
    assert len(shelves.refused) == 1
    assert shelves.refused[0].startswith(f"{topic}: ")


def test_only_the_last_hundred_refusals_are_kept() -> None:
    shelves = Shelves()
    for _ in range(150):
        shelves.take(MODELS, b"junk")
    assert len(shelves.refused) == 100


@pytest.mark.parametrize("first", ["a then b", "both wait"])
def test_two_models_that_share_a_file_both_come_into_force(first: str) -> None:
    """The topic holds the file once: it is addressed by its hash."""
    shelves = Shelves()
    a, b = Release(name="a"), Release(name="b", heavy_threshold=5.0)
    assert a.files["heavy.onnx"] == b.files["heavy.onnx"]
    if first == "a then b":
        send_files(shelves, a)
        send_update(shelves, a)
        send_update(shelves, b)
    else:
        send_update(shelves, a)
        send_update(shelves, b)
        send_files(shelves, a)
    assert in_force(shelves, "a") == a.sha256
    assert in_force(shelves, "b") == b.sha256


def test_of_thresholds_the_newest_version_of_each_target_counts() -> None:
    shelves = Shelves()
    for version in (2, 3, 1, 3):
        shelves.take(THRESHOLDS, encode(thresholds(version)))
    shelves.take(THRESHOLDS, encode(thresholds(1, "pump-2")))
    found = [shelves.thresholds(target) for target in ("pump-1", "pump-2", "pump-3")]
    assert [update and update.version for update in found] == [3, 1, None]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"escalate_at": float("nan")}, "thresholds must be finite and satisfy clear_at <= escalate_at <= raise_at"),
        ({"raise_at": 0.5}, "thresholds must be finite and satisfy clear_at <= escalate_at <= raise_at"),
        ({"version": 2**62 + 1}, "the version leaves no room for newer ones"),
    ],
)
def test_thresholds_that_no_edge_would_obey_are_refused(changes: dict[str, Any], sentence: str) -> None:
    shelves = Shelves()
    shelves.take(THRESHOLDS, encode(thresholds(1)))
    shelves.take(THRESHOLDS, encode(thresholds(**{"version": 5} | changes)))
    found = shelves.thresholds("pump-1")
    assert found is not None
    assert found.version == 1
    assert sentence in shelves.refused[0]


def test_models_from_folders_are_there_at_once_and_thresholds_are_the_defaults(tmp_path: Path) -> None:
    shelf = FolderShelf([str(write_package(tmp_path / x, name=x)) for x in "ab"])
    assert shelf.heavy("a") is not None
    assert shelf.heavy("b") is not None
    assert shelf.heavy("c") is None
    assert shelf.thresholds("pump-1") is None
