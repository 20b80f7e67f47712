"""The page on topics and their records, from the catalogue and the .avsc files."""

from __future__ import annotations

from typing import Any

from schemas.codec import BOOK
from schemas.topics import CATALOGUE, Topic

_HEAD = """\
# Topics

Made from `schemas/topics.py` and `schemas/avro/` by `make docs`; [asyncapi.json](asyncapi.json) says the same to
machines, and `asyncapi validate docs/reference/asyncapi.json` checks it: AsyncAPI's own tool, which
`npm install @asyncapi/cli` puts into a folder elsewhere. A value is an Avro record in single-object framing: the bytes
C3 01, the schema's fingerprint (CRC-64-AVRO, 8 bytes, little-endian), the body. `--kafka_topic_prefix` and
`[kafka] topic_prefix` put a prefix before every name.

| topic | record | key | partitions | kept |
|---|---|---|---|---|
"""


def page() -> str:
    """Markdown: the list, then a section per topic with the fields of its record."""
    rows = [
        f"| [{t.name}](#{t.name.replace('.', '')}) | {t.record.__name__} | {t.key} | {t.partitions} | {_kept(t)} |"
        for t in CATALOGUE
    ]
    return _HEAD + "\n".join(rows) + "\n\n" + "\n".join(_section(t) for t in CATALOGUE)


def _kept(topic: Topic) -> str:
    if topic.compacted:
        return "the latest per key"
    return f"{int(topic.config['retention.ms']) // 86_400_000} days"


def _section(topic: Topic) -> str:
    schema = BOOK.newest(topic.record).source
    lines = [f"## {topic.name}", "", topic.doc, "", f"`{topic.record.__name__}`: {schema['doc']}", ""]
    lines += ["| field | type | meaning |", "|---|---|---|"]
    lines += [f"| `{f['name']}` | {_type(f['type'])} | {_words(f.get('doc', ''))} |" for f in schema["fields"]]
    settings = ", ".join(f"`{name}={value}`" for name, value in sorted(topic.config.items()))
    return "\n".join([*lines, "", f"Settings: {settings}.", ""])


def _words(text: str) -> str:
    return text.replace("|", "\\|")


def _type(kind: Any) -> str:
    if isinstance(kind, list):
        return " or ".join(_type(part) for part in kind)
    if isinstance(kind, str):
        return kind
    logical = kind.get("logicalType")
    if logical:
        return f"{kind['type']} ({logical})"
    if kind["type"] == "array":
        return f"array of {_type(kind['items'])}"
    if kind["type"] == "map":
        return f"map of {_type(kind['values'])}"
    if kind["type"] == "enum":
        return "enum: " + ", ".join(kind["symbols"])
    if kind["type"] == "fixed":
        return f"fixed, {kind['size']} bytes"
    return str(kind["type"])
