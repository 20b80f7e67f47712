"""Configurations with plug-ins of a module `own`; the fixture of that name makes it."""

from __future__ import annotations

from pathlib import Path

from edge_filters.config import EdgeConfig, read_config

VALID = """
[edge]
state_dir = "state"
[kafka]
bootstrap_servers = "127.0.0.1:9092"
[model]
path = "model"
"""
DEVICE = '[[device]]\nid = "pump-7"\nsensor = { kind = "recorded", path = "r.avro" }\n'


def config(folder: Path, text: str) -> EdgeConfig:
    (folder / "edge.toml").write_text(text)
    return read_config(folder / "edge.toml", {})
