from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import onnx
import pytest

from edge_filters.assemble import build_scorer
from edge_filters.updates import HashTrust, ModelUpdates
from schemas.artifacts import CHUNK_BYTES, cut
from schemas.errors import ModelError, UpdateRefused
from schemas.records import ArtifactChunk, ModelUpdate
from tests.doubles import edge_model
from tests.doubles.edge_parts import T0, model_update


@pytest.fixture
def updates() -> ModelUpdates:
    return ModelUpdates(edge_model.package(), "pumps", ["a", "b"], HashTrust())


def feed(updates: ModelUpdates, data: bytes) -> None:
    for chunk in cut(data):
        updates.add(chunk)


def test_an_update_is_a_candidate_once_its_file_is_there(updates: ModelUpdates) -> None:
    update, data = model_update(gain=2.0)
    assert updates.offer(update, T0)
    assert updates.wanted == cut(data)[0].sha256
    assert updates.candidate() is None
    feed(updates, data)
    assert updates.wanted is None
    candidate = updates.candidate()
    assert candidate is not None
    assert candidate.package.manifest.version == 2
    assert build_scorer(candidate.package).manifest.version == 2
    assert updates.candidate() is None


def test_the_same_update_again_is_ignored_while_it_waits_while_it_is_built_and_once_it_runs(
    updates: ModelUpdates,
) -> None:
    update, data = model_update(gain=2.0)
    assert updates.offer(update, T0)
    assert not updates.offer(update, T0)
    feed(updates, data)
    candidate = updates.candidate()
    assert candidate is not None
    assert not updates.offer(update, T0)
    updates.installed(candidate.package)
    assert not updates.offer(update, T0)


def test_an_update_for_another_model_or_cohort_is_none_of_our_business(updates: ModelUpdates) -> None:
    assert not updates.offer(model_update(name="other")[0], T0)
    assert not updates.offer(model_update(cohort="fans")[0], T0)


def test_a_newer_update_replaces_the_one_that_waits(updates: ModelUpdates) -> None:
    assert updates.offer(model_update(2, gain=2.0)[0], T0)
    newer, data = model_update(3, gain=3.0)
    assert updates.offer(newer, T0)
    feed(updates, data)
    candidate = updates.candidate()
    assert candidate is not None
    assert candidate.update == newer


def test_chunks_may_come_twice_and_in_any_order_and_for_files_that_nobody_wants(updates: ModelUpdates) -> None:
    update, data = model_update(gain=2.0)
    updates.offer(update, T0)
    feed(updates, b"x" * (CHUNK_BYTES + 1))
    feed(updates, data)
    feed(updates, data)
    assert updates.candidate() is not None


def test_chunks_of_a_file_in_several_pieces_are_put_together_in_any_order(updates: ModelUpdates) -> None:
    # a real model of more than one chunk: the tiny one with a long doc string
    files = edge_model.files(version=2)
    model = onnx.load_from_string(files["edge.onnx"])
    model.doc_string = "x" * (2 * CHUNK_BYTES)
    data = bytes(model.SerializeToString())
    manifest = json.loads(files["manifest.json"])
    manifest["edge"] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    raw = json.dumps(manifest).encode()
    update = replace(model_update()[0], manifest=raw, manifest_sha256=hashlib.sha256(raw).digest())
    updates.offer(update, T0)
    chunks = cut(data)
    assert len(chunks) == 3
    for chunk in reversed(chunks):
        assert updates.candidate() is None
        updates.add(chunk)
    assert updates.candidate() is not None


def test_chunks_that_do_not_make_the_file_drop_the_update(updates: ModelUpdates) -> None:
    update, data = model_update(gain=2.0)
    updates.offer(update, T0)
    (chunk,) = cut(data)
    forged = ArtifactChunk(sha256=chunk.sha256, index=0, count=1, total_bytes=chunk.total_bytes, data=b"x" * len(data))
    with pytest.raises(UpdateRefused, match="the chunks do not add up to the hash they were sent under"):
        updates.add(forged)
    assert updates.pending is None


def refusal(updates: ModelUpdates, update: ModelUpdate, now_us: int = T0) -> str:
    with pytest.raises(UpdateRefused) as refused:
        updates.offer(update, now_us)
    assert updates.pending is None
    return str(refused.value)


def test_a_manifest_with_another_hash_is_refused_before_it_is_parsed(updates: ModelUpdates) -> None:
    update = replace(model_update()[0], manifest=b"{not json")
    assert refusal(updates, update).startswith(
        "the manifest is not the one that was announced (model='tiny', version=2"
    )


def test_an_expired_update_is_refused(updates: ModelUpdates) -> None:
    sentence = refusal(updates, model_update(expires_at=T0)[0], T0 + 1_000_000)
    assert sentence == "model update is expired (model='tiny', version=2, late_by_s=1.0)"


def test_an_older_version_is_refused(updates: ModelUpdates) -> None:
    sentence = refusal(updates, model_update(1, gain=5.0)[0])
    assert sentence == "model is not newer than the one that runs or is on its way (model='tiny', version=1, have=1)"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"channels": ("a", "c")},
            "model does not fit the device: other channels (model='tiny', version=2, want=['a', 'b'], got=['a', 'c'])",
        ),
        (
            {"update": {"version": 3}},
            "the manifest says something else than its update (model='tiny', version=3, manifest='tiny 2 for pumps')",
        ),
    ],
)
def test_what_does_not_fit_is_refused(updates: ModelUpdates, changes: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(updates, model_update(**changes)[0])


def test_a_manifest_that_is_not_one_is_refused(updates: ModelUpdates) -> None:
    raw = b'{"name": "tiny"}'
    update = replace(model_update()[0], manifest=raw, manifest_sha256=hashlib.sha256(raw).digest())
    assert "manifest is not valid: Field required at $.version" in refusal(updates, update)


def test_a_model_that_fails_its_own_test_never_becomes_a_scorer() -> None:
    with pytest.raises(ModelError, match="the model fails its self-test"):
        build_scorer(edge_model.package(self_test_gain=3.0))
