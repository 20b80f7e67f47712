"""Packages out of a recording: only what is whole, is what was announced, and stays where it is put."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from deploy.recording.packages import packages_in
from schemas.artifacts import cut
from schemas.errors import ConfigError
from schemas.manifest import load_package
from schemas.records import ArtifactChunk, ModelUpdate
from tests.doubles import one_event as one
from tests.doubles.tiny_model import package_files


def announced(files: dict[str, bytes]) -> ModelUpdate:
    manifest = files["manifest.json"]
    named = json.loads(manifest)
    return ModelUpdate(
        model_name=named["name"],
        version=named["version"],
        cohort=named["cohort"],
        manifest=manifest,
        manifest_sha256=hashlib.sha256(manifest).digest(),
        issued_at=1,
        expires_at=2,
    )


def chunks(files: dict[str, bytes]) -> list[ArtifactChunk]:
    return [chunk for name, data in files.items() if name != "manifest.json" for chunk in cut(data)]


def test_every_version_that_was_published_is_found_byte_for_byte(tmp_path: Path) -> None:
    versions = [package_files(version=v, heavy_gain=float(v)) for v in (1, 2)]
    records = [record for files in versions for record in (*chunks(files), announced(files))]
    found = packages_in(one.write_folder(tmp_path / "run", records), tmp_path / "out")
    for files, folder in zip(versions, found, strict=True):
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
        load_package(lambda name, folder=folder: (folder / name).read_bytes(), ("edge", "heavy"))  # type: ignore[misc]


def test_a_package_with_a_missing_file_is_no_package(tmp_path: Path) -> None:
    files = package_files(heavy_gain=2.0)
    folder = one.write_folder(tmp_path / "run", [*chunks(files)[:1], announced(files)])
    with pytest.raises(ConfigError, match="the recording holds no model package"):
        packages_in(folder, tmp_path / "out")


@pytest.mark.parametrize("name", ["../../evil.onnx", "/tmp/evil.onnx", "..", "manifest.json", "sub/edge.onnx"])
def test_a_name_from_outside_does_not_choose_where_a_file_goes(tmp_path: Path, name: str) -> None:
    files = package_files()
    manifest = json.loads(files["manifest.json"])
    manifest["edge"]["file"] = name
    hostile = files | {"manifest.json": json.dumps(manifest).encode()}
    folder = one.write_folder(tmp_path / "run", [*chunks(files), announced(hostile)])
    with pytest.raises(ConfigError):
        packages_in(folder, tmp_path / "a" / "b" / "out")
    assert not list(tmp_path.rglob("evil.onnx"))
