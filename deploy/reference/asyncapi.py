"""The topic catalogue as an AsyncAPI document. https://www.asyncapi.com/docs/reference/specification/v3.1.0

AsyncAPI's own tool checks it, with Avro schemas and Kafka bindings: `asyncapi validate docs/reference/asyncapi.json`.
"""

from __future__ import annotations

import json
from typing import Any

from schemas import topics
from schemas.codec import BOOK
from schemas.topics import CATALOGUE, Topic

_AVRO = "application/vnd.apache.avro;version=1.11.0"
#: Beginning of the topics that edges write; the others are the pipeline's.
_EDGE = "edge."
#: What each side reads. The others are for people and for `tidegate ledger`, `explain` and `dlq`.
RECEIVES = {
    "edge": (topics.THRESHOLDS, topics.MODELS, topics.ARTIFACTS, topics.CLAIMS),
    "pipeline": (
        *(topics.EVENTS, topics.AGGREGATES, topics.SAMPLES, topics.SEEN),
        *(topics.THRESHOLDS, topics.MODELS, topics.ARTIFACTS),  # what it has said itself, after a restart
    ),
}


def page() -> str:
    """The document as JSON."""
    return json.dumps(document(), indent=1) + "\n"


def document() -> dict[str, Any]:
    """The document: a channel per topic, and what edges and pipelines send and receive."""
    return {
        "asyncapi": "3.1.0",
        "info": {
            "title": "Tidegate topics",
            "version": "1",
            "description": "What edge filters and pipelines tell each other. Values are Avro in single-object framing.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "avro/binary",
        "servers": {"local": {"host": "127.0.0.1:9092", "protocol": "kafka", "description": "Of `tidegate up`."}},
        "channels": {t.name: _channel(t) for t in CATALOGUE},
        "operations": {name: body for t in CATALOGUE for name, body in _operations(t)},
        "components": {"messages": {t.record.__name__: _message(t) for t in CATALOGUE}},
    }


def _channel(topic: Topic) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if topic.compacted:
        config["cleanup.policy"] = ["compact"]
        config["delete.retention.ms"] = int(topic.config["delete.retention.ms"])
    if "retention.ms" in topic.config:
        config["retention.ms"] = int(topic.config["retention.ms"])
    name = topic.record.__name__
    return {
        "address": topic.name,
        "description": topic.doc,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {
            "kafka": {"partitions": topic.partitions, "topicConfiguration": config, "bindingVersion": "0.5.0"}
        },
    }


def _operations(topic: Topic) -> list[tuple[str, dict[str, Any]]]:
    channel = {"$ref": f"#/channels/{topic.name}"}
    writer = "edge" if topic.name.startswith(_EDGE) else "pipeline"
    sent = (f"{writer}.send.{topic.name}", {"action": "send", "channel": channel})
    received = {"action": "receive", "channel": channel}
    return [sent, *((f"{who}.receive.{topic.name}", received) for who, heard in RECEIVES.items() if topic in heard)]


def _message(topic: Topic) -> dict[str, Any]:
    schema = BOOK.newest(topic.record).source
    return {
        "name": topic.record.__name__,
        "summary": schema["doc"],
        "payload": {"schemaFormat": _AVRO, "schema": schema},
        "bindings": {
            "kafka": {"key": {"type": "string", "description": topic.key}, "bindingVersion": "0.5.0"},
        },
    }
